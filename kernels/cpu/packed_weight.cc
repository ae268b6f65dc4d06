#include "kernels/cpu/packed_weight.h"

#include <cstring>

#include "kernels/base/log.h"

namespace tessera::cpu {
namespace {

float ReadFloat(const WeightView& view, int64_t index) {
  switch (view.dtype) {
    case DType::kBF16:
      return BF16ToFloat(static_cast<const BF16*>(view.data)[index]);
    case DType::kF16:
      return F16ToFloat(static_cast<const F16*>(view.data)[index]);
    default:
      return static_cast<const float*>(view.data)[index];
  }
}

BF16 ReadBF16(const WeightView& view, int64_t index) {
  if (view.dtype == DType::kBF16) return static_cast<const BF16*>(view.data)[index];
  return FloatToBF16(ReadFloat(view, index));
}

// Output `lane` of a panel from row `row` of `view`.
void PackLane(const WeightView& view, int64_t row, DType dtype, int lane, char* panel) {
  const int64_t begin = row * view.cols;
  if (dtype == DType::kBF16) {
    BF16* const out = reinterpret_cast<BF16*>(panel);
    for (int64_t k = 0; k < view.cols; ++k) {
      out[(k / 2 * kPanel + lane) * 2 + k % 2] = ReadBF16(view, begin + k);
    }
    return;
  }
  float* const out = reinterpret_cast<float*>(panel);
  for (int64_t k = 0; k < view.cols; ++k) out[k * kPanel + lane] = ReadFloat(view, begin + k);
}

struct Source {
  int part = 0;
  int64_t row = 0;
};

// Where output `lane` of `panel` comes from; part -1: padding.
Source FindSource(const std::vector<WeightView>& parts, bool gated, int64_t panel, int lane) {
  if (gated) {
    const int64_t row = panel / 2 * kPanel + lane;
    return row < parts[0].rows ? Source{static_cast<int>(panel % 2), row} : Source{-1, 0};
  }
  int64_t row = panel * kPanel + lane;
  for (size_t part = 0; part < parts.size(); ++part) {
    if (row < parts[part].rows) return {static_cast<int>(part), row};
    row -= parts[part].rows;
  }
  return {-1, 0};
}

}  // namespace

std::unique_ptr<CpuWeight> CpuWeight::Create(const std::vector<WeightView>& parts, DType dtype,
                                             bool gated, ThreadTeam* team) {
  CHECK(!parts.empty());
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  std::unique_ptr<CpuWeight> weight(new CpuWeight);
  weight->dtype_ = dtype;
  weight->gated_ = gated;
  weight->cols_ = parts[0].cols;
  for (const WeightView& part : parts) {
    CHECK_EQ(part.cols, weight->cols_);
    weight->rows_ += part.rows;
  }
  if (gated) {
    CHECK_EQ(parts.size(), size_t{2});
    CHECK_EQ(parts[0].rows, parts[1].rows);
  }
  weight->num_panels_ =
      gated ? 2 * CeilDiv<int64_t>(parts[0].rows, kPanel) : CeilDiv<int64_t>(weight->rows_, kPanel);
  weight->buffer_ =
      HugeBuffer::Create(static_cast<size_t>(weight->num_panels_ * weight->panel_bytes()));
  if (weight->buffer_ == nullptr) return nullptr;

  char* const panels = static_cast<char*>(weight->buffer_->data());
  team->ParallelFor(weight->num_panels_, 4, [&](int64_t begin, int64_t end, int member) {
    for (int64_t panel = begin; panel < end; ++panel) {
      for (int lane = 0; lane < kPanel; ++lane) {
        const Source source = FindSource(parts, gated, panel, lane);
        if (source.part < 0) continue;
        PackLane(parts[static_cast<size_t>(source.part)], source.row, dtype, lane,
                 panels + panel * weight->panel_bytes());
      }
    }
  });
  return weight;
}

void CpuWeight::GatherRow(int64_t row, float scale, float* out) const {
  const char* const panel = panels() + row / kPanel * panel_bytes();
  const int64_t lane = row % kPanel;
  if (dtype_ == DType::kBF16) {
    const BF16* const in = reinterpret_cast<const BF16*>(panel);
    for (int64_t k = 0; k < cols_; ++k) {
      out[k] = BF16ToFloat(in[(k / 2 * kPanel + lane) * 2 + k % 2]) * scale;
    }
    return;
  }
  const float* const in = reinterpret_cast<const float*>(panel);
  for (int64_t k = 0; k < cols_; ++k) out[k] = in[k * kPanel + lane] * scale;
}

}  // namespace tessera::cpu

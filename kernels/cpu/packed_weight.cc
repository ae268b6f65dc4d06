#include "kernels/cpu/packed_weight.h"

#include <emmintrin.h>

#include <algorithm>
#include <array>

#include "kernels/base/log.h"
#include "kernels/device/footprint.h"
#include "kernels/device/quantize.h"

namespace tessera::cpu {
namespace {

static_assert(kPanel == kPackedOutputs && kCacheLine == kLineBytes,
              "kernels/device/footprint.h computes sizes with these constants");
static_assert(kLeastMaximum == kLeastRowMaximum);

// BF16 and F16 are the same C++ type. These wrappers make checkpoint elements distinct types, so
// that the inner loop is selected once per row.
struct BFloat {
  BF16 bits;
};
struct Half {
  F16 bits;
};

// Columns are packed in blocks of this size for all 16 outputs, so that the lines being filled stay
// in the first-level cache.
constexpr int64_t kPackColumns = 512;
constexpr int64_t kWordsBytes = 16;  // bytes of each row that one TransposeWords reads

float ToFloat(float value) { return value; }
float ToFloat(BFloat value) { return BF16ToFloat(value.bits); }
float ToFloat(Half value) { return F16ToFloat(value.bits); }
uint32_t ToBF16(float value) { return FloatToBF16(value); }
uint32_t ToBF16(BFloat value) { return value.bits; }
uint32_t ToBF16(Half value) { return FloatToBF16(F16ToFloat(value.bits)); }

// Packs elements [begin, end) of a row as output `lane` of a panel. REQUIRES: `begin` is even.
template <class T>
void PackElements(const T* row, int64_t begin, int64_t end, DType dtype, int lane, char* panel) {
  if (dtype == DType::kF32) {
    float* const out = reinterpret_cast<float*>(panel);
    for (int64_t k = begin; k < end; ++k) out[k * kPanel + lane] = ToFloat(row[k]);
    return;
  }
  uint32_t* const out = reinterpret_cast<uint32_t*>(panel);
  for (int64_t k = begin; k + 1 < end; k += 2) {
    out[k / 2 * kPanel + lane] = ToBF16(row[k]) | ToBF16(row[k + 1]) << 16;
  }
  if (end % 2 != 0) out[end / 2 * kPanel + lane] = ToBF16(row[end - 1]);
}

void PackLane(const WeightView& view, int64_t row, int64_t begin, int64_t end, DType dtype,
              int lane, char* panel) {
  const int64_t first = row * view.cols;
  switch (view.dtype) {
    case DType::kF32:
      return PackElements(static_cast<const float*>(view.data) + first, begin, end, dtype, lane,
                          panel);
    case DType::kBF16:
      return PackElements(static_cast<const BFloat*>(view.data) + first, begin, end, dtype, lane,
                          panel);
    case DType::kF16:
      return PackElements(static_cast<const Half*>(view.data) + first, begin, end, dtype, lane,
                          panel);
    default:
      CHECK(false) << " a weight of " << DTypeName(view.dtype) << " cannot be packed";
  }
}

// Returns the row that becomes output `lane` of `panel`.
PanelRow FindRow(const std::vector<WeightView>& parts, bool gated, int64_t panel, int lane) {
  if (gated) {
    const int64_t row = panel / 2 * kPanel + lane;
    return row < parts[0].rows ? PanelRow{&parts[static_cast<size_t>(panel % 2)], row} : PanelRow{};
  }
  int64_t row = panel * kPanel + lane;
  for (const WeightView& part : parts) {
    if (row < part.rows) return {&part, row};
    row -= part.rows;
  }
  return {};
}

// Tells the observer of each part which of the part's rows the panel reads next. Adjacent lanes of
// one part hold consecutive rows.
void TellObservers(const PanelRows& rows) {
  for (size_t begin = 0, end = 0; begin < kPanel; begin = end) {
    const PanelRow& first = rows[begin];
    end = begin + 1;
    while (end < kPanel && rows[end].part == first.part) ++end;
    if (first.part == nullptr || first.part->observer == nullptr) continue;
    first.part->observer->WillRead(first.row, first.row + static_cast<int64_t>(end - begin));
  }
}

// Transposes 4 words of 4 bytes from each of the 4 rows of lanes [lane, lane + 4): word i of each
// row goes to line i of `out`.
void TransposeWords(const std::array<const char*, kPanel>& rows, size_t lane, int64_t offset,
                    char* out) {
  const auto load = [&](size_t i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[lane + i] + offset));
  };
  const auto store = [&](int64_t line, __m128i words) {
    _mm_store_si128(reinterpret_cast<__m128i*>(out + line * kCacheLine), words);
  };
  const __m128i low01 = _mm_unpacklo_epi32(load(0), load(1));
  const __m128i low23 = _mm_unpacklo_epi32(load(2), load(3));
  const __m128i high01 = _mm_unpackhi_epi32(load(0), load(1));
  const __m128i high23 = _mm_unpackhi_epi32(load(2), load(3));
  store(0, _mm_unpacklo_epi64(low01, low23));
  store(1, _mm_unpackhi_epi64(low01, low23));
  store(2, _mm_unpacklo_epi64(high01, high23));
  store(3, _mm_unpackhi_epi64(high01, high23));
}

// Packs the columns that fill whole cache lines of the rows, and returns their number; returns 0 if
// a row is stored in another type than `dtype`. Rows of that type are moved in words of 4 bytes
// without arithmetic.
int64_t PackWords(const PanelRows& rows, int64_t cols, DType dtype, char* out) {
  std::array<const char*, kPanel> data;
  const int64_t row_bytes = cols * DTypeBytes(dtype);
  for (size_t lane = 0; lane < kPanel; ++lane) {
    const WeightView* const part = rows[lane].part;
    if (part == nullptr || part->dtype != dtype) return 0;
    data[lane] = static_cast<const char*>(part->data) + rows[lane].row * row_bytes;
  }
  const int64_t whole_bytes = row_bytes / kCacheLine * kCacheLine;
  for (int64_t line = 0; line < whole_bytes; line += kCacheLine) {
    // All words of a row's cache line are read before the next line of that row, because the lines
    // of 16 rows may compete for one set of the cache.
    for (size_t lane = 0; lane < kPanel; lane += 4) {
      for (int64_t offset = line; offset < line + kCacheLine; offset += kWordsBytes) {
        TransposeWords(data, lane, offset, out + offset / 4 * kCacheLine + lane * 4);
      }
    }
  }
  return whole_bytes / DTypeBytes(dtype);
}

void PackPanel(const PanelRows& rows, int64_t cols, DType dtype, char* out) {
  for (int64_t begin = PackWords(rows, cols, dtype, out); begin < cols; begin += kPackColumns) {
    const int64_t end = std::min(begin + kPackColumns, cols);
    for (size_t lane = 0; lane < kPanel; ++lane) {
      if (rows[lane].part == nullptr) continue;
      PackLane(*rows[lane].part, rows[lane].row, begin, end, dtype, static_cast<int>(lane), out);
    }
  }
}

}  // namespace

std::unique_ptr<CpuWeight> CpuWeight::Allocate(const std::vector<WeightView>& parts,
                                               const WeightFormat& format, bool gated) {
  CHECK(!parts.empty());
  CHECK(format.valid()) << " " << DTypeName(format.dtype) << " in groups of " << format.group_size;
  std::unique_ptr<CpuWeight> weight(new CpuWeight);
  weight->format_ = format;
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
  weight->panel_bytes_ = weight->steps() * kCacheLine;
  if (format.quantized()) {
    CHECK_LE(weight->cols_, kMaxQuantizedCols);
    const DType scale_dtype = ScaleDType(parts, format);
    CHECK(format.rotation == 0 || weight->cols_ % format.rotation == 0) << " " << format.rotation;
    weight->quant_ = NewQuantShape(weight->cols_, format, scale_dtype);
    weight->panel_bytes_ = QuantPanelBytes(weight->cols_, format, scale_dtype);
  }
  weight->buffer_ =
      HugeBuffer::Create(static_cast<size_t>(weight->num_panels_ * weight->panel_bytes_));
  if (weight->buffer_ == nullptr) return nullptr;
  return weight;
}

std::unique_ptr<CpuWeight> CpuWeight::Restore(const std::vector<WeightView>& parts,
                                              const WeightFormat& format, bool gated,
                                              const FillPacked& fill) {
  std::unique_ptr<CpuWeight> weight = Allocate(parts, format, gated);
  if (weight == nullptr) return nullptr;
  char* const panels = static_cast<char*>(weight->buffer_->data());
  return fill(panels, weight->bytes()) ? std::move(weight) : nullptr;
}

std::unique_ptr<CpuWeight> CpuWeight::Create(const std::vector<WeightView>& parts,
                                             const WeightFormat& format, bool gated,
                                             ThreadTeam* team) {
  std::unique_ptr<CpuWeight> weight = Allocate(parts, format, gated);
  if (weight == nullptr) return nullptr;
  char* const panels = static_cast<char*>(weight->buffer_->data());
  team->ParallelFor(weight->num_panels_, 4, [&](int64_t begin, int64_t end, int member) {
    RowQuantizer quantizer(format);
    for (int64_t panel = begin; panel < end; ++panel) {
      PanelRows rows;
      for (size_t lane = 0; lane < kPanel; ++lane) {
        rows[lane] = FindRow(parts, gated, panel, static_cast<int>(lane));
      }
      TellObservers(rows);
      char* const out = panels + panel * weight->panel_bytes_;
      if (format.quantized()) {
        PackQuantizedPanel(rows, weight->quant_, &quantizer, out);
      } else {
        PackPanel(rows, weight->cols_, format.dtype, out);
      }
    }
  });
  return weight;
}

void CpuWeight::GatherRow(int64_t row, float scale, float* out) const {
  const char* const panel = panels() + row / kPanel * panel_bytes();
  const int64_t lane = row % kPanel;
  if (format_.quantized()) {
    for (int64_t k = 0; k < cols_; ++k) out[k] = QuantElement(quant_, panel, lane, k);
    if (format_.rotation != 0) RotateRow(format_.rotation, cols_, out);
    for (int64_t k = 0; k < cols_; ++k) out[k] *= scale;
    return;
  }
  if (format_.dtype == DType::kBF16) {
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

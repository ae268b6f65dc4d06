#include "kernels/step/adapter_layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace tessera {
namespace {

constexpr int64_t kTileAlign = 64;  // bytes

// Assigns consecutive places to runs of tiles.
class Placer {
 public:
  explicit Placer(int64_t page_bytes) : page_bytes_(page_bytes) {}

  TileRun Place(int64_t tile_bytes, int32_t num_tiles) {
    tile_bytes = RoundUp(tile_bytes, kTileAlign);
    if (tile_bytes > page_bytes_) fits_ = false;
    if (!fits_) return {};
    if (offset_ + tile_bytes > page_bytes_) NextPage();
    const TileRun run = {page_, static_cast<int32_t>(offset_), static_cast<int32_t>(tile_bytes),
                         num_tiles};
    const int64_t in_first = (page_bytes_ - offset_) / tile_bytes;
    if (num_tiles <= in_first) {
      offset_ += num_tiles * tile_bytes;
    } else {
      const int64_t per_page = page_bytes_ / tile_bytes;
      const int64_t after = num_tiles - in_first;
      page_ += static_cast<int32_t>(CeilDiv(after, per_page));
      offset_ = (after - 1) % per_page * tile_bytes + tile_bytes;
    }
    num_bytes_ += num_tiles * tile_bytes;
    return run;
  }

  bool fits() const { return fits_; }
  int32_t num_pages() const { return offset_ == 0 ? page_ : page_ + 1; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  void NextPage() {
    ++page_;
    offset_ = 0;
  }

  const int64_t page_bytes_;
  int32_t page_ = 0;
  int64_t offset_ = 0;
  int64_t num_bytes_ = 0;
  bool fits_ = true;
};

// The address of a tile in the contiguous page images.
char* ImageTile(const AdapterLayout& layout, char* pages, const TileRun& run, int32_t tile) {
  const TilePlace place = PlaceOfTile(run, layout.page_bytes, tile);
  return pages + place.page * layout.page_bytes + place.offset;
}

// The int8 code of a number. Returns 0 if the quotient is not finite: `step` is 0 if all numbers
// are zeros, and NaN if a number is not finite.
int8_t CodeOf(float value, float step) {
  const float code = std::nearbyint(value / step);
  return std::fabs(code) <= 127.0f ? static_cast<int8_t>(code) : int8_t{0};
}

void StoreElement(DType dtype, float value, float step, char* tile, int64_t index) {
  switch (dtype) {
    case DType::kBF16:
      reinterpret_cast<BF16*>(tile)[index] = FloatToBF16(value);
      return;
    case DType::kI8:
      reinterpret_cast<int8_t*>(tile)[index] = CodeOf(value, step);
      return;
    default:
      reinterpret_cast<float*>(tile)[index] = value;
  }
}

// The quantisation step of int8 codes: the numbers' maximum divided by 127; 1 for other dtypes. NaN
// if a number is not finite, so that the rank's contribution is NaN too.
float StepOf(DType dtype, const float* values, int64_t count, int64_t stride) {
  if (dtype != DType::kI8) return 1.0f;
  float maximum = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float magnitude = std::fabs(values[i * stride]);
    if (!std::isfinite(magnitude)) return std::numeric_limits<float>::quiet_NaN();
    maximum = std::max(maximum, magnitude);
  }
  return maximum / 127.0f;
}

}  // namespace

const char* LoraTargetName(LoraTarget target) {
  static constexpr const char* kNames[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                           "gate_proj", "up_proj", "down_proj"};
  return kNames[static_cast<int>(target)];
}

AdapterLayout PlanAdapter(const LoraShape& shape, const std::vector<int32_t>& ranks, DType dtype,
                          int64_t page_bytes) {
  AdapterLayout layout;
  layout.dtype = dtype;
  layout.page_bytes = page_bytes;
  layout.matrices.resize(ranks.size());
  Placer placer(page_bytes);
  for (size_t i = 0; i < ranks.size(); ++i) {
    const int32_t rank = ranks[i];
    if (rank == 0) continue;
    const size_t target = i % kNumLoraTargets;
    LoraMatrices& matrices = layout.matrices[i];
    matrices.rank = rank;
    const int64_t scale_offset = AdapterLayout::ScaleOffset(shape.cols[target], dtype);
    matrices.a = placer.Place(scale_offset + int64_t{sizeof(float)}, rank);
    matrices.b = placer.Place(int64_t{rank} * kLoraPanel * DTypeBytes(dtype),
                              CeilDiv(shape.rows[target], kLoraPanel));
  }
  layout.num_pages = placer.fits() ? placer.num_pages() : 0;
  layout.num_bytes = placer.num_bytes();
  return layout;
}

void PlaceMatrices(const AdapterLayout& layout, const LoraShape& shape, int layer,
                   LoraTarget target, const LoraTensors& tensors, char* pages) {
  const LoraMatrices& matrices = layout.at(layer, target);
  const DType dtype = layout.dtype;
  const int64_t rows = shape.rows[static_cast<int>(target)];
  const int64_t cols = shape.cols[static_cast<int>(target)];
  const int64_t rank = matrices.rank;
  for (int32_t i = 0; i < matrices.rank; ++i) {
    const float* const a = tensors.a.data() + i * cols;
    const float* const b = tensors.b.data() + i;
    const float a_step = StepOf(dtype, a, cols, 1);
    const float b_step = StepOf(dtype, b, rows, rank);
    char* const a_tile = ImageTile(layout, pages, matrices.a, i);
    for (int64_t k = 0; k < cols; ++k) StoreElement(dtype, a[k], a_step, a_tile, k);
    const float scale = tensors.scales[static_cast<size_t>(i)] * a_step * b_step;
    std::memcpy(a_tile + AdapterLayout::ScaleOffset(cols, dtype), &scale, sizeof(scale));
    for (int64_t n = 0; n < rows; ++n) {
      char* const tile = ImageTile(layout, pages, matrices.b, static_cast<int32_t>(n / kLoraPanel));
      StoreElement(dtype, b[n * rank], b_step, tile, i * kLoraPanel + n % kLoraPanel);
    }
  }
}

}  // namespace tessera

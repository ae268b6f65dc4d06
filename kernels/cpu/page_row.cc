#include "kernels/cpu/page_row.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/device/weight_format.h"

namespace tessera::cpu {
namespace {

void StoreInt8Row(const GroupLayout& layout, const float* x, char* row) {
  float max = 0.0f;
  bool finite = true;
  for (int32_t d = 0; d < layout.head_dim; ++d) {
    finite = finite && std::isfinite(x[d]);
    max = std::max(max, std::fabs(x[d]));
  }
  const bool zeros = !finite || max < kLeastRowMaximum;
  float scale = max / 127.0f;
  if (zeros) scale = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  const float inverse = 127.0f / max;
  for (int32_t d = 0; d < layout.scale_offset(); ++d) {
    const bool empty = zeros || d >= layout.head_dim;
    row[d] = empty ? 0 : static_cast<char>(std::nearbyint(x[d] * inverse));
  }
  std::memcpy(row + layout.scale_offset(), &scale, sizeof(scale));
}

}  // namespace

void LoadRow(const GroupLayout& layout, const char* row, float* x) {
  if (layout.dtype == DType::kF32) {
    std::copy_n(reinterpret_cast<const float*>(row), layout.head_dim, x);
    return;
  }
  if (layout.dtype == DType::kBF16) {
    std::transform(reinterpret_cast<const BF16*>(row),
                   reinterpret_cast<const BF16*>(row) + layout.head_dim, x, BF16ToFloat);
    return;
  }
  const float scale = RowScale(layout, row);
  for (int32_t d = 0; d < layout.head_dim; ++d) {
    x[d] = static_cast<float>(static_cast<signed char>(row[d])) * scale;
  }
}

void StoreRow(const GroupLayout& layout, const float* x, char* row) {
  if (layout.dtype == DType::kF32) {
    std::copy_n(x, layout.head_dim, reinterpret_cast<float*>(row));
    return;
  }
  if (layout.dtype == DType::kBF16) {
    std::transform(x, x + layout.head_dim, reinterpret_cast<BF16*>(row), FloatToBF16);
    return;
  }
  StoreInt8Row(layout, x, row);
}

}  // namespace tessera::cpu

#include "kernels/cpu/page_row.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/isa_kernels.h"
#include "kernels/device/key_rotation.h"
#include "kernels/device/quantize.h"
#include "kernels/device/weight_format.h"

namespace tessera::cpu {
namespace {

void StoreInt8Row(const GroupLayout& layout, const float* x, char* head, int32_t token) {
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
  char* const row = head + token * layout.row_bytes();
  for (int32_t d = 0; d < layout.row_bytes(); ++d) {
    const bool empty = zeros || d >= layout.head_dim;
    row[d] = empty ? 0 : static_cast<char>(std::nearbyint(x[d] * inverse));
  }
  std::memcpy(head + layout.scales_offset() + token * GroupLayout::kScaleBytes, &scale,
              sizeof(scale));
}

}  // namespace

void LoadRow(const GroupLayout& layout, const char* head, int32_t token, float* x) {
  const char* const row = head + token * layout.row_bytes();
  if (layout.dtype == DType::kF32) {
    std::copy_n(reinterpret_cast<const float*>(row), layout.head_dim, x);
    return;
  }
  if (layout.dtype == DType::kBF16) {
    std::transform(reinterpret_cast<const BF16*>(row),
                   reinterpret_cast<const BF16*>(row) + layout.head_dim, x, BF16ToFloat);
    return;
  }
  const float scale = RowScale(layout, head, token);
  for (int32_t d = 0; d < layout.head_dim; ++d) {
    x[d] = static_cast<float>(static_cast<signed char>(row[d])) * scale;
  }
}

void StoreRow(const GroupLayout& layout, const float* x, char* head, int32_t token) {
  char* const row = head + token * layout.row_bytes();
  if (layout.dtype == DType::kF32) {
    std::copy_n(x, layout.head_dim, reinterpret_cast<float*>(row));
    return;
  }
  if (layout.dtype == DType::kBF16) {
    std::transform(x, x + layout.head_dim, reinterpret_cast<BF16*>(row), FloatToBF16);
    return;
  }
  StoreInt8Row(layout, x, head, token);
}

void LoadKey(const GroupLayout& layout, const char* head, int32_t token, float* key) {
  LoadRow(layout, head, token, key);
  const int32_t rotation = KeyRotation(layout);
  if (rotation == 0) return;
  RotateRow(rotation, layout.head_dim, key);  // H H = B
  for (int32_t d = 0; d < layout.head_dim; ++d) key[d] *= KeyRotationScale(layout);
}

void StoreKey(const GroupLayout& layout, const float* key, char* head, int32_t token) {
  const int32_t rotation = KeyRotation(layout);
  if (rotation == 0) return StoreRow(layout, key, head, token);
  float rotated[kMaxHeadDim];
  std::copy_n(key, layout.head_dim, rotated);
  RotateRow(rotation, layout.head_dim, rotated);
  StoreRow(layout, rotated, head, token);
}

}  // namespace tessera::cpu

// The formulas of the reference backend, each written like its definition. Pure functions; any
// thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/device/backend.h"
#include "kernels/device/key_rotation.h"
#include "kernels/device/quantize.h"

namespace tessera::ref {

// out := x * rsqrt(mean(x^2) + eps) * weight over `count` elements, with the sum in fp64. Copies x
// if norm.weight is null. `out` may be `x`.
inline void RmsNorm(const NormArgs& norm, const float* x, int64_t count, float* out) {
  float factor = 1.0f;
  if (norm.weight != nullptr) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * x[i];
    factor = static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(count) + norm.eps));
  }
  for (int64_t i = 0; i < count; ++i) {
    out[i] = norm.weight == nullptr ? x[i] : x[i] * factor * norm.weight[i];
  }
}

inline float Softcap(float softcap, float x) {
  return softcap > 0.0f ? softcap * std::tanh(x / softcap) : x;
}

inline float Activate(Activation activation, float x) {
  if (activation == Activation::kSilu) return x / (1.0f + std::exp(-x));
  const float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);  // sqrt(2 / pi)
  return 0.5f * x * (1.0f + std::tanh(inner));
}

// cos and sin of the rotary embedding's angles at one position.
struct Rotation {
  std::vector<float> cos;  // [rotary_dim / 2]
  std::vector<float> sin;
};

inline Rotation RotationAt(const RopeSpec& rope, int32_t position, float factor) {
  Rotation rotation;
  for (const float inv_freq : rope.inv_freq) {
    const float angle = static_cast<float>(position) * inv_freq;
    rotation.cos.push_back(static_cast<float>(std::cos(static_cast<double>(angle))) * factor);
    rotation.sin.push_back(static_cast<float>(std::sin(static_cast<double>(angle))) * factor);
  }
  return rotation;
}

// Rotates one head in place. Dimension i pairs with i + rotary_dim / 2.
inline void Rotate(const Rotation& rotation, float* head) {
  const size_t half = rotation.cos.size();
  for (size_t i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[i + half];
    head[i] = a * rotation.cos[i] - b * rotation.sin[i];
    head[i + half] = b * rotation.cos[i] + a * rotation.sin[i];
  }
}

// Returns element i of a row. For kI8 returns the code, without its scale. REQUIRES: dtype is kF32,
// kBF16 or kI8.
inline float LoadElement(DType dtype, const char* row, int64_t i) {
  if (dtype == DType::kI8) return static_cast<float>(reinterpret_cast<const int8_t*>(row)[i]);
  return dtype == DType::kF32 ? reinterpret_cast<const float*>(row)[i]
                              : BF16ToFloat(reinterpret_cast<const BF16*>(row)[i]);
}
// Stores `value` as element i of a row. REQUIRES: dtype is kF32 or kBF16.
inline void StoreElement(DType dtype, float value, char* row, int64_t i) {
  if (dtype == DType::kF32) {
    reinterpret_cast<float*>(row)[i] = value;
  } else {
    reinterpret_cast<BF16*>(row)[i] = FloatToBF16(value);
  }
}

// Returns `value` rounded to `dtype`. REQUIRES: dtype is kF32 or kBF16.
inline float RoundTo(DType dtype, float value) {
  return dtype == DType::kF32 ? value : BF16ToFloat(FloatToBF16(value));
}

// Quantises a row of activations to codes in [-127, 127] as kernels/device/weight_format.h defines.
// Returns the scale of the row.
inline float QuantizeRow(const float* x, int64_t count, int32_t* codes) {
  float max = 0.0f;
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) {
    finite = finite && std::isfinite(x[i]);
    max = std::max(max, std::fabs(x[i]));
  }
  std::fill(codes, codes + count, 0);
  if (!finite) return std::numeric_limits<float>::quiet_NaN();
  if (max < kLeastRowMaximum) return 0.0f;
  const float inverse = 127.0f / max;
  for (int64_t i = 0; i < count; ++i) {
    codes[i] = static_cast<int32_t>(std::nearbyint(x[i] * inverse));
  }
  return max / 127.0f;
}

// The following functions read and write K and V rows of pages (kernels/step/page_layout.h). A row
// is that of token `token` of `head`, the start of a head's K or V in a page. Element d of a row is
// PageElement(d) * PageScale().
inline float PageElement(const GroupLayout& layout, const char* head, int32_t token, int64_t d) {
  return LoadElement(layout.dtype, head + token * layout.row_bytes(), d);
}
inline float PageScale(const GroupLayout& layout, const char* head, int32_t token) {
  if (!layout.quantized()) return 1.0f;
  return reinterpret_cast<const float*>(head + layout.scales_offset())[token];
}
inline std::vector<float> LoadPageRow(const GroupLayout& layout, const char* head, int32_t token) {
  std::vector<float> x(layout.head_dim);
  for (int32_t d = 0; d < layout.head_dim; ++d) {
    x[d] = PageElement(layout, head, token, d) * PageScale(layout, head, token);
  }
  return x;
}
inline void StorePageRow(const GroupLayout& layout, const float* x, char* head, int32_t token) {
  char* const row = head + token * layout.row_bytes();
  if (!layout.quantized()) {
    for (int32_t d = 0; d < layout.head_dim; ++d) StoreElement(layout.dtype, x[d], row, d);
    return;
  }
  std::vector<int32_t> codes(layout.head_dim);
  const float scale = QuantizeRow(x, layout.head_dim, codes.data());
  std::fill(row, row + layout.row_bytes(), 0);
  for (int32_t d = 0; d < layout.head_dim; ++d) row[d] = static_cast<char>(codes[d]);
  reinterpret_cast<float*>(head + layout.scales_offset())[token] = scale;
}

// Multiplies a key or a query by the Hadamard matrix if the pages hold keys so
// (kernels/device/key_rotation.h).
inline void RotateForPage(const GroupLayout& layout, float* x) {
  const int32_t rotation = KeyRotation(layout);
  if (rotation != 0) RotateRow(rotation, layout.head_dim, x);
}
inline std::vector<float> LoadPageKey(const GroupLayout& layout, const char* head, int32_t token) {
  std::vector<float> key = LoadPageRow(layout, head, token);
  RotateForPage(layout, key.data());
  for (float& x : key) x *= KeyRotationScale(layout);
  return key;
}
inline void StorePageKey(const GroupLayout& layout, const float* key, char* head, int32_t token) {
  std::vector<float> rotated(key, key + layout.head_dim);
  RotateForPage(layout, rotated.data());
  StorePageRow(layout, rotated.data(), head, token);
}

// Backend::Attention and Backend::Apply of the reference backend.
void Attention(const AttentionArgs& args);
void Apply(const ApplyArgs& args);

}  // namespace tessera::ref

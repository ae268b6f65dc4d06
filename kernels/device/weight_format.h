// The number format of a packed weight, and the definition of the quantised formats. Pure data; any
// thread. Uses no absl and no spdlog, because CUDA sources include it.
//
// Quantised weights (kI8, kI5, kI4). A row of K weights is cut into groups. Each has a scale, and
// its own zero point if the format is asymmetric:
//   weight[n][k] = scale[n][g] * (code[n][k] - zero[n][g]),  g = k / group_size
// Codes are unsigned: 0..255 (kI8), 0..31 (kI5) or 0..15 (kI4). In symmetric formats every zero is
// 128, 16 or 8.
//
// Rotation. A few channels of the activations of a language model are many times larger than the
// others, and they take the scale of the whole row (LLM.int8(), 2208.07339). A rotation spreads
// them (QuaRot, 2404.00456). A format with a rotation of size B cuts a row into blocks of B and
// multiplies each block by the Hadamard matrix H, whose elements are 1 and -1 and for which H H = B
// I. It stores H w / B instead of a row w of the weight and quantises H x instead of the row x of
// activations, so that the product is that of w and x. RotateRow defines the order of the sums.
//
// The format also fixes the type of the activations that a quantised weight multiplies, for any
// number of rows.
//
// int8 activations are quantised by row. After the norm and the rotation, with m = max |x[k]|,
//   code[k] = round(x[k] * (127 / m)), to nearest, ties to even      row scale = m / 127
// A row with m < kLeastRowMaximum becomes zeros. A row with a NaN or an infinity has the scale NaN,
// so all its outputs are NaN, and those of other rows are not affected.
//
// A Linear then uses exact integers within a group, and fp32 across the groups in ascending order:
//   dot[g] = sum of (code[n][k] - zero[n][g]) * x_code[k]            exact in 32 bits
//   sum    = fma(scale[n][g], float(dot[g]), sum), from 0
//   y      = sum * row scale
// The order of sums within a group therefore does not change the result. All backends agree bit for
// bit, unless the norm before the Linear rounds differently.
//
// bf16 activations are x[k], after the norm, rounded to nearest. The codes are not rounded:
//   dot[g] = sum of (code[n][k] - zero[n][g]) * bf16(x[k])           in fp32, in any fixed order
//   y      = fma(scale[n][g], dot[g], y), from 0
// Backends agree within the rounding errors of these sums, as they do for bf16 weights. A NaN in a
// row makes all outputs of the row NaN; an infinity makes those that it reaches infinite or NaN.
#pragma once

#include <cstdint>

#include "kernels/base/types.h"

namespace tessera {

inline constexpr int32_t kGroupGranule = 32;  // the size of a group is a multiple of this number
inline constexpr int64_t kMaxQuantizedCols = 65536;  // longer sums could overflow 32 bits
inline constexpr float kLeastRowMaximum = 1e-30f;    // rows with a smaller maximum become zeros
inline constexpr int32_t kMinRotation = 16;          // smallest and largest size of a rotation
inline constexpr int32_t kMaxRotation = 128;

// Returns the largest power of two that divides `cols` and is a valid size of a rotation; 0 if
// there is none.
constexpr int32_t RotationOf(int64_t cols) {
  for (int32_t size = kMaxRotation; size >= kMinRotation; size /= 2) {
    if (cols % size == 0) return size;
  }
  return 0;
}

struct WeightFormat {
  DType dtype = DType::kF32;  // kF32, kBF16, kI8, kI5 or kI4
  // For quantised types: the number of weights of a row that share a scale, a multiple of
  // kGroupGranule. 0: the whole row has one scale.
  int32_t group_size = 0;
  bool asymmetric = false;  // for quantised types: each group has its own zero point
  // For quantised types: the size of the rotation's blocks, a power of two from kMinRotation to
  // kMaxRotation that divides the number of columns. 0: no rotation, as in a weight that another
  // program has quantised.
  int32_t rotation = 0;
  // For quantised types: the type of the activations, kI8 or kBF16. A format with a rotation has
  // kI8.
  DType activations = DType::kI8;

  // The constructor is implicit, so that a DType converts to the format with that type.
  constexpr WeightFormat(  // NOLINT(google-explicit-constructor)
      DType dtype = DType::kF32, int32_t group_size = 0, bool asymmetric = false,
      int32_t rotation = 0)
      : dtype(dtype), group_size(group_size), asymmetric(asymmetric), rotation(rotation) {}

  constexpr bool quantized() const {
    return dtype == DType::kI8 || dtype == DType::kI5 || dtype == DType::kI4;
  }
  constexpr int symmetric_zero() const {
    return dtype == DType::kI8 ? 128 : dtype == DType::kI5 ? 16 : 8;
  }
  constexpr int max_code() const { return 2 * symmetric_zero() - 1; }
  constexpr int64_t NumGroups(int64_t cols) const {
    return group_size == 0 ? 1 : CeilDiv<int64_t>(cols, group_size);
  }
  constexpr bool valid() const {
    if (!quantized()) return group_size == 0 && !asymmetric && rotation == 0 && DTypeIsFloat();
    if (activations != DType::kI8 && (activations != DType::kBF16 || rotation != 0)) return false;
    return group_size >= 0 && group_size % kGroupGranule == 0 &&
           (rotation == 0 || RotationOf(rotation) == rotation);
  }
  // The format with the largest rotation that suits a weight of `cols` columns, for int8
  // activations.
  constexpr WeightFormat Rotated(int64_t cols) const {
    return {dtype, group_size, asymmetric, RotationOf(cols)};
  }
  // The format for bf16 activations, which has no rotation.
  constexpr WeightFormat WithBF16Activations() const {
    WeightFormat format(dtype, group_size, asymmetric);
    format.activations = DType::kBF16;
    return format;
  }
  constexpr bool operator==(const WeightFormat& other) const {
    return dtype == other.dtype && group_size == other.group_size &&
           asymmetric == other.asymmetric && rotation == other.rotation &&
           activations == other.activations;
  }

 private:
  constexpr bool DTypeIsFloat() const { return dtype == DType::kF32 || dtype == DType::kBF16; }
};

}  // namespace tessera

// How a packed weight represents its numbers, and what the quantised formats mean. Pure data; any
// thread. Free of absl and spdlog (CUDA sources see it).
//
// Quantised weights (kI8, kI4). A row of K weights is cut into groups; a group has a scale, and a
// zero point if the format is asymmetric:
//   weight[n][k] = scale[n][g] * (code[n][k] - zero[n][g]),  g = k / group_size
// with unsigned codes: 0..255 (kI8) or 0..15 (kI4). Symmetric formats have the zero in the middle,
// 128 or 8.
//
// Activations of quantised weights are always quantised by row, whatever the number of rows: after
// the norm, with m = max |x[k]|,
//   code[k] = round(x[k] * (127 / m)), to nearest, ties to even      row scale = m / 127
// A row with m < kLeastRowMaximum counts as zeros. A row that holds a NaN or an infinity has the
// scale NaN, so all its outputs are NaN (and no other row's).
//
// A Linear then is exact integers within a group and fp32 across the groups, in ascending order:
//   dot[g] = sum of (code[n][k] - zero[n][g]) * x_code[k]            exact in 32 bits
//   sum    = fma(scale[n][g], float(dot[g]), sum), from 0
//   y      = sum * row scale
// So the order within a group never shows, and all backends agree bit for bit unless a norm in
// front rounds differently.
#pragma once

#include <cstdint>

#include "kernels/base/types.h"

namespace tessera {

inline constexpr int32_t kGroupGranule = 32;         // groups have a multiple of this many weights
inline constexpr int64_t kMaxQuantizedCols = 65536;  // sums of more could leave 32 bits
inline constexpr float kLeastRowMaximum = 1e-30f;

struct WeightFormat {
  DType dtype = DType::kF32;  // kF32, kBF16, kI8 or kI4
  // kI8, kI4: weights of a row that share a scale, a multiple of kGroupGranule; 0: the whole row.
  int32_t group_size = 0;
  bool asymmetric = false;  // kI8, kI4: groups have zero points of their own

  // A type alone is a format.
  constexpr WeightFormat(  // NOLINT(google-explicit-constructor)
      DType dtype = DType::kF32, int32_t group_size = 0, bool asymmetric = false)
      : dtype(dtype), group_size(group_size), asymmetric(asymmetric) {}

  constexpr bool quantized() const { return dtype == DType::kI8 || dtype == DType::kI4; }
  constexpr int symmetric_zero() const { return dtype == DType::kI8 ? 128 : 8; }
  constexpr int max_code() const { return dtype == DType::kI8 ? 255 : 15; }
  constexpr int64_t NumGroups(int64_t cols) const {
    return group_size == 0 ? 1 : CeilDiv<int64_t>(cols, group_size);
  }
  constexpr bool valid() const {
    if (!quantized()) return group_size == 0 && !asymmetric && DTypeIsFloat();
    return group_size >= 0 && group_size % kGroupGranule == 0;
  }
  constexpr bool operator==(const WeightFormat& other) const {
    return dtype == other.dtype && group_size == other.group_size && asymmetric == other.asymmetric;
  }

 private:
  constexpr bool DTypeIsFloat() const { return dtype == DType::kF32 || dtype == DType::kBF16; }
};

}  // namespace tessera

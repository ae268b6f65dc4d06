// The per-ISA functions on single rows (norms, rounding, quantisation, rotation, appending to
// pages) and the ISA's table.
#include <cstring>

#include "kernels/cpu/isa_functions.h"

namespace tessera::cpu::TESSERA_ISA {
namespace {

// Returns 1 / sqrt(mean(x^2) + eps), summed with two accumulators in a fixed order.
float InverseRms(const float* x, float eps, int64_t cols) {
  V16 sum0 = Zero();
  V16 sum1 = Zero();
  int64_t i = 0;
  for (; i + 32 <= cols; i += 32) {
    const V16 a = Load(x + i);
    const V16 b = Load(x + i + 16);
    sum0 = Fma(a, a, sum0);
    sum1 = Fma(b, b, sum1);
  }
  for (; i < cols; i += 16) {
    const V16 a = LoadN(x + i, cols - i);
    sum0 = Fma(a, a, sum0);
  }
  const float mean = ReduceAdd(Add(sum0, sum1)) / static_cast<float>(cols);
  return 1.0f / __builtin_sqrtf(mean + eps);
}

// Stores lanes [0, count) of x as elements [index, index + count) of p.
void StoreElements(Element element, void* p, int64_t index, V16 x, int64_t count) {
  char* const base = static_cast<char*>(p);
  if (element == Element::kF32) {
    StoreN(reinterpret_cast<float*>(base) + index, x, count);
    return;
  }
  if (count >= 16) {
    StoreBF16(base + 2 * index, x);
    return;
  }
  alignas(32) char narrow[32];
  StoreBF16(narrow, x);
  std::memcpy(base + 2 * index, narrow, static_cast<size_t>(2 * count));
}

// The parameters that quantise a row (kernels/device/weight_format.h).
struct RowGrid {
  float scale = 0.0f;
  float inverse = 0.0f;  // 127 / the largest magnitude of the row; 0: all codes are 0
};

// Returns the grid of a row. `largest` holds, for each lane, the largest bit pattern of the row's
// magnitudes. The bit patterns of magnitudes, compared as integers, have the order of the
// magnitudes, with NaN as the largest.
RowGrid GridOf(I16 largest) {
  constexpr int32_t kInfinityBits = 0x7f800000;
  const int32_t max_bits = ReduceMaxInts(largest);
  if (max_bits >= kInfinityBits) return {__builtin_nanf(""), 0.0f};
  float max;
  std::memcpy(&max, &max_bits, sizeof(max));
  if (max < kLeastMaximum) return {};
  return {max / 127.0f, 127.0f / max};
}

// Stores x as an int8 row of a page: the codes, zeros up to row_bytes, and the scale.
void StoreInt8Row(const float* x, int32_t count, int64_t row_bytes, void* row, void* scale) {
  alignas(64) char codes[kMaxHeadDim + kPanel];
  I16 largest = BroadcastInt(0);
  for (int32_t i = 0; i < count; i += 16) {
    largest = MaxInts(largest, Bits(Abs(LoadN(x + i, count - i))));
  }
  const RowGrid grid = GridOf(largest);
  std::memcpy(scale, &grid.scale, sizeof(grid.scale));
  if (grid.inverse == 0.0f) {
    std::memset(row, 0, static_cast<size_t>(row_bytes));
    return;
  }
  for (int32_t i = 0; i < count; i += 16) {
    StoreBytes(codes + i, RoundToInts(Mul(LoadN(x + i, count - i), Set1(grid.inverse))));
  }
  std::memcpy(row, codes, static_cast<size_t>(row_bytes));
}

TESSERA_INLINE V16 Normed(V16 x, V16 inverse, V16 weight) { return Mul(Mul(x, inverse), weight); }

// Stores `value` as elements [i, i + count) of a prepared row.
TESSERA_INLINE void StorePrepared(V16 value, bool round, int64_t i, int64_t count, void* out) {
#if defined(TESSERA_HAS_DOT_BF16)
  // StoreNormalBF16 stores subnormal numbers as 0, and the dot product treats them as 0 anyway.
  if (round && count >= 16) return StoreNormalBF16(static_cast<char*>(out) + 2 * i, value);
  if (round) return StoreElements(Element::kBF16, out, i, value, count);
#endif
  if (round) value = RoundBF16(value);
  StoreElements(Element::kF32, out, i, value, count);
}

// The stage of a rotation in which pairs of vectors lie kStride vectors apart.
template <int kStride, int kVectors>
TESSERA_INLINE void RotateStage(V16 (&block)[kVectors]) {
#pragma GCC unroll 4
  for (int pair = 0; pair < kVectors / 2; ++pair) {
    const int i = pair / kStride * 2 * kStride + pair % kStride;
    const V16 sum = Add(block[i], block[i + kStride]);
    block[i + kStride] = Sub(block[i], block[i + kStride]);
    block[i] = sum;
  }
}

// Rotates a block of 16 * kVectors numbers (RotateRow in kernels/device/quantize.h).
template <int kVectors>
TESSERA_INLINE void RotateBlock(V16 (&block)[kVectors]) {
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) block[i] = RotateLanes(block[i]);
  if constexpr (kVectors >= 2) RotateStage<1>(block);
  if constexpr (kVectors >= 4) RotateStage<2>(block);
  if constexpr (kVectors >= 8) RotateStage<4>(block);
}

// Writes a row to `values` after the norm (if `weight`), rotated in blocks of kVectors vectors.
// Returns the largest bit pattern of the magnitudes of each lane.
template <int kVectors>
I16 WriteRotated(const float* x, const float* weight, V16 inverse_rms, int64_t cols,
                 float* values) {
  I16 largest = BroadcastInt(0);
  for (int64_t i = 0; i < cols; i += 16 * kVectors) {
    V16 block[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) block[j] = Load(x + i + 16 * j);
    if (weight != nullptr) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        block[j] = Normed(block[j], inverse_rms, Load(weight + i + 16 * j));
      }
    }
    RotateBlock(block);
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      largest = MaxInts(largest, Bits(Abs(block[j])));
      Store(values + i + 16 * j, block[j]);
    }
  }
  return largest;
}

// Does what WriteRotated does, without the rotation. `cols` may be any number.
I16 WriteNormed(const float* x, const float* weight, V16 inverse_rms, int64_t cols, float* values) {
  I16 largest = BroadcastInt(0);
  for (int64_t i = 0; i < cols; i += 16) {
    V16 value = LoadN(x + i, cols - i);
    if (weight != nullptr) value = Normed(value, inverse_rms, LoadN(weight + i, cols - i));
    largest = MaxInts(largest, Bits(Abs(value)));
    Store(values + i, value);
  }
  return largest;
}

// Calls WriteRotated or WriteNormed, as the shape requires.
I16 WriteValues(const float* x, const float* weight, float eps, const QuantShape& shape,
                float* values) {
  const int64_t cols = shape.cols;
  const V16 inverse_rms = weight != nullptr ? Set1(InverseRms(x, eps, cols)) : Zero();
  switch (shape.rotation) {
    case 128:
      return WriteRotated<8>(x, weight, inverse_rms, cols, values);
    case 64:
      return WriteRotated<4>(x, weight, inverse_rms, cols, values);
    case 32:
      return WriteRotated<2>(x, weight, inverse_rms, cols, values);
    case 16:
      return WriteRotated<1>(x, weight, inverse_rms, cols, values);
    default:
      return WriteNormed(x, weight, inverse_rms, cols, values);
  }
}

}  // namespace

void PrepareRow(const float* x, const float* weight, float eps, int64_t cols, int64_t padded_cols,
                bool round, void* out) {
  const V16 inverse = weight != nullptr ? Set1(InverseRms(x, eps, cols)) : Zero();
  int64_t i = 0;
  for (; i + 16 <= cols; i += 16) {
    V16 value = Load(x + i);
    if (weight != nullptr) value = Normed(value, inverse, Load(weight + i));
    StorePrepared(value, round, i, 16, out);
  }
  if (i == padded_cols) return;
  V16 value = LoadN(x + i, cols - i);
  if (weight != nullptr) value = Normed(value, inverse, LoadN(weight + i, cols - i));
  StorePrepared(value, round, i, padded_cols - i, out);
}

void QuantizeRow(const float* x, const float* weight, float eps, const QuantShape& shape,
                 float* values, void* out) {
  char* const codes = static_cast<char*>(out);
  int32_t* const sums = reinterpret_cast<int32_t*>(codes + shape.row_sums);
  float* const row_scale = reinterpret_cast<float*>(codes + shape.row_scale);
  const int64_t cols = shape.cols;
  const RowGrid grid = GridOf(WriteValues(x, weight, eps, shape, values));
  *row_scale = grid.scale;
  if (grid.inverse == 0.0f) {
    std::memset(codes, 0, static_cast<size_t>(shape.row_sums));
    std::memset(sums, 0, sizeof(int32_t) * static_cast<size_t>(shape.num_groups));
    return;
  }
  const V16 inverse = Set1(grid.inverse);
  int64_t i = 0;
  for (int64_t g = 0; g < shape.num_groups; ++g) {
    const int64_t end = g + 1 < shape.num_groups ? i + shape.group_size : cols;
    I16 sum = BroadcastInt(0);
    for (; i < end; i += 16) {
      const I16 code = RoundToInts(Mul(Load(values + i), inverse));
      StoreBytes(codes + i, code);
      sum = AddInts(sum, code);
    }
    sums[g] = ReduceAddInts(sum);
  }
  std::memset(codes + i, 0, static_cast<size_t>(shape.row_sums - i));
}

void NormRow(const float* y, const float* weight, float eps, int64_t cols, bool add, float* out) {
  const V16 inverse = Set1(InverseRms(y, eps, cols));
  for (int64_t i = 0; i < cols; i += 16) {
    V16 value = Normed(LoadN(y + i, cols - i), inverse, LoadN(weight + i, cols - i));
    if (add) value = Add(LoadN(out + i, cols - i), value);
    StoreN(out + i, value, cols - i);
  }
}

void RotateHead(const float* x, const float* weight, float eps, const float* cos, const float* sin,
                int32_t rotary_dim, int32_t head_dim, float* out) {
  if (weight != nullptr) {
    const V16 inverse = Set1(InverseRms(x, eps, head_dim));
    for (int32_t i = 0; i < head_dim; i += 16) {
      const V16 value =
          Normed(LoadN(x + i, head_dim - i), inverse, LoadN(weight + i, head_dim - i));
      StoreN(out + i, value, head_dim - i);
    }
  } else if (x != out) {
    std::memcpy(out, x, sizeof(float) * static_cast<size_t>(head_dim));
  }
  const int32_t half = rotary_dim / 2;
  for (int32_t i = 0; i < half; i += 16) {
    const int32_t count = half - i;
    const V16 a = LoadN(out + i, count);
    const V16 b = LoadN(out + half + i, count);
    const V16 c = LoadN(cos + i, count);
    const V16 s = LoadN(sin + i, count);
    StoreN(out + i, Sub(Mul(a, c), Mul(b, s)), count);
    StoreN(out + half + i, Add(Mul(b, c), Mul(a, s)), count);
  }
}

void RotateBlocks(int32_t rotation, int64_t cols, float* x) {
  QuantShape shape;
  shape.cols = static_cast<int32_t>(cols);
  shape.rotation = rotation;
  WriteValues(x, nullptr, 0.0f, shape, x);
}

void AppendHead(const AppendProblem& problem) {
  alignas(64) float key[kMaxHeadDim];
  RotateHead(problem.k, problem.k_norm, problem.k_norm_eps, problem.cos, problem.sin,
             problem.rotary_dim, problem.head_dim, key);
  if (problem.element == Element::kI8) {
    if (problem.key_rotation != 0) RotateBlocks(problem.key_rotation, problem.head_dim, key);
    StoreInt8Row(key, problem.head_dim, problem.row_bytes, problem.k_out, problem.k_scale_out);
    StoreInt8Row(problem.v, problem.head_dim, problem.row_bytes, problem.v_out,
                 problem.v_scale_out);
    return;
  }
  for (int32_t i = 0; i < problem.head_dim; i += 16) {
    const int32_t count = problem.head_dim - i;
    StoreElements(problem.element, problem.k_out, i, LoadN(key + i, count), count);
    StoreElements(problem.element, problem.v_out, i, LoadN(problem.v + i, count), count);
  }
}

const IsaKernels& Kernels() {
  static constexpr IsaKernels kKernels = {
#if defined(TESSERA_ISA_AVX512BF16)
    "avx512bf16",
    true,
#elif defined(TESSERA_ISA_AVX512)
    "avx512",
    false,
#else
    "avx2",
    false,
#endif
    &PrepareRow,
    &NormRow,
    &GemmF32,
    &GemmBF16,
    &QuantizeRow,
    &GemmI8,
    &GemmI4,
    &GemmI5,
    &RoundRow,
    &GemmI8Rounded,
    &GemmI4Rounded,
    &GemmI5Rounded,
    &LoraShrink,
    &AppendHead,
    &RotateBlocks,
    &RotateHead,
    &PackKeys,
    &Attend,
    &Merge,
    &Divide,
    &sampling::TESSERA_ISA::kPasses,
    &SpinMultiplyAdds,
    &SpinDots
  };
  return kKernels;
}

}  // namespace tessera::cpu::TESSERA_ISA

// Scalar types that all parts of the project share, and conversions between number formats. This
// header includes no third-party headers, because CUDA sources include it.
#pragma once

#include <cstdint>
#include <cstring>

namespace tessera {

using TokenId = int32_t;
// Index of a page in the page pool of its device; a page of several slabs has the index of its
// first slab. Page 0 is the null page: padding tokens write their KV there.
using PageId = int32_t;
inline constexpr PageId kNullPage = 0;
// A placeholder in StepBatch::tokens for the last sampled token of the sequence's slot, which only
// the device knows yet.
inline constexpr TokenId kLastSampledToken = -1;

enum class DType : uint8_t { kF32 = 0, kBF16 = 1, kF16 = 2, kI8 = 3, kI4 = 4, kI32 = 5, kI5 = 6 };

// Bytes of one element that is stored alone. Packed weights of kI4 and kI5 store elements together.
constexpr int64_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kI8:
    case DType::kI4:
    case DType::kI5:
      return 1;
  }
  return 0;
}

constexpr const char* DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    case DType::kI8:
      return "int8";
    case DType::kI4:
      return "int4";
    case DType::kI5:
      return "int5";
    case DType::kI32:
      return "int32";
  }
  return "?";
}

using BF16 = uint16_t;  // the upper half of an fp32
using F16 = uint16_t;   // IEEE binary16

inline float BF16ToFloat(BF16 value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Rounds to nearest, ties to even. NaN stays NaN, and subnormal values are not flushed to zero.
inline BF16 FloatToBF16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<BF16>((bits >> 16) | 0x40u);
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<BF16>(bits >> 16);
}

inline float F16ToFloat(F16 value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  uint32_t exponent = (value >> 10) & 0x1fu;
  uint32_t mantissa = value & 0x3ffu;
  uint32_t bits;
  if (exponent == 0x1f) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else if (mantissa == 0) {
    bits = sign;
  } else {  // a subnormal value: normalise its mantissa
    exponent = 113;
    while ((mantissa & 0x400u) == 0) {
      mantissa <<= 1;
      --exponent;
    }
    bits = sign | (exponent << 23) | ((mantissa & 0x3ffu) << 13);
  }
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Rounds to nearest, ties to even. NaN stays NaN, and a magnitude that is too large becomes
// infinity.
inline F16 FloatToF16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<F16>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<F16>(sign | 0x7c00u);  // 65520 and above
  if (magnitude < 0x33000000u) return static_cast<F16>(sign);             // below 2^-25
  const uint32_t exponent = magnitude >> 23;
  // The number of significand bits of the fp32 number that fp16 cannot hold: 13 (23 - 10) for a
  // normal result, more for a subnormal result.
  const uint32_t drop = exponent >= 113 ? 13 : 126 - exponent;
  uint32_t kept = magnitude;
  if (exponent < 113) kept = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t half = 1u << (drop - 1);
  kept = (kept + half - 1 + ((kept >> drop) & 1u)) >> drop;
  if (exponent >= 113) kept -= 112u << 10;
  return static_cast<F16>(sign | kept);
}

template <class T>
constexpr T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}
template <class T>
constexpr T RoundUp(T a, T b) {
  return CeilDiv(a, b) * b;
}

}  // namespace tessera

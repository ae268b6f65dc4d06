// V16, the vector of 16 floats, on AVX2 with FMA and F16C: two registers. Pure functions.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define TESSERA_INLINE static inline __attribute__((always_inline))

namespace tessera::cpu::TESSERA_ISA {

struct V16 {
  __m256 lo, hi;
};

inline constexpr int kMaxRows = 6;  // rows of a register tile with one panel

// Forces *x into registers at this point and hides its value from the optimiser.
TESSERA_INLINE void KeepInRegister(V16* x) { asm volatile("" : "+x"(x->lo), "+x"(x->hi)); }
TESSERA_INLINE V16 Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
TESSERA_INLINE V16 Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
TESSERA_INLINE V16 Load(const void* p) {
  const float* const f = static_cast<const float*>(p);
  return {_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
}
TESSERA_INLINE void Store(void* p, V16 x) {
  float* const f = static_cast<float*>(p);
  _mm256_storeu_ps(f, x.lo);
  _mm256_storeu_ps(f + 8, x.hi);
}
TESSERA_INLINE __m256i Lanes(int first) {
  return _mm256_add_epi32(_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), _mm256_set1_epi32(first));
}
TESSERA_INLINE __m256i LanesBelow(int first, int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), Lanes(first));
}
// LoadN and StoreN access the first `count` lanes only: LoadN sets the other lanes to 0, StoreN
// does not write them.
TESSERA_INLINE V16 LoadN(const float* p, int64_t count) {
  return {_mm256_maskload_ps(p, LanesBelow(0, count)),
          _mm256_maskload_ps(p + 8, LanesBelow(8, count))};
}
TESSERA_INLINE void StoreN(float* p, V16 x, int64_t count) {
  _mm256_maskstore_ps(p, LanesBelow(0, count), x.lo);
  _mm256_maskstore_ps(p + 8, LanesBelow(8, count), x.hi);
}

TESSERA_INLINE V16 Add(V16 a, V16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
TESSERA_INLINE V16 Sub(V16 a, V16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
TESSERA_INLINE V16 Mul(V16 a, V16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
TESSERA_INLINE V16 Div(V16 a, V16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
// Returns a * b + c, rounded once.
TESSERA_INLINE V16 Fma(V16 a, V16 b, V16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// Max and Min return the second operand in a lane where either operand is NaN.
TESSERA_INLINE V16 Max(V16 a, V16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
TESSERA_INLINE V16 Min(V16 a, V16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
TESSERA_INLINE V16 Abs(V16 a) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(a.lo, mask), _mm256_and_ps(a.hi, mask)};
}
TESSERA_INLINE V16 RoundToInt(V16 a) {
  return {_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
TESSERA_INLINE __m256 PowerOfTwo8(__m256 n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
// Returns 2^n for integral n in [-126, 127].
TESSERA_INLINE V16 PowerOfTwo(V16 n) { return {PowerOfTwo8(n.lo), PowerOfTwo8(n.hi)}; }
// Returns a < b ? x : y in each lane.
TESSERA_INLINE V16 SelectLess(V16 a, V16 b, V16 x, V16 y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
TESSERA_INLINE __m256 KeepLanes8(__m256 x, int first, int32_t begin, int32_t end, __m256 other) {
  const __m256i drop = _mm256_cmpgt_epi32(_mm256_set1_epi32(begin), Lanes(first));
  const __m256i keep = _mm256_andnot_si256(drop, LanesBelow(first, end));
  return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(keep));
}
// Returns x in lanes [begin, end) and `other` in all other lanes. `begin` and `end` may lie outside
// [0, 16].
TESSERA_INLINE V16 KeepLanes(V16 x, int32_t begin, int32_t end, V16 other) {
  return {KeepLanes8(x.lo, 0, begin, end, other.lo), KeepLanes8(x.hi, 8, begin, end, other.hi)};
}

// The stages of strides 1, 2 and 4 of RotateLanes on 8 lanes.
TESSERA_INLINE __m256 RotateLanes8(__m256 x) {
  const __m256 sign1 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
  const __m256 sign2 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
  const __m256 sign4 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
  x = _mm256_fmadd_ps(x, sign1, _mm256_permute_ps(x, 0xb1));
  x = _mm256_fmadd_ps(x, sign2, _mm256_permute_ps(x, 0x4e));
  return _mm256_fmadd_ps(x, sign4, _mm256_permute2f128_ps(x, x, 1));
}
// Returns the stages of strides 1, 2, 4 and 8 of a rotation (kernels/device/quantize.h) of the
// lanes. The multiplication of a lane by -1 is exact.
TESSERA_INLINE V16 RotateLanes(V16 x) {
  const __m256 lo = RotateLanes8(x.lo);
  const __m256 hi = RotateLanes8(x.hi);
  return {_mm256_add_ps(lo, hi), _mm256_sub_ps(lo, hi)};
}

// ReduceAdd and ReduceMax combine the 16 lanes in a fixed order: lane i with lane i + 8, then with
// lanes i + 4, i + 2 and i + 1.
TESSERA_INLINE float ReduceAdd(V16 x) {
  const __m256 half = _mm256_add_ps(x.lo, x.hi);
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
TESSERA_INLINE float ReduceMax(V16 x) {
  const __m256 half = _mm256_max_ps(x.lo, x.hi);
  const __m128 q = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

TESSERA_INLINE __m256 WidenBF16(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
TESSERA_INLINE V16 LoadBF16(const void* p) {
  const __m128i* const h = static_cast<const __m128i*>(p);
  return {WidenBF16(_mm_loadu_si128(h)), WidenBF16(_mm_loadu_si128(h + 1))};
}
// LoadPairsFirst and LoadPairsSecond read 16 pairs of bf16 and return the first or the second
// number of each pair as floats.
TESSERA_INLINE V16 LoadPairsFirst(const void* p) {
  const __m256i* const w = static_cast<const __m256i*>(p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(w), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(w + 1), 16))};
}
TESSERA_INLINE V16 LoadPairsSecond(const void* p) {
  const float* const f = static_cast<const float*>(p);
  const __m256 upper = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xffff0000u)));
  return {_mm256_and_ps(_mm256_loadu_ps(f), upper), _mm256_and_ps(_mm256_loadu_ps(f + 8), upper)};
}
TESSERA_INLINE __m256 RoundBF16x8(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256 value = _mm256_blendv_ps(_mm256_castsi256_ps(sum), _mm256_castsi256_ps(quiet), nan);
  return _mm256_and_ps(value,
                       _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
// Rounds each lane to the nearest bf16 (ties to even, NaN stays NaN), as a float.
TESSERA_INLINE V16 RoundBF16(V16 x) { return {RoundBF16x8(x.lo), RoundBF16x8(x.hi)}; }
// Rounds the lanes to bf16 and stores the 16 numbers.
TESSERA_INLINE void StoreBF16(void* p, V16 x) {
  const V16 rounded = RoundBF16(x);
  const __m256i lo = _mm256_srli_epi32(_mm256_castps_si256(rounded.lo), 16);
  const __m256i hi = _mm256_srli_epi32(_mm256_castps_si256(rounded.hi), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(lo, hi), 0xd8);
  _mm256_storeu_si256(static_cast<__m256i*>(p), packed);
}
// Returns the 4 bytes at p in every lane.
TESSERA_INLINE V16 BroadcastWord(const void* p) {
  const __m256 word = _mm256_broadcast_ss(static_cast<const float*>(p));
  return {word, word};
}

// out[i][j] = in[j][i] for 8 rows of 8 words of 4 bytes. `rows[j] + offset` points at row j of the
// input; rows of `out` are 64 bytes apart.
TESSERA_INLINE void TransposeWords8(const void* const* rows, int64_t offset, float* out) {
  __m256 r[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    r[i] =
        _mm256_loadu_ps(reinterpret_cast<const float*>(static_cast<const char*>(rows[i]) + offset));
  }
  __m256 t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + 16 * i, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(out + 16 * (i + 4), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}
// out[i][j] = in[j][i] for 16 rows of 16 words of 4 bytes. `rows[j] + offset` points at row j of
// the input; `out` has 16 * 64 bytes.
TESSERA_INLINE void TransposeWords(const void* const* rows, int64_t offset, void* out) {
  float* const o = static_cast<float*>(out);
  TransposeWords8(rows, offset, o);
  TransposeWords8(rows + 8, offset, o + 8);
  TransposeWords8(rows, offset + 32, o + 16 * 8);
  TransposeWords8(rows + 8, offset + 32, o + 16 * 8 + 8);
}

}  // namespace tessera::cpu::TESSERA_ISA

// V16, the vector of 16 floats, on AVX-512 (F, BW, DQ, VL): one register. Pure functions.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns that the "undefined" vectors in its own AVX-512 headers are uninitialised (GCC bug
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <cstdint>

#define TESSERA_INLINE static inline __attribute__((always_inline))

namespace tessera::cpu::TESSERA_ISA {

struct V16 {
  __m512 v;
};

inline constexpr int kMaxRows = 12;  // rows of a register tile with two panels

// Forces *x into a register at this point and hides its value from the optimiser.
TESSERA_INLINE void KeepInRegister(V16* x) { asm volatile("" : "+v"(x->v)); }
TESSERA_INLINE V16 Zero() { return {_mm512_setzero_ps()}; }
TESSERA_INLINE V16 Set1(float x) { return {_mm512_set1_ps(x)}; }
TESSERA_INLINE V16 Load(const void* p) { return {_mm512_loadu_ps(p)}; }
TESSERA_INLINE void Store(void* p, V16 x) { _mm512_storeu_ps(p, x.v); }
TESSERA_INLINE __mmask16 FirstLanes(int64_t count) {
  return count >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << count) - 1u);
}
// LoadN and StoreN access the first `count` lanes only: LoadN sets the other lanes to 0, StoreN
// does not write them.
TESSERA_INLINE V16 LoadN(const float* p, int64_t count) {
  return {_mm512_maskz_loadu_ps(FirstLanes(count), p)};
}
TESSERA_INLINE void StoreN(float* p, V16 x, int64_t count) {
  _mm512_mask_storeu_ps(p, FirstLanes(count), x.v);
}

TESSERA_INLINE V16 Add(V16 a, V16 b) { return {_mm512_add_ps(a.v, b.v)}; }
TESSERA_INLINE V16 Sub(V16 a, V16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
TESSERA_INLINE V16 Mul(V16 a, V16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
TESSERA_INLINE V16 Div(V16 a, V16 b) { return {_mm512_div_ps(a.v, b.v)}; }
// Returns a * b + c, rounded once.
TESSERA_INLINE V16 Fma(V16 a, V16 b, V16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// Max and Min return the second operand in a lane where either operand is NaN.
TESSERA_INLINE V16 Max(V16 a, V16 b) { return {_mm512_max_ps(a.v, b.v)}; }
TESSERA_INLINE V16 Min(V16 a, V16 b) { return {_mm512_min_ps(a.v, b.v)}; }
TESSERA_INLINE V16 Abs(V16 a) { return {_mm512_abs_ps(a.v)}; }
TESSERA_INLINE V16 RoundToInt(V16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// Returns 2^n for integral n in [-126, 127].
TESSERA_INLINE V16 PowerOfTwo(V16 n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}
// Returns a < b ? x : y in each lane.
TESSERA_INLINE V16 SelectLess(V16 a, V16 b, V16 x, V16 y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
// Returns x in lanes [begin, end) and `other` in all other lanes. `begin` and `end` may lie outside
// [0, 16].
TESSERA_INLINE V16 KeepLanes(V16 x, int32_t begin, int32_t end, V16 other) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __mmask16 keep = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(begin)) &
                         _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(end));
  return {_mm512_mask_blend_ps(keep, other.v, x.v)};
}

// Returns other - x in the lanes of kSecond, and x + other in the other lanes.
template <unsigned kSecond>
TESSERA_INLINE __m512 AddOrSubtract(__m512 x, __m512 other) {
  return _mm512_mask_sub_ps(_mm512_add_ps(x, other), static_cast<__mmask16>(kSecond), other, x);
}
// Returns the stages of strides 1, 2, 4 and 8 of a rotation (kernels/device/quantize.h) of the
// lanes.
TESSERA_INLINE V16 RotateLanes(V16 x) {
  x.v = AddOrSubtract<0xaaaau>(x.v, _mm512_permute_ps(x.v, 0xb1));
  x.v = AddOrSubtract<0xccccu>(x.v, _mm512_permute_ps(x.v, 0x4e));
  x.v = AddOrSubtract<0xf0f0u>(x.v, _mm512_shuffle_f32x4(x.v, x.v, 0xb1));
  return {AddOrSubtract<0xff00u>(x.v, _mm512_shuffle_f32x4(x.v, x.v, 0x4e))};
}

// ReduceAdd and ReduceMax combine the 16 lanes in a fixed order: lane i with lane i + 8, then with
// lanes i + 4, i + 2 and i + 1.
TESSERA_INLINE float ReduceAdd(V16 x) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
TESSERA_INLINE float ReduceMax(V16 x) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 q = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

TESSERA_INLINE V16 LoadBF16(const void* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
// LoadPairsFirst and LoadPairsSecond read 16 pairs of bf16 and return the first or the second
// number of each pair as floats.
TESSERA_INLINE V16 LoadPairsFirst(const void* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
}
TESSERA_INLINE V16 LoadPairsSecond(const void* p) {
  return {_mm512_castsi512_ps(
      _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
// Rounds each lane to the nearest bf16 (ties to even, NaN stays NaN), as a float.
TESSERA_INLINE V16 RoundBF16(V16 x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i value = _mm512_mask_blend_epi32(nan, sum, quiet);
  return {_mm512_castsi512_ps(
      _mm512_and_si512(value, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
// Rounds the lanes to bf16 and stores the 16 numbers.
TESSERA_INLINE void StoreBF16(void* p, V16 x) {
  const __m512i bits = _mm512_srli_epi32(_mm512_castps_si512(RoundBF16(x).v), 16);
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(bits));
}

#if defined(TESSERA_ISA_AVX512BF16) || defined(TESSERA_ISA_AMX)
#define TESSERA_HAS_DOT_BF16 1
// Returns acc + a.first * b.first + a.second * b.second for the bf16 pair in each lane.
TESSERA_INLINE V16 DotPairs(V16 acc, V16 a, V16 b) {
  return {_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v)};
}
// Does the same as StoreBF16, except that subnormal numbers become 0.
TESSERA_INLINE void StoreNormalBF16(void* p, V16 x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x.v));
}
// Reads 16 bf16 at `first` and 16 at `second`; lane i of the result is the pair of their i-th
// numbers.
TESSERA_INLINE V16 PairBF16(const void* first, const void* second) {
  const __m512i a = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(first)));
  const __m512i b = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(second)));
  return {_mm512_castsi512_ps(_mm512_or_si512(a, _mm512_slli_epi32(b, 16)))};
}
#endif
// Returns the 4 bytes at p in every lane.
TESSERA_INLINE V16 BroadcastWord(const void* p) {
  return {_mm512_set1_ps(*static_cast<const float*>(p))};
}

// out[i][j] = in[j][i] for 16 rows of 16 words of 4 bytes. `rows[j] + offset` points at row j of
// the input; `out` has 16 * 64 bytes.
TESSERA_INLINE void TransposeWords(const void* const* rows, int64_t offset, void* out) {
  __m512i r[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    r[i] = _mm512_loadu_si512(static_cast<const char*>(rows[i]) + offset);
  }
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  char* const o = static_cast<char*>(out);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_si512(o + 64 * i, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
    _mm512_storeu_si512(o + 64 * (i + 4), _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
    _mm512_storeu_si512(o + 64 * (i + 8), _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
    _mm512_storeu_si512(o + 64 * (i + 12), _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
  }
}

}  // namespace tessera::cpu::TESSERA_ISA

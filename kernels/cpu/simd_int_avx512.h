// I16, the vector of 16 int32, on AVX-512 (one register), and dot products of bytes with and
// without VNNI. Pure functions.
#pragma once

#include <cstring>

namespace tessera::cpu::TESSERA_ISA {

struct I16 {
  __m512i v;
};

inline constexpr int kMaxQuantRows = 12;  // rows of a register tile of quantised weights
// The largest number of panels of a register tile of quantised weights.
constexpr int QuantTilePanels(int rows) { return rows <= 6 ? 4 : 2; }
// Whether the registers hold a tile's dot products and, besides, its sums across groups.
constexpr bool GroupSumsFit(int rows, int panels) { return (2 * rows + 1) * panels <= 26; }
inline constexpr int kMaxGroupedRows = 6;  // rows of a register tile of int4 weights

TESSERA_INLINE void KeepInRegister(I16* x) { asm volatile("" : "+v"(x->v)); }
TESSERA_INLINE I16 BroadcastInt(int32_t x) { return {_mm512_set1_epi32(x)}; }
TESSERA_INLINE I16 LoadInts(const void* p) { return {_mm512_loadu_si512(p)}; }
// Reads 16 unsigned bytes.
TESSERA_INLINE I16 LoadWideBytes(const void* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
}
// Reads 16 signed bytes.
TESSERA_INLINE I16 LoadSignedBytes(const void* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
}
// Transposes bytes [16][4] to [4][16], in place.
TESSERA_INLINE void TransposeBytes(void* p) {
  const __m512i by_byte =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i words = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i x = _mm512_shuffle_epi8(_mm512_loadu_si512(p), by_byte);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi32(words, x));
}
// Stores the lowest byte of every lane.
TESSERA_INLINE void StoreBytes(void* p, I16 x) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}
TESSERA_INLINE I16 AddInts(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
TESSERA_INLINE I16 SubInts(I16 a, I16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
TESSERA_INLINE I16 MulInts(I16 a, I16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
TESSERA_INLINE I16 MaxInts(I16 a, I16 b) { return {_mm512_max_epi32(a.v, b.v)}; }
TESSERA_INLINE int32_t ReduceAddInts(I16 x) { return _mm512_reduce_add_epi32(x.v); }
TESSERA_INLINE int32_t ReduceMaxInts(I16 x) { return _mm512_reduce_max_epi32(x.v); }
TESSERA_INLINE V16 ToFloats(I16 x) { return {_mm512_cvtepi32_ps(x.v)}; }
// Rounds to the nearest integer, ties to even.
TESSERA_INLINE I16 RoundToInts(V16 x) { return {_mm512_cvtps_epi32(x.v)}; }
// Returns the bit patterns of the floats.
TESSERA_INLINE I16 Bits(V16 x) { return {_mm512_castps_si512(x.v)}; }
TESSERA_INLINE V16 LoadF16(const void* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
// Returns the 4 bytes at p in every lane.
TESSERA_INLINE I16 BroadcastBytes(const void* p) {
  int32_t word;
  std::memcpy(&word, p, sizeof(word));
  return {_mm512_set1_epi32(word)};
}

TESSERA_INLINE I16 ShiftRight(I16 x, int bits) {
  return {_mm512_srli_epi32(x.v, static_cast<unsigned>(bits))};
}
// Returns the bits [32 - right, 32) of x << left, as signed numbers.
TESSERA_INLINE I16 SignedBits(I16 x, int left, int right) {
  return {_mm512_srai_epi32(_mm512_slli_epi32(x.v, static_cast<unsigned>(left)),
                            static_cast<unsigned>(right))};
}
// FlipBytes and FlipNibbles turn unsigned codes into signed numbers that are 128 or 8 less.
TESSERA_INLINE I16 FlipBytes(I16 x) { return {_mm512_xor_si512(x.v, _mm512_set1_epi8(-128))}; }
TESSERA_INLINE I16 FlipNibbles(I16 x) {
  return {_mm512_xor_si512(x.v, _mm512_set1_epi8(static_cast<char>(0x88)))};
}
#if defined(TESSERA_HAS_DOT_BF16)
// Returns the bf16 pair of the two integers in each lane. REQUIRES: they are in [-256, 256], so
// that bf16 represents them exactly.
TESSERA_INLINE V16 PairOfSmallInts(I16 first, I16 second) {
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(first.v)), 16);
  const __m512i high = _mm512_castps_si512(_mm512_cvtepi32_ps(second.v));
  return {_mm512_castsi512_ps(_mm512_mask_blend_epi16(0xaaaaaaaau, low, high))};
}
// Returns, for each lane, the bf16 pair of the int4 weights code - 8 whose codes are the lowest
// bits of the lane's two halves. The upper bits of the halves may have any value.
TESSERA_INLINE V16 PairsOfNibbles(I16 x) {
  // The permutation reads 5 bits of each half as an index, so the table holds the weights twice.
  const __m512i weights = _mm512_broadcast_i64x4(_mm256_setr_epi16(
      static_cast<int16_t>(0xc100), static_cast<int16_t>(0xc0e0), static_cast<int16_t>(0xc0c0),
      static_cast<int16_t>(0xc0a0), static_cast<int16_t>(0xc080), static_cast<int16_t>(0xc040),
      static_cast<int16_t>(0xc000), static_cast<int16_t>(0xbf80), 0x0000, 0x3f80, 0x4000, 0x4040,
      0x4080, 0x40a0, 0x40c0, 0x40e0));
  return {_mm512_castsi512_ps(_mm512_permutexvar_epi16(x.v, weights))};
}
// The same for int5 weights code - 16, whose codes are the lowest 5 bits of the halves.
TESSERA_INLINE V16 PairsOfFiveBits(I16 x) {
  alignas(64) static constexpr uint16_t kWeights[32] = {
      0xc180, 0xc170, 0xc160, 0xc150, 0xc140, 0xc130, 0xc120, 0xc110, 0xc100, 0xc0e0, 0xc0c0,
      0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0,
      0x40c0, 0x40e0, 0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170};
  return {_mm512_castsi512_ps(_mm512_permutexvar_epi16(x.v, _mm512_load_si512(kWeights)))};
}
// Stores 16 numbers that bf16 represents exactly in the order of columns of RoundRow
// (weight_only_kernels.cc): columns 0, 2, 1, 3 of each run of four.
TESSERA_INLINE void StoreColumns(void* p, V16 x) {
  StoreNormalBF16(p, {_mm512_permute_ps(x.v, 0xd8)});
}
#else
TESSERA_INLINE void StoreColumns(void* p, V16 x) { _mm512_storeu_ps(p, x.v); }
#endif

TESSERA_INLINE I16 LowNibbles(I16 x) { return {_mm512_and_si512(x.v, _mm512_set1_epi8(15))}; }
TESSERA_INLINE I16 HighNibbles(I16 x) {
  return {_mm512_and_si512(_mm512_srli_epi32(x.v, 4), _mm512_set1_epi8(15))};
}

// Returns x with bit 4 of byte i set if bit i of the 64 bits at p is set. REQUIRES: the bytes of x
// are in [0, 15].
TESSERA_INLINE I16 WithFifthBits(I16 x, const void* p) {
  uint64_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return {_mm512_mask_add_epi8(x.v, bits, x.v, _mm512_set1_epi8(16))};
}

// Whether NibbleProducts exists (simd_int_avx2.h). Its sums would need more registers than the
// tiles of AVX-512 leave.
inline constexpr bool kHasNibbleProducts = false;

// DotBytes multiplies by code - kByteShift, where the codes are the unsigned bytes that
// LoadByteWeights reads.
#if defined(__AVX512VNNI__)
inline constexpr int kByteShift = 0;
struct ByteWeights {
  __m512i v;
};
TESSERA_INLINE ByteWeights LoadByteWeights(const void* p) { return {_mm512_loadu_si512(p)}; }
// Adds to each lane of `acc` the sum over the lane's 4 bytes of (code - kByteShift) * x. REQUIRES:
// the bytes of x are signed and in [-127, 127].
TESSERA_INLINE I16 DotBytes(I16 acc, ByteWeights w, I16 x) {
  return {_mm512_dpbusd_epi32(acc.v, w.v, x.v)};
}
// Adds to each lane of `acc` the sum over the lane's 4 bytes of w * x, for w in [0, 31].
TESSERA_INLINE I16 DotNibbles(I16 acc, I16 w, I16 x) {
  return {_mm512_dpbusd_epi32(acc.v, w.v, x.v)};
}
#else
// maddubs multiplies unsigned with signed bytes and saturates the sum of two products to 16 bits.
// So the codes are shifted to signed weights; the unsigned operand is a weight's magnitude, and the
// weight's sign is applied to x. A sum is then at most 2 * 128 * 127, which does not saturate.
inline constexpr int kByteShift = 128;
struct ByteWeights {
  __m512i magnitude;
  __mmask64 negative;
};
TESSERA_INLINE ByteWeights LoadByteWeights(const void* p) {
  const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128));
  return {_mm512_abs_epi8(w), _mm512_movepi8_mask(w)};
}
TESSERA_INLINE I16 DotNibbles(I16 acc, I16 w, I16 x) {
  const __m512i pairs = _mm512_maddubs_epi16(w.v, x.v);
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
TESSERA_INLINE I16 DotBytes(I16 acc, ByteWeights w, I16 x) {
  const __m512i signed_x = _mm512_mask_sub_epi8(x.v, w.negative, _mm512_setzero_si512(), x.v);
  return DotNibbles(acc, {w.magnitude}, {signed_x});
}
#endif

}  // namespace tessera::cpu::TESSERA_ISA

// I16, the vector of 16 int32, on AVX2 (two registers), and dot products of bytes with and without
// VNNI. Pure functions.
#pragma once

#include <cstring>

namespace tessera::cpu::TESSERA_ISA {

struct I16 {
  __m256i lo, hi;
};

#if defined(__AVXVNNI__)
inline constexpr int kMaxQuantRows = 6;  // rows of a register tile of quantised weights
#else
inline constexpr int kMaxQuantRows = 4;
#endif
// The largest number of panels of a register tile of quantised weights.
constexpr int QuantTilePanels(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
// Whether the registers hold a tile's dot products and, besides, its sums across groups.
constexpr bool GroupSumsFit(int rows, int panels) { return false; }
inline constexpr int kMaxGroupedRows = kMaxQuantRows;  // rows of a register tile of int4 weights

TESSERA_INLINE void KeepInRegister(I16* x) { asm volatile("" : "+x"(x->lo), "+x"(x->hi)); }
TESSERA_INLINE I16 BroadcastInt(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
TESSERA_INLINE I16 LoadInts(const void* p) {
  const __m256i* const w = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(w), _mm256_loadu_si256(w + 1)};
}
// Reads 16 unsigned bytes.
TESSERA_INLINE I16 LoadWideBytes(const void* p) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
// Reads 16 signed bytes.
TESSERA_INLINE I16 LoadSignedBytes(const void* p) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
}
// Transposes bytes [16][4] to [4][16], in place.
TESSERA_INLINE void TransposeBytes(void* p) {
  const __m256i by_byte = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m256i pairs = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const I16 x = LoadInts(p);
  const __m256i a = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x.lo, by_byte), pairs);
  const __m256i b = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x.hi, by_byte), pairs);
  const __m256i even = _mm256_unpacklo_epi64(a, b);
  const __m256i odd = _mm256_unpackhi_epi64(a, b);
  __m256i* const out = static_cast<__m256i*>(p);
  _mm256_storeu_si256(out, _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(even, odd, 0x31));
}
// Stores every lane as a byte. REQUIRES: all lanes are in [-128, 127].
TESSERA_INLINE void StoreBytes(void* p, I16 x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.lo, x.hi), 0xd8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(static_cast<__m128i*>(p), bytes);
}
TESSERA_INLINE I16 AddInts(I16 a, I16 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
TESSERA_INLINE I16 SubInts(I16 a, I16 b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
TESSERA_INLINE I16 MulInts(I16 a, I16 b) {
  return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
}
TESSERA_INLINE I16 MaxInts(I16 a, I16 b) {
  return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
}
TESSERA_INLINE int32_t ReduceAddInts(I16 x) {
  const __m256i half = _mm256_add_epi32(x.lo, x.hi);
  __m128i q = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
TESSERA_INLINE int32_t ReduceMaxInts(I16 x) {
  const __m256i half = _mm256_max_epi32(x.lo, x.hi);
  __m128i q = _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
TESSERA_INLINE V16 ToFloats(I16 x) { return {_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)}; }
// Rounds to the nearest integer, ties to even.
TESSERA_INLINE I16 RoundToInts(V16 x) {
  return {_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi)};
}
// Returns the bit patterns of the floats.
TESSERA_INLINE I16 Bits(V16 x) { return {_mm256_castps_si256(x.lo), _mm256_castps_si256(x.hi)}; }
TESSERA_INLINE V16 LoadF16(const void* p) {
  const __m128i* const h = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}
// Returns the 4 bytes at p in every lane.
TESSERA_INLINE I16 BroadcastBytes(const void* p) {
  int32_t word;
  std::memcpy(&word, p, sizeof(word));
  return BroadcastInt(word);
}

// Returns the bits [32 - right, 32) of x << left, as signed numbers.
TESSERA_INLINE I16 SignedBits(I16 x, int left, int right) {
  return {_mm256_srai_epi32(_mm256_slli_epi32(x.lo, left), right),
          _mm256_srai_epi32(_mm256_slli_epi32(x.hi, left), right)};
}
// FlipBytes and FlipNibbles turn unsigned codes into signed numbers that are 128 or 8 less.
TESSERA_INLINE I16 FlipBytes(I16 x) {
  const __m256i flip = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(x.lo, flip), _mm256_xor_si256(x.hi, flip)};
}
TESSERA_INLINE I16 FlipNibbles(I16 x) {
  const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x88));
  return {_mm256_xor_si256(x.lo, flip), _mm256_xor_si256(x.hi, flip)};
}
// Stores 16 elements of a row for weights of RoundRow (weight_only_kernels.cc).
TESSERA_INLINE void StoreColumns(void* p, V16 x) { Store(static_cast<float*>(p), x); }

TESSERA_INLINE I16 LowNibbles(I16 x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.lo, mask), _mm256_and_si256(x.hi, mask)};
}
TESSERA_INLINE I16 HighNibbles(I16 x) {
  return LowNibbles({_mm256_srli_epi32(x.lo, 4), _mm256_srli_epi32(x.hi, 4)});
}

TESSERA_INLINE __m256i FifthBits(int32_t bits) {
  const __m256i byte_of =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
  const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte_of);
  const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of), bit_of);
  return _mm256_and_si256(set, _mm256_set1_epi8(16));
}
// Returns x with bit 4 of byte i set if bit i of the 64 bits at p is set. REQUIRES: the bytes of x
// are in [0, 15].
TESSERA_INLINE I16 WithFifthBits(I16 x, const void* p) {
  int32_t bits[2];
  std::memcpy(bits, p, sizeof(bits));
  return {_mm256_or_si256(x.lo, FifthBits(bits[0])), _mm256_or_si256(x.hi, FifthBits(bits[1]))};
}

// DotBytes multiplies by code - kByteShift, where the codes are the unsigned bytes that
// LoadByteWeights reads.
#if defined(__AVXVNNI__)
inline constexpr int kByteShift = 0;
inline constexpr bool kHasNibbleProducts = false;
using ByteWeights = I16;
TESSERA_INLINE ByteWeights LoadByteWeights(const void* p) { return LoadInts(p); }
// Adds to each lane of `acc` the sum over the lane's 4 bytes of (code - kByteShift) * x. REQUIRES:
// the bytes of x are signed and in [-127, 127].
TESSERA_INLINE I16 DotBytes(I16 acc, ByteWeights w, I16 x) {
  return {_mm256_dpbusd_avx_epi32(acc.lo, w.lo, x.lo), _mm256_dpbusd_avx_epi32(acc.hi, w.hi, x.hi)};
}
// Adds to each lane of `acc` the sum over the lane's 4 bytes of w * x, for w in [0, 31].
TESSERA_INLINE I16 DotNibbles(I16 acc, I16 w, I16 x) { return DotBytes(acc, w, x); }
#else
// maddubs multiplies unsigned with signed bytes and saturates the sum of two products to 16 bits.
// So the codes are shifted to signed weights; the unsigned operand is a weight's magnitude, and the
// weight's sign is applied to x. A sum is then at most 2 * 128 * 127, which does not saturate.
inline constexpr int kByteShift = 128;
inline constexpr bool kHasNibbleProducts = true;
struct ByteWeights {
  I16 w;
};
TESSERA_INLINE ByteWeights LoadByteWeights(const void* p) {
  const I16 w = LoadInts(p);
  const __m256i flip = _mm256_set1_epi8(-128);
  return {{_mm256_xor_si256(w.lo, flip), _mm256_xor_si256(w.hi, flip)}};
}
// Returns the sums of two products w * x of neighbouring bytes, as 16-bit numbers of at most
// 2 * max(w) * 127, for w in [0, 31]. The products of several pairs are added (AddWords) before
// AddPairs widens them, which takes one multiplication for all of them.
TESSERA_INLINE I16 NibbleProducts(I16 w, I16 x) {
  return {_mm256_maddubs_epi16(w.lo, x.lo), _mm256_maddubs_epi16(w.hi, x.hi)};
}
TESSERA_INLINE I16 AddWords(I16 a, I16 b) {
  return {_mm256_add_epi16(a.lo, b.lo), _mm256_add_epi16(a.hi, b.hi)};
}
// Adds to each lane of `acc` the sum of the lane's two 16-bit numbers.
TESSERA_INLINE I16 AddPairs(I16 acc, I16 words) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(acc.lo, _mm256_madd_epi16(words.lo, ones)),
          _mm256_add_epi32(acc.hi, _mm256_madd_epi16(words.hi, ones))};
}
TESSERA_INLINE I16 DotNibbles(I16 acc, I16 w, I16 x) { return AddPairs(acc, NibbleProducts(w, x)); }
TESSERA_INLINE I16 DotBytes(I16 acc, ByteWeights b, I16 x) {
  const I16& w = b.w;
  const I16 magnitudes = {_mm256_abs_epi8(w.lo), _mm256_abs_epi8(w.hi)};
  return DotNibbles(acc, magnitudes, {_mm256_sign_epi8(x.lo, w.lo), _mm256_sign_epi8(x.hi, w.hi)});
}
#endif

}  // namespace tessera::cpu::TESSERA_ISA

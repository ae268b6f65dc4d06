// The numbers code - zero of the columns of lines of int8, int5 and int4 codes (quant_shape.h), for
// the zeros 128, 16 and 8 of symmetric formats, for products with bf16 rows. Included by the
// per-ISA sources only; pure functions.
#pragma once

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/simd.h"

namespace tessera::cpu::TESSERA_ISA {

// A Columns type unpacks a step of kLines lines, which hold kCols columns, into kParts vectors of
// weights code - kShift.
//
// Column k of a line lies in bits [8 k, 8 k + 8) of a lane (int8), or in 4 bits from 8 (k % 4) + 4
// (k / 4) on (int4). A flipped code is a signed number, code - 128 or code - 8.

// Returns the int5 codes, as bytes, of run `run` of four columns of a step of five lines.
TESSERA_INLINE I16 FiveBitCodes(const char* b, int run) {
  const I16 line = LoadInts(b + run / 2 * kCacheLine);
  return WithFifthBits(run % 2 == 0 ? LowNibbles(line) : HighNibbles(line),
                       b + 4 * kCacheLine + 8 * run);
}

#if defined(TESSERA_HAS_DOT_BF16)
// A part is the bf16 pairs of two columns that lie two apart; RoundRow stores a row in the order of
// these pairs.
struct Int8Columns {
  static constexpr int kLines = 1;
  static constexpr int kCols = 4;
  static constexpr int kParts = 2;
  static constexpr int kShift = 128;
  TESSERA_INLINE V16 Outputs(const char* b, int part) {
    const I16 codes = FlipBytes(LoadInts(b));
    return PairOfSmallInts(SignedBits(codes, 24 - 8 * part, 24),
                           SignedBits(codes, 8 - 8 * part, 24));
  }
};
struct Int4Columns {
  static constexpr int kLines = 1;
  static constexpr int kCols = 8;
  static constexpr int kParts = 4;
  static constexpr int kShift = 8;
  TESSERA_INLINE V16 Outputs(const char* b, int part) {
    return PairsOfNibbles(ShiftRight(LoadInts(b), 8 * (part % 2) + 4 * (part / 2)));
  }
};
struct Int5Columns {
  static constexpr int kLines = 5;
  static constexpr int kCols = 32;
  static constexpr int kParts = 16;
  static constexpr int kShift = 16;
  TESSERA_INLINE V16 Outputs(const char* b, int part) {
    return PairsOfFiveBits(ShiftRight(FiveBitCodes(b, part / 2), 8 * (part % 2)));
  }
};
#else
// A part is one column as fp32 numbers.
struct Int8Columns {
  static constexpr int kLines = 1;
  static constexpr int kCols = 4;
  static constexpr int kParts = 4;
  static constexpr int kShift = 128;
  TESSERA_INLINE V16 Outputs(const char* b, int part) {
    return ToFloats(SignedBits(FlipBytes(LoadInts(b)), 24 - 8 * part, 24));
  }
};
struct Int4Columns {
  static constexpr int kLines = 1;
  static constexpr int kCols = 8;
  static constexpr int kParts = 8;
  static constexpr int kShift = 8;
  TESSERA_INLINE V16 Outputs(const char* b, int part) {
    const int first_bit = 8 * (part % 4) + 4 * (part / 4);
    return ToFloats(SignedBits(FlipNibbles(LoadInts(b)), 28 - first_bit, 28));
  }
};
struct Int5Columns {
  static constexpr int kLines = 5;
  static constexpr int kCols = 32;
  static constexpr int kParts = 32;
  static constexpr int kShift = 16;
  TESSERA_INLINE V16 Outputs(const char* b, int part) {
    const I16 code = SignedBits(FiveBitCodes(b, part / 4), 24 - 8 * (part % 4), 24);
    return ToFloats(SubInts(code, BroadcastInt(kShift)));
  }
};
#endif

}  // namespace tessera::cpu::TESSERA_ISA

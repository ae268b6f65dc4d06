// The steps and the groups of a register tile with quantised weights (quant_tile.h): dot products
// within a group of columns, and sums across groups. Pure functions.
//
// A Codes type defines one step of the product: kLines lines of codes are unpacked into kParts
// vectors of weights, which are multiplied with the next kRowBytes bytes of a row. It has
//   kMaxRows                       the largest number of rows of a tile
//   MostPanels(rows)               the largest number of panels of a tile
//   SumsInRegisters(rows, panels)  whether the sums across groups stay in registers
//   kLines, kParts, kRowBytes      as above
//   kPartSums                      the number of parts whose products are added as 16-bit numbers
//                                  (NibbleProducts) before they are added to dots; 1: none
//   kShift                         a weight is code - kShift
//   kScaledRows                    whether a prepared row ends with its scale
//   Dots                           the vector of 16 dot products: I16 or V16
//   Weights, Outputs(line, part)   the weights of one part of a step
//   Row(row, part)                 the elements of a row for one part, in every lane
//   Dot(dots, weights, row)        dots + weights * row
//   Share(zero, sum)               zero * the sum of a group of a row, which is stored at `sum`
#pragma once

#include "kernels/cpu/gemm_loop.h"

namespace tessera::cpu::TESSERA_ISA {

TESSERA_INLINE V16 ToFloats(V16 x) { return x; }

// The largest number of panels of a tile if unpacking the codes takes several registers: beside 6
// rows times 4 panels, too few would be left.
constexpr int UnpackingPanels(int rows) {
  const int panels = QuantTilePanels(rows);
  return rows == 6 && panels > 2 ? 2 : panels;
}

// Returns the 16 scales of group g of a panel.
TESSERA_INLINE V16 LoadScales(const QuantShape& shape, const char* panel, int64_t g) {
  const char* const scales = panel + shape.scales;
  if (shape.scale_type == ScaleType::kBF16) return LoadBF16(scales + 2 * kPanel * g);
  if (shape.scale_type == ScaleType::kF16) return LoadF16(scales + 2 * kPanel * g);
  return Load(scales + 4 * kPanel * g);
}

// Prefetches the scales and zero points of a tile's panels, if the tile is bound by memory (the
// only tile of its panels). The codes are prefetched line by line during the product.
template <int kPanels>
TESSERA_INLINE void PrefetchScales(const QuantShape& shape, const TileProblem& tile) {
  if (tile.prefetch_stride != kCacheLine || shape.num_groups == 1) return;
  for (int64_t at = shape.scales; at < tile.panel_bytes; at += kCacheLine) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) __builtin_prefetch(tile.b + p * tile.panel_bytes + at);
  }
}

// Starts the dot products of group g with the share of the group's zero points: (kShift - zero) *
// sum of the row's elements.
template <class Codes, int kRows, int kPanels>
TESSERA_INLINE void StartGroup(const QuantShape& shape, const TileProblem& tile, int64_t g,
                               typename Codes::Dots (&dots)[kRows][kPanels]) {
  if constexpr (!Codes::kScaledRows) {
    // For bf16 rows, kShift is the zero point of symmetric formats.
    if (shape.zeros == 0) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) dots[r][p] = Zero();
      }
      return;
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    I16 zero = BroadcastInt(Codes::kShift - shape.symmetric_zero);
    if (shape.zeros != 0) {
      const char* const zeros = tile.b + p * tile.panel_bytes + shape.zeros + kPanel * g;
      zero = SubInts(BroadcastInt(Codes::kShift), LoadWideBytes(zeros));
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      dots[r][p] = Codes::Share(zero, tile.a + r * tile.a_stride + shape.row_sums + 4 * g);
    }
  }
}

// AddStep for Codes whose products are added as 16-bit numbers first. The loops of both functions
// are written out: with one function that calls a lambda, g++ unrolls other tiles differently.
template <class Codes, int kRows, int kPanels>
TESSERA_INLINE void AddStepInWords(const char* a, int64_t a_stride, const char* b,
                                   int64_t panel_bytes,
                                   typename Codes::Dots (&dots)[kRows][kPanels]) {
#pragma GCC unroll 8
  for (int first = 0; first < Codes::kParts; first += Codes::kPartSums) {
    typename Codes::Dots words[kRows][kPanels];
#pragma GCC unroll 4
    for (int part = first; part < first + Codes::kPartSums; ++part) {
      typename Codes::Weights w[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) w[p] = Codes::Outputs(b + p * panel_bytes, part);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const typename Codes::Dots x = Codes::Row(a + r * a_stride, part);
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) {
          const typename Codes::Dots products = NibbleProducts(w[p], x);
          words[r][p] = part == first ? products : AddWords(words[r][p], products);
          KeepInRegister(&words[r][p]);
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) dots[r][p] = AddPairs(dots[r][p], words[r][p]);
    }
  }
}

// Adds the products of one step: `a` are the next elements of the first row, `b` is the first line
// of the step in the first panel.
template <class Codes, int kRows, int kPanels>
TESSERA_INLINE void AddStep(const char* a, int64_t a_stride, const char* b, int64_t panel_bytes,
                            typename Codes::Dots (&dots)[kRows][kPanels]) {
#pragma GCC unroll 8
  for (int part = 0; part < Codes::kParts; ++part) {
    typename Codes::Weights w[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) w[p] = Codes::Outputs(b + p * panel_bytes, part);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const typename Codes::Dots x = Codes::Row(a + r * a_stride, part);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        dots[r][p] = Codes::Dot(dots[r][p], w[p], x);
        KeepInRegister(&dots[r][p]);  // without this call g++ reorders and spills registers
      }
    }
  }
}

// Adds the scaled dot products of group g to the sums across groups, which are `sums` if
// kSumsInRegisters, else tile.out.
template <bool kSumsInRegisters, class Dots, int kRows, int kPanels>
TESSERA_INLINE void EndGroup(const QuantShape& shape, const TileProblem& tile, int64_t g,
                             const Dots (&dots)[kRows][kPanels], V16 (&sums)[kRows][kPanels]) {
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const V16 scales = LoadScales(shape, tile.b + p * tile.panel_bytes, g);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      float* const stored = tile.out + r * tile.out_stride + p * kPanel;
      V16 sum = sums[r][p];
      if (!kSumsInRegisters && g > 0) sum = Load(stored);
      sum = Fma(scales, ToFloats(dots[r][p]), sum);
      if (kSumsInRegisters) {
        sums[r][p] = sum;
      } else {
        Store(stored, sum);
      }
    }
  }
}

// Stores the sums across groups, multiplied by the rows' scales if the rows have scales.
template <class Codes, bool kSumsInRegisters, int kRows, int kPanels>
TESSERA_INLINE void StoreSums(const QuantShape& shape, const TileProblem& tile,
                              const V16 (&sums)[kRows][kPanels]) {
  if (!Codes::kScaledRows && !kSumsInRegisters) return;  // EndGroup has stored them
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    V16 row_scale = Zero();
    if (Codes::kScaledRows) {
      row_scale = BroadcastWord(tile.a + r * tile.a_stride + shape.row_scale);
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      float* const y = tile.out + r * tile.out_stride + p * kPanel;
      const V16 sum = kSumsInRegisters ? sums[r][p] : Load(y);
      Store(y, Codes::kScaledRows ? Mul(sum, row_scale) : sum);
    }
  }
}

}  // namespace tessera::cpu::TESSERA_ISA

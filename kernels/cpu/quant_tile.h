// The register tile of a product with quantised weights, for int8 rows (quant_kernels.cc) and bf16
// rows (weight_only_kernels.cc): dot products within a group of columns, fp32 sums across groups.
// Every panel is read from memory once per block of rows; codes are unpacked in registers. Included
// by the per-ISA sources only; pure functions.
#pragma once

#include "kernels/cpu/quant_group.h"

namespace tessera::cpu::TESSERA_ISA {

// Computes one register tile of kRows rows times kPanels panels. The sums across groups stay in
// registers if they fit. Otherwise they are loaded and stored once per group, which with groups of
// 32 costs as much as the group's dot products.
template <class Codes, int kRows, int kPanels>
static void ComputeQuantTile(const QuantShape& shape, const TileProblem& tile) {
  constexpr bool kSumsInRegisters = Codes::SumsInRegisters(kRows, kPanels);
  const char* a = tile.a;
  const char* b = tile.b;
  const char* next = tile.prefetch;
  const int64_t next_stride = tile.prefetch_stride;
  const int64_t a_stride = tile.a_stride;
  const int64_t panel_bytes = tile.panel_bytes;
  int64_t lines_left = tile.steps;
  PrefetchScales<kPanels>(shape, tile);
  V16 sums[kRows][kPanels];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) sums[r][p] = Zero();
  }
  for (int64_t g = 0; g < shape.num_groups; ++g) {
    typename Codes::Dots dots[kRows][kPanels];
    StartGroup<Codes>(shape, tile, g, dots);
    const int64_t lines = lines_left < shape.group_lines ? lines_left : shape.group_lines;
    lines_left -= lines;
    for (int64_t s = lines; s > 0; s -= Codes::kLines) {
#pragma GCC unroll 5
      for (int line = 0; line < Codes::kLines; ++line) {
        if (lines_left + s - line == tile.jump_steps) next += tile.prefetch_jump;
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) __builtin_prefetch(next + p * panel_bytes);
        next += next_stride;
      }
      if constexpr (Codes::kPartSums > 1) {
        AddStepInWords<Codes>(a, a_stride, b, panel_bytes, dots);
      } else {
        AddStep<Codes>(a, a_stride, b, panel_bytes, dots);
      }
      a += Codes::kRowBytes;
      b += Codes::kLines * kCacheLine;
    }
    EndGroup<kSumsInRegisters>(shape, tile, g, dots, sums);
  }
  StoreSums<Codes, kSumsInRegisters>(shape, tile, sums);
}

using QuantTile = void (*)(const QuantShape&, const TileProblem&);

template <class Codes, int kRows>
static QuantTile FindQuantTileOfRows(int panels) {
  constexpr int kMost = Codes::MostPanels(kRows);
  if constexpr (kMost >= 4) {
    if (panels >= 4) return &ComputeQuantTile<Codes, kRows, 4>;
  }
  if constexpr (kMost >= 2) {
    if (panels >= 2) return &ComputeQuantTile<Codes, kRows, 2>;
  }
  return &ComputeQuantTile<Codes, kRows, 1>;
}

template <class Codes, int kRows = 1>
static QuantTile FindQuantTile(int rows, int panels) {
  if constexpr (kRows < Codes::kMaxRows) {
    if (rows > kRows) return FindQuantTile<Codes, kRows + 1>(rows, panels);
  }
  return FindQuantTileOfRows<Codes, kRows>(panels);
}

template <class Codes>
struct QuantFormat {
  static constexpr int kMaxRows = Codes::kMaxRows;
  // A tile that is alone with its panels is bound by memory and takes as many panels as possible.
  // Other tiles are bound by arithmetic and take two panels if their sums then fit in registers.
  static constexpr int Panels(int rows, bool alone) {
    const int panels = Codes::MostPanels(rows);
    return !alone && Codes::SumsInRegisters(rows, 2) ? 2 : panels;
  }
  static void Compute(const GemmProblem& problem, TileProblem tile, int rows, int panels) {
    for (int width = Codes::MostPanels(rows); width > 0; width /= 2) {
      if (panels < width) continue;
      const QuantTile compute = FindQuantTile<Codes>(rows, width);
      for (; panels >= width; panels -= width) {
        compute(*problem.quant, tile);
        tile.b += width * tile.panel_bytes;
        tile.prefetch += width * tile.panel_bytes;
        tile.out += width * kPanel;
      }
    }
  }
};

}  // namespace tessera::cpu::TESSERA_ISA

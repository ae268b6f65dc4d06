// The register tile of a matrix product, which Linear, Logits and the attention scores share: R
// rows times P panels of 16 outputs. Each output has one accumulator, which sums over k in
// ascending order, so the choice of R and P does not change any result. With fp32 panels, runs of
// kRunSteps products are summed apart and their sums are added, which makes the rounding error of a
// long sum several times smaller. Included by the per-ISA sources only; pure functions.
#pragma once

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/simd.h"

namespace tessera::cpu::TESSERA_ISA {

inline constexpr int64_t kOneRun = int64_t{1} << 62;

// A Panel type defines one step of the product: 64 bytes of a panel are multiplied with the next
// kRowBytes bytes of a row, in kParts multiply-adds. The steps are summed in runs of kRunSteps.
struct F32Panel {  // fp32 rows and fp32 panels: one k per step
  static constexpr int kParts = 1;
  static constexpr int64_t kRunSteps = 128;
  static constexpr int64_t kRowBytes = 4;
  TESSERA_INLINE V16 Outputs(const char* b, int part) { return Load(b); }
  TESSERA_INLINE V16 Row(const char* a, int part) { return BroadcastWord(a); }
  TESSERA_INLINE V16 MultiplyAdd(V16 acc, V16 a, V16 b) { return Fma(a, b, acc); }
};
struct BF16Panel {  // fp32 rows and panels of bf16 pairs: two k per step
  static constexpr int kParts = 2;
  static constexpr int64_t kRunSteps = kOneRun;
  static constexpr int64_t kRowBytes = 8;
  TESSERA_INLINE V16 Outputs(const char* b, int part) {
    return part == 0 ? LoadPairsFirst(b) : LoadPairsSecond(b);
  }
  TESSERA_INLINE V16 Row(const char* a, int part) { return BroadcastWord(a + 4 * part); }
  TESSERA_INLINE V16 MultiplyAdd(V16 acc, V16 a, V16 b) { return Fma(a, b, acc); }
};
struct Int8Panel {  // fp32 rows and panels of int8 codes: four k per step
  static constexpr int kParts = 4;
  static constexpr int64_t kRunSteps = kOneRun;
  static constexpr int64_t kRowBytes = 16;
  TESSERA_INLINE V16 Outputs(const char* b, int part) {
    return ToFloats(LoadSignedBytes(b + kPanel * part));
  }
  TESSERA_INLINE V16 Row(const char* a, int part) { return BroadcastWord(a + 4 * part); }
  TESSERA_INLINE V16 MultiplyAdd(V16 acc, V16 a, V16 b) { return Fma(a, b, acc); }
};
#if defined(TESSERA_HAS_DOT_BF16)
struct BF16DotPanel {  // bf16 rows and panels of bf16 pairs: two k per step, in one instruction
  static constexpr int kParts = 1;
  static constexpr int64_t kRunSteps = kOneRun;
  static constexpr int64_t kRowBytes = 4;
  TESSERA_INLINE V16 Outputs(const char* b, int part) { return Load(b); }
  TESSERA_INLINE V16 Row(const char* a, int part) { return BroadcastWord(a); }
  TESSERA_INLINE V16 MultiplyAdd(V16 acc, V16 a, V16 b) { return DotPairs(acc, a, b); }
};
#endif

// Returns the largest number of panels for which the accumulators of a tile with this number of
// rows fit in the registers.
constexpr int TilePanels(int rows) {
  if (kMaxRows == 12) return rows <= 6 ? 4 : 2;
  return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
}

// Number of bytes that a memory-bound tile prefetches ahead, over all its panels: about what one
// core can read from memory during the latency of one cache line.
inline constexpr int64_t kPrefetchBytes = 4096;

struct TileProblem {
  const char* a = nullptr;  // first element of the first row
  int64_t a_stride = 0;     // bytes from row to row
  const char* b = nullptr;  // first step of the first panel
  int64_t panel_bytes = 0;
  int64_t steps = 0;
  // The first step prefetches `prefetch` for panel 0, and p * panel_bytes further for panel p. The
  // address grows by prefetch_stride bytes per step, and once by prefetch_jump bytes, when
  // jump_steps steps are left.
  const char* prefetch = nullptr;
  int64_t prefetch_stride = 0;
  int64_t prefetch_jump = 0;
  int64_t jump_steps = 0;
  float* out = nullptr;    // [rows, out_stride], 16 outputs per panel
  int64_t out_stride = 0;  // floats
};

// Stores the sums of a run, or adds them to those of the runs before it.
template <int kRows, int kPanels>
TESSERA_INLINE void EndRun(bool first, const V16 (&acc)[kRows][kPanels], float* out,
                           int64_t out_stride) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      float* const sum = out + r * out_stride + p * kPanel;
      Store(sum, first ? acc[r][p] : Add(Load(sum), acc[r][p]));
    }
  }
}

template <class Panel, int kRows, int kPanels>
static void ComputeTile(const TileProblem& problem) {
  const char* a = problem.a;
  const char* b = problem.b;
  const char* next = problem.prefetch;
  const int64_t next_stride = problem.prefetch_stride;
  const int64_t a_stride = problem.a_stride;
  const int64_t panel_bytes = problem.panel_bytes;
  int64_t steps_left = problem.steps;
  do {
    const bool first = steps_left == problem.steps;
    const int64_t end = steps_left > Panel::kRunSteps ? steps_left - Panel::kRunSteps : 0;
    V16 acc[kRows][kPanels];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) acc[r][p] = Zero();
    }
    for (; steps_left > end; --steps_left) {
      if (steps_left == problem.jump_steps) next += problem.prefetch_jump;
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) __builtin_prefetch(next + p * panel_bytes);
      next += next_stride;
#pragma GCC unroll 4
      for (int part = 0; part < Panel::kParts; ++part) {
        V16 outputs[kPanels];
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) outputs[p] = Panel::Outputs(b + p * panel_bytes, part);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const V16 row = Panel::Row(a + r * a_stride, part);
#pragma GCC unroll 4
          for (int p = 0; p < kPanels; ++p) {
            acc[r][p] = Panel::MultiplyAdd(acc[r][p], row, outputs[p]);
            // Without this call g++ interleaves the parts and spills registers.
            if constexpr (Panel::kParts > 1) KeepInRegister(&acc[r][p]);
          }
        }
      }
      a += Panel::kRowBytes;
      b += kCacheLine;
    }
    EndRun(first, acc, problem.out, problem.out_stride);
  } while (steps_left > 0);
}

using TileFunction = void (*)(const TileProblem&);

template <class Panel, int kRows>
static TileFunction FindTileOfRows(int panels) {
  constexpr int kMost = TilePanels(kRows);
  if constexpr (kMost >= 4) {
    if (panels >= 4) return &ComputeTile<Panel, kRows, 4>;
  }
  if constexpr (kMost >= 2) {
    if (panels >= 2) return &ComputeTile<Panel, kRows, 2>;
  }
  return &ComputeTile<Panel, kRows, 1>;
}

// Returns the function that computes a tile of `rows` rows and `panels` panels. REQUIRES: 1 <= rows
// <= kMaxRows; panels is 1, 2 or 4 and <= TilePanels(rows).
template <class Panel>
static TileFunction FindTile(int rows, int panels) {
#define TESSERA_TILE(R) \
  case R:               \
    return FindTileOfRows<Panel, R>(panels)
  switch (rows) {
    TESSERA_TILE(1);
    TESSERA_TILE(2);
    TESSERA_TILE(3);
    TESSERA_TILE(4);
    TESSERA_TILE(5);
    TESSERA_TILE(6);
#if !defined(TESSERA_ISA_AVX2)
    TESSERA_TILE(7);
    TESSERA_TILE(8);
    TESSERA_TILE(9);
    TESSERA_TILE(10);
    TESSERA_TILE(11);
    TESSERA_TILE(12);
#endif
  }
#undef TESSERA_TILE
  return nullptr;
}

// Computes `panels` panels for `rows` rows, in tiles of as many panels as the registers allow.
// REQUIRES: rows <= kMaxRows.
template <class Panel>
static void ComputePanels(TileProblem problem, int rows, int panels) {
  for (int width = TilePanels(rows); width > 0; width /= 2) {
    if (panels < width) continue;
    const TileFunction tile = FindTile<Panel>(rows, width);
    for (; panels >= width; panels -= width) {
      tile(problem);
      problem.b += width * problem.panel_bytes;
      problem.prefetch += width * problem.panel_bytes;
      problem.out += width * kPanel;
    }
  }
}

}  // namespace tessera::cpu::TESSERA_ISA

// The product A x of LoRA: one dot product along the columns per (row, rank), for exactly the
// adapter's ranks, without padding. A is read once per tile of rows; with one row per adapter, the
// time is that of reading A from memory.
#include <cstring>

#include "kernels/cpu/isa_functions.h"
#include "kernels/cpu/lora_tiles.h"

namespace tessera::cpu::TESSERA_ISA {
namespace {

constexpr int kShrinkRows = kMaxRows == 12 ? 4 : 2;
constexpr int kShrinkRanks = kMaxRows == 12 ? 4 : 2;
constexpr int kLoneRanks = kMaxRows == 12 ? 8 : 4;  // ranks of a tile of a single row

// Computes z of kRows rows and kRanks ranks, with one accumulator per (row, rank) and 16 columns
// per step.
template <class Weight, int kRows, int kRanks>
void ShrinkTile(const LoraShrinkProblem& problem, int64_t row, int32_t rank) {
  const char* a[kRanks];
  int32_t tiles_behind;
  for (int i = 0; i < kRanks; ++i) a[i] = LoraTile(problem.part->a, rank + i, &tiles_behind);
  // Distance from these ranks' tiles to the tiles of the next ranks, which is right except at the
  // end of a page.
  const int64_t ahead = int64_t{kRanks} * problem.part->a.tile_bytes;
  const float* const x = problem.x + row * problem.x_stride;
  V16 sum[kRows][kRanks];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < kRanks; ++i) sum[r][i] = Zero();
  }
  const auto add = [&](int64_t k, auto load) __attribute__((always_inline)) {
    V16 weights[kRanks];
#pragma GCC unroll 8
    for (int i = 0; i < kRanks; ++i) {
      weights[i] = Weight::Load16(a[i] + k * Weight::kBytes);
      __builtin_prefetch(a[i] + ahead + k * Weight::kBytes);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const V16 values = load(x + r * problem.x_stride + k);
#pragma GCC unroll 8
      for (int i = 0; i < kRanks; ++i) sum[r][i] = Fma(values, weights[i], sum[r][i]);
    }
  };
  int64_t k = 0;
  for (; k + kPanel <= problem.cols; k += kPanel) {
    add(k, [](const float* from) { return Load(from); });
  }
  if (k < problem.cols) {
    const int64_t left = problem.cols - k;
    add(k, [left](const float* from) { return LoadN(from, left); });
  }
  const int64_t scale_offset = (problem.cols + kPanel - 1) / kPanel * kPanel * Weight::kBytes;
#pragma GCC unroll 8  // without unrolling g++ keeps the sums in memory
  for (int i = 0; i < kRanks; ++i) {
    float scale;
    std::memcpy(&scale, a[i] + scale_offset, sizeof(scale));
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      float* const z = problem.z + (row + r) * problem.z_stride + problem.part->z_begin;
      z[rank + i] = ReduceAdd(sum[r][i]) * scale;
    }
  }
}

template <class Weight, int kRows, int kRanks>
void ShrinkRanks(const LoraShrinkProblem& problem, int64_t row) {
  int32_t rank = problem.rank_begin;
  for (; rank + kRanks <= problem.rank_end; rank += kRanks) {
    ShrinkTile<Weight, kRows, kRanks>(problem, row, rank);
  }
  for (; rank < problem.rank_end; ++rank) ShrinkTile<Weight, kRows, 1>(problem, row, rank);
}

template <class Weight>
void ShrinkAll(const LoraShrinkProblem& problem) {
  int64_t row = 0;
  for (; row + kShrinkRows <= problem.rows; row += kShrinkRows) {
    ShrinkRanks<Weight, kShrinkRows, kShrinkRanks>(problem, row);
  }
  for (; row < problem.rows; ++row) ShrinkRanks<Weight, 1, kLoneRanks>(problem, row);
}

}  // namespace

void LoraShrink(const LoraShrinkProblem& problem) {
  switch (problem.part->element) {
    case Element::kF32:
      return ShrinkAll<LoraF32>(problem);
    case Element::kBF16:
      return ShrinkAll<LoraBF16>(problem);
    case Element::kI8:
      return ShrinkAll<LoraI8>(problem);
  }
}

}  // namespace tessera::cpu::TESSERA_ISA

// The loop around the register tiles, which all weight formats share: the outer loop is over
// panels, the inner loop over tiles of rows, and each tile is followed by its epilogue. A format is
// a struct with
//   kMaxRows                              the largest number of rows of a tile
//   Panels(rows, alone)                   the number of panels of a tile with `rows` rows; `alone`
//                                         if one tile holds all rows of the call
//   Compute(problem, tile, rows, panels)  computes `panels` panels of one tile of rows
// Included by the per-ISA sources only; pure functions.
#pragma once

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/lora_tiles.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/tile.h"

namespace tessera::cpu::TESSERA_ISA {

inline constexpr int kMaxGroupPanels = 4;
inline constexpr int64_t kTileStride = kMaxGroupPanels * kPanel;

static void StoreOutputs(const GemmProblem& problem, V16 y, int64_t row, int64_t column) {
  const int64_t count = problem.columns - column;
  float* const out = problem.out + row * problem.out_stride + column;
  if (problem.op == OutputOp::kAdd) {
    y = Add(count >= kPanel ? Load(out) : LoadN(out, count), y);
  }
  if (count >= kPanel) {
    Store(out, y);
  } else {
    StoreN(out, y, count);
  }
}

static V16 AddBias(V16 y, const float* bias, int64_t column, int64_t columns) {
  if (bias == nullptr) return y;
  return Add(y, LoadN(bias + column, columns - column));
}

static void FinishGated(const GemmProblem& problem, const float* tile, int64_t panel, int panels,
                        int64_t row, int rows) {
  for (int p = 0; p < panels; p += 2) {
    const int64_t column = (panel + p) / 2 * kPanel;
    for (int r = 0; r < rows; ++r) {
      const float* const y = tile + r * kTileStride + p * kPanel;
      const V16 gate = AddBias(Load(y), problem.bias, column, problem.columns);
      const V16 up = AddBias(Load(y + kPanel), problem.up_bias, column, problem.columns);
      const V16 act = problem.op == OutputOp::kGatedSilu ? Silu(gate) : GeluTanh(gate);
      StoreOutputs(problem, Mul(act, up), row + r, column);
    }
  }
}

static void FinishPlain(const GemmProblem& problem, const float* tile, int64_t panel, int panels,
                        int64_t row, int rows) {
  for (int p = 0; p < panels; ++p) {
    const int64_t column = (panel + p) * kPanel;
    for (int r = 0; r < rows; ++r) {
      V16 y = Load(tile + r * kTileStride + p * kPanel);
      y = AddBias(y, problem.bias, column, problem.columns);
      if (problem.softcap > 0.0f) y = Softcap(y, problem.softcap);
      StoreOutputs(problem, y, row + r, column);
    }
  }
}

// Sets the prefetch plan of tile t of num_tiles for one group of panels. If there is one tile, it
// is bound by memory and prefetches kPrefetchBytes ahead. If there are several, each prefetches
// 1 / num_tiles of the next group of panels; memory is too slow to deliver the whole group during
// the last tile.
static void PlanPrefetch(int64_t t, int64_t num_tiles, int panels, TileProblem* tile) {
  if (num_tiles == 1) {
    const int64_t ahead = kPrefetchBytes / panels;
    tile->prefetch = tile->b + ahead;
    tile->prefetch_stride = kCacheLine;
    tile->prefetch_jump = (panels - 1) * tile->panel_bytes;
    tile->jump_steps = ahead / kCacheLine;
    return;
  }
  tile->prefetch_stride = (kCacheLine + num_tiles - 1) / num_tiles;
  tile->prefetch = tile->b + panels * tile->panel_bytes + t * tile->steps * tile->prefetch_stride;
}

template <class Format>
static void GemmLoop(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end,
                     int64_t row_begin, int64_t row_end) {
  alignas(64) float results[Format::kMaxRows * kTileStride];
  const bool gated = problem.op == OutputOp::kGatedSilu || problem.op == OutputOp::kGatedGelu;
  const int64_t num_rows = row_end - row_begin;
  // The rows are divided into tiles of nearly equal height. The tallest tile determines how many
  // panels form a group: the panels of one register tile, and at least two, so that a group has
  // whole pairs of gate and up.
  const int64_t num_tiles = (num_rows + Format::kMaxRows - 1) / Format::kMaxRows;
  const int tallest = static_cast<int>((num_rows + num_tiles - 1) / num_tiles);
  const int widest = Format::Panels(tallest, num_tiles == 1);
  const int group = widest < 2 ? 2 : widest;
  TileProblem tile;
  tile.a_stride = problem.a_stride;
  tile.panel_bytes = problem.panel_bytes;
  tile.steps = problem.steps;
  tile.out = results;
  tile.out_stride = kTileStride;
  for (int64_t panel = panel_begin; panel < panel_end; panel += group) {
    const int panels =
        static_cast<int>(panel_end - panel < group ? panel_end - panel : int64_t{group});
    tile.b = static_cast<const char*>(problem.b) + panel * problem.panel_bytes;
    for (int64_t t = 0; t < num_tiles; ++t) {
      const int64_t row = row_begin + num_rows * t / num_tiles;
      const int rows = static_cast<int>(row_begin + num_rows * (t + 1) / num_tiles - row);
      tile.a = static_cast<const char*>(problem.a) + row * problem.a_stride;
      PlanPrefetch(t, num_tiles, panels, &tile);
      Format::Compute(problem, tile, rows, panels);
      if (problem.lora != nullptr) {
        AddLora(*problem.lora, results, kTileStride, panel, panels, row, rows);
      }
      (gated ? FinishGated : FinishPlain)(problem, results, panel, panels, row, rows);
    }
  }
}

}  // namespace tessera::cpu::TESSERA_ISA

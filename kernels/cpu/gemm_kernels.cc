// Linear's and Logits' inner loops. Moves every panel once per block of rows; with few rows that is
// the whole cost (the weight's bytes at memory speed), with many it is bound by the multiply-adds.
#include "kernels/cpu/isa_functions.h"
#include "kernels/cpu/tile.h"

namespace tessera::cpu::TESSERA_ISA {
namespace {

// Panels whose tiles are computed before the epilogue runs: what one register tile covers, and
// even, so that gate and up meet.
constexpr int GroupPanels(int rows) { return TilePanels(rows) < 2 ? 2 : TilePanels(rows); }
constexpr int kMaxGroupPanels = 4;
constexpr int64_t kTileStride = kMaxGroupPanels * kPanel;

void StoreOutputs(const GemmProblem& problem, V16 y, int64_t row, int64_t column) {
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

V16 AddBias(V16 y, const float* bias, int64_t column, int64_t columns) {
  if (bias == nullptr) return y;
  return Add(y, LoadN(bias + column, columns - column));
}

void FinishGated(const GemmProblem& problem, const float* tile, int64_t panel, int panels,
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

void FinishPlain(const GemmProblem& problem, const float* tile, int64_t panel, int panels,
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

#if defined(TESSERA_HAS_DOT_BF16)
using NativeBF16Panel = BF16DotPanel;
#else
using NativeBF16Panel = BF16Panel;
#endif

template <class Panel>
void Gemm(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
          int64_t row_end) {
  alignas(64) float results[kMaxRows * kTileStride];
  const bool gated = problem.op == OutputOp::kGatedSilu || problem.op == OutputOp::kGatedGelu;
  const int64_t num_rows = row_end - row_begin;
  // Tiles of nearly equal height: the tallest decides how many panels go together.
  const int64_t num_tiles = (num_rows + kMaxRows - 1) / kMaxRows;
  const int group = GroupPanels(static_cast<int>((num_rows + num_tiles - 1) / num_tiles));
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
      // While the last tile computes, the next group's panels come.
      tile.ahead = num_tiles == 1       ? kPrefetchBytes
                   : t + 1 == num_tiles ? panels * problem.panel_bytes
                                        : 0;
      ComputePanels<Panel>(tile, rows, panels);
      (gated ? FinishGated : FinishPlain)(problem, results, panel, panels, row, rows);
    }
  }
}

}  // namespace

void GemmF32(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
             int64_t row_end) {
  Gemm<F32Panel>(problem, panel_begin, panel_end, row_begin, row_end);
}

void GemmBF16(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
              int64_t row_end) {
  Gemm<NativeBF16Panel>(problem, panel_begin, panel_end, row_begin, row_end);
}

double SpinMultiplyAdds(int64_t iterations) {
  // As many independent accumulators as the registers hold.
  constexpr int kAccumulators = kMaxRows == 12 ? 24 : 6;
  V16 acc[kAccumulators];
#pragma GCC unroll 24
  for (int j = 0; j < kAccumulators; ++j) acc[j] = Zero();
  const V16 x = Set1(1.0f);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < kAccumulators; ++j) {
      acc[j] = NativeBF16Panel::MultiplyAdd(acc[j], x, x);
      KeepInRegister(&acc[j]);
    }
  }
  // A pair of products per lane when a step is one instruction.
  const double flops = NativeBF16Panel::kParts == 1 ? 4.0 * kPanel : 2.0 * kPanel;
  return flops * kAccumulators * static_cast<double>(iterations);
}

}  // namespace tessera::cpu::TESSERA_ISA

// The inner loops of Linear and Logits on fp32 and bf16 weights. Every panel is read from memory
// once per block of rows. With few rows, the time is that of reading the weight's bytes from
// memory; with many rows, the multiply-adds limit the speed.
#include "kernels/cpu/gemm_loop.h"
#include "kernels/cpu/isa_functions.h"

namespace tessera::cpu::TESSERA_ISA {
namespace {

#if defined(TESSERA_HAS_DOT_BF16)
using NativeBF16Panel = BF16DotPanel;
#else
using NativeBF16Panel = BF16Panel;
#endif

template <class Panel>
struct FloatFormat {
  static constexpr int kMaxRows = ::tessera::cpu::TESSERA_ISA::kMaxRows;
  static constexpr int Panels(int rows, bool alone) { return TilePanels(rows); }
  static void Compute(const GemmProblem& problem, const TileProblem& tile, int rows, int panels) {
    ComputePanels<Panel>(tile, rows, panels);
  }
};

}  // namespace

void GemmF32(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
             int64_t row_end) {
  GemmLoop<FloatFormat<F32Panel>>(problem, panel_begin, panel_end, row_begin, row_end);
}

void GemmBF16(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
              int64_t row_end) {
  GemmLoop<FloatFormat<NativeBF16Panel>>(problem, panel_begin, panel_end, row_begin, row_end);
}

double SpinMultiplyAdds(int64_t iterations) {
  // The number of independent accumulators that the registers hold.
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
  // A multiply-add adds two products per lane if it computes a whole step, otherwise one.
  const double flops = NativeBF16Panel::kParts == 1 ? 4.0 * kPanel : 2.0 * kPanel;
  return flops * kAccumulators * static_cast<double>(iterations);
}

}  // namespace tessera::cpu::TESSERA_ISA

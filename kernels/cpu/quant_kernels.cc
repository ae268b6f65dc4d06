// The inner loops of Linear and Logits on int8, int5 and int4 weights with int8 rows
// (kernels/device/weight_format.h): exact integer dot products within a group of columns, fp32 sums
// across groups. With few rows, the time is that of reading the weight's bytes from memory; with
// many rows, the dot products of 4 bytes per lane limit the speed.
#include "kernels/cpu/isa_functions.h"
#include "kernels/cpu/quant_tile.h"

namespace tessera::cpu::TESSERA_ISA {
namespace {

struct Int8Codes {
  static constexpr int kMaxRows = kMaxQuantRows;
  static constexpr int MostPanels(int rows) { return QuantTilePanels(rows); }
  // An int8 weight often has one group, so its sums are rarely loaded and stored.
  static constexpr bool SumsInRegisters(int rows, int panels) { return false; }
  static constexpr int kLines = 1;
  static constexpr int kParts = 1;
  static constexpr int kPartSums = 1;
  static constexpr int64_t kRowBytes = 4;
  static constexpr int kShift = kByteShift;
  static constexpr bool kScaledRows = true;
  using Dots = I16;
  using Weights = ByteWeights;
  TESSERA_INLINE Weights Outputs(const char* b, int part) { return LoadByteWeights(b); }
  TESSERA_INLINE I16 Share(I16 zero, const char* sum) { return MulInts(zero, BroadcastBytes(sum)); }
  TESSERA_INLINE I16 Row(const char* a, int part) { return BroadcastBytes(a + 4 * part); }
  TESSERA_INLINE I16 Dot(I16 acc, const Weights& w, I16 x) { return DotBytes(acc, w, x); }
};
struct Int4Codes {
  static constexpr int kMaxRows = kMaxGroupedRows;
  static constexpr int MostPanels(int rows) { return QuantTilePanels(rows); }
  static constexpr bool SumsInRegisters(int rows, int panels) { return GroupSumsFit(rows, panels); }
  static constexpr int kLines = 1;
  static constexpr int kParts = 2;
  static constexpr int kPartSums = kHasNibbleProducts ? 2 : 1;
  static constexpr int64_t kRowBytes = 8;
  static constexpr int kShift = 0;
  static constexpr bool kScaledRows = true;
  using Dots = I16;
  using Weights = I16;
  TESSERA_INLINE Weights Outputs(const char* b, int part) {
    return part == 0 ? LowNibbles(LoadInts(b)) : HighNibbles(LoadInts(b));
  }
  TESSERA_INLINE I16 Share(I16 zero, const char* sum) { return MulInts(zero, BroadcastBytes(sum)); }
  TESSERA_INLINE I16 Row(const char* a, int part) { return BroadcastBytes(a + 4 * part); }
  TESSERA_INLINE I16 Dot(I16 acc, const Weights& w, I16 x) { return DotNibbles(acc, w, x); }
};
// Five lines: four of lower bits and one of highest bits.
struct Int5Codes : Int4Codes {
  // Unpacking five bits takes about as long as the products of two rows, so more rows share it than
  // in a tile of int4.
  static constexpr int kMaxRows = 6;
  static constexpr int MostPanels(int rows) { return UnpackingPanels(rows); }
  static constexpr int kLines = 5;
  static constexpr int kParts = 8;
  static constexpr int kPartSums = kHasNibbleProducts ? 4 : 1;  // 4 * 2 * 31 * 127 < 2^15
  static constexpr int64_t kRowBytes = 32;
  TESSERA_INLINE Weights Outputs(const char* b, int part) {
    return WithFifthBits(Int4Codes::Outputs(b + part / 2 * kCacheLine, part % 2),
                         b + 4 * kCacheLine + 8 * part);
  }
};

}  // namespace

void GemmI8(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end) {
  GemmLoop<QuantFormat<Int8Codes>>(problem, panel_begin, panel_end, row_begin, row_end);
}

void GemmI4(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end) {
  GemmLoop<QuantFormat<Int4Codes>>(problem, panel_begin, panel_end, row_begin, row_end);
}

void GemmI5(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end) {
  GemmLoop<QuantFormat<Int5Codes>>(problem, panel_begin, panel_end, row_begin, row_end);
}

double SpinDots(int64_t iterations) {
  constexpr int kAccumulators = kMaxRows == 12 ? 24 : 4;
  alignas(64) const char ones[64] = {1};
  const ByteWeights w = LoadByteWeights(ones);
  I16 x = BroadcastInt(1);
  I16 acc[kAccumulators];
#pragma GCC unroll 24
  for (int j = 0; j < kAccumulators; ++j) acc[j] = BroadcastInt(0);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < kAccumulators; ++j) {
      KeepInRegister(&x);  // without this call g++ moves AVX2's products out of the loop
      acc[j] = DotBytes(acc[j], w, x);
      KeepInRegister(&acc[j]);
    }
  }
  // An instruction computes 4 products and 4 sums per lane.
  return 8.0 * kPanel * kAccumulators * static_cast<double>(iterations);
}

#if defined(TESSERA_BASE_ISA)
const IsaKernels& Kernels() {
  static const IsaKernels kernels = [] {
    IsaKernels table = TESSERA_BASE_ISA::Kernels();
    table.name = TESSERA_ISA_NAME;
    table.gemm_i8 = &GemmI8;
    table.gemm_i4 = &GemmI4;
    table.gemm_i5 = &GemmI5;
    table.spin_dots = &SpinDots;
    return table;
  }();
  return kernels;
}
#endif

}  // namespace tessera::cpu::TESSERA_ISA

// The inner loops of Linear and Logits on int8, int5 and int4 weights with bf16 rows
// (kernels/device/weight_format.h). Codes are unpacked to the exact numbers code - zero, and the
// scale of a group is applied to the group's dot product, so that no weight is rounded. With few
// rows, the time is that of reading the weight's bytes from memory or of unpacking them; with many
// rows, the time is that of the multiply-adds, as with bf16 weights.
#include <cstring>

#include "kernels/cpu/isa_functions.h"
#include "kernels/cpu/quant_tile.h"
#include "kernels/cpu/weight_columns.h"

namespace tessera::cpu::TESSERA_ISA {
namespace {

#if defined(TESSERA_HAS_DOT_BF16)
constexpr int64_t kElementBytes = 2;
TESSERA_INLINE V16 MultiplyAdd(V16 acc, V16 w, V16 x) { return DotPairs(acc, w, x); }
#else
constexpr int64_t kElementBytes = 4;
TESSERA_INLINE V16 MultiplyAdd(V16 acc, V16 w, V16 x) { return Fma(w, x, acc); }
#endif

template <class Columns>
struct RoundedRowCodes : Columns {
  static constexpr int kMaxRows = kMaxQuantRows;
  static constexpr int MostPanels(int rows) { return UnpackingPanels(rows); }
  static constexpr bool SumsInRegisters(int rows, int panels) { return false; }
  static constexpr int kPartSums = 1;
  static constexpr int64_t kRowBytes = 4 * Columns::kParts;
  static constexpr bool kScaledRows = false;
  using Dots = V16;
  using Weights = V16;
  TESSERA_INLINE V16 Share(I16 zero, const char* sum) {
    return Mul(ToFloats(zero), BroadcastWord(sum));
  }
  TESSERA_INLINE V16 Row(const char* a, int part) { return BroadcastWord(a + 4 * part); }
  TESSERA_INLINE V16 Dot(V16 acc, V16 w, V16 x) { return MultiplyAdd(acc, w, x); }
};

}  // namespace

void RoundRow(const float* x, const float* weight, float eps, const QuantShape& shape,
              float* values, void* out) {
  const int64_t cols = shape.cols;
  char* const elements = static_cast<char*>(out);
  float* const sums = reinterpret_cast<float*>(elements + shape.row_sums);
  PrepareRow(x, weight, eps, cols, cols, /*round=*/false, values);
  int64_t i = 0;
  for (int64_t g = 0; g < shape.num_groups; ++g) {
    const int64_t end = g + 1 < shape.num_groups ? i + shape.group_size : cols;
    V16 sum = Zero();
    for (; i < end; i += kPanel) {
      const V16 value = RoundBF16(LoadN(values + i, cols - i));
      sum = Add(sum, value);
      StoreColumns(elements + kElementBytes * i, value);
    }
    sums[g] = ReduceAdd(sum);
  }
  // Steps of int5 weights and tile products of AMX read whole runs of kRunCols columns.
  constexpr int64_t kRunCols = 32;
  const int64_t end = kElementBytes * ((i + kRunCols - 1) / kRunCols * kRunCols);
  for (int64_t at = kElementBytes * i; at < end && at < shape.row_sums; ++at) elements[at] = 0;
}

void GemmI8Rounded(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end,
                   int64_t row_begin, int64_t row_end) {
  GemmLoop<QuantFormat<RoundedRowCodes<Int8Columns>>>(problem, panel_begin, panel_end, row_begin,
                                                      row_end);
}

void GemmI4Rounded(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end,
                   int64_t row_begin, int64_t row_end) {
  GemmLoop<QuantFormat<RoundedRowCodes<Int4Columns>>>(problem, panel_begin, panel_end, row_begin,
                                                      row_end);
}

void GemmI5Rounded(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end,
                   int64_t row_begin, int64_t row_end) {
  GemmLoop<QuantFormat<RoundedRowCodes<Int5Columns>>>(problem, panel_begin, panel_end, row_begin,
                                                      row_end);
}

}  // namespace tessera::cpu::TESSERA_ISA

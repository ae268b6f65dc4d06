// The functions of one ISA's table (IsaKernels documents them). Included by the per-ISA sources
// only.
#pragma once

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/simd.h"

namespace tessera::sampling::TESSERA_ISA {
extern const Passes kPasses;
}

namespace tessera::cpu::TESSERA_ISA {

void PrepareRow(const float* x, const float* weight, float eps, int64_t cols, int64_t padded_cols,
                bool round, void* out);
void NormRow(const float* y, const float* weight, float eps, int64_t cols, bool add, float* out);
void GemmF32(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
             int64_t row_end);
void GemmBF16(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
              int64_t row_end);
void QuantizeRow(const float* x, const float* weight, float eps, const QuantShape& shape,
                 float* values, void* out);
void GemmI8(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end);
void GemmI4(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end);
void GemmI5(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end);
void RoundRow(const float* x, const float* weight, float eps, const QuantShape& shape,
              float* values, void* out);
void GemmI8Rounded(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end,
                   int64_t row_begin, int64_t row_end);
void GemmI4Rounded(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end,
                   int64_t row_begin, int64_t row_end);
void GemmI5Rounded(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end,
                   int64_t row_begin, int64_t row_end);
double SpinDots(int64_t iterations);
void LoraShrink(const LoraShrinkProblem& problem);
void AppendHead(const AppendProblem& problem);
void RotateHead(const float* x, const float* weight, float eps, const float* cos, const float* sin,
                int32_t rotary_dim, int32_t head_dim, float* out);
void PackKeys(const void* const* keys, const void* const* values, Element element, int32_t head_dim,
              int32_t panel_begin, int32_t panel_end, void* panels);
void Attend(const AttendProblem& problem);
void Merge(float b_max, float b_sum, const float* b_out, int32_t padded_dim, float* max, float* sum,
           float* out);
void Divide(const float* x, float divisor, int32_t count, float* out);
double SpinMultiplyAdds(int64_t iterations);

}  // namespace tessera::cpu::TESSERA_ISA

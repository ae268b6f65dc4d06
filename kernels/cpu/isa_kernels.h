// The ISA seam of the cpu backend: a table of plain functions per instruction set. The sources that
// CMakeLists.txt calls isa_sources are compiled once per ISA with its own compiler flags and reach
// the machine through the 16-lane wrapper of simd.h; everything else in this room is plain x86-64
// and calls through the table that isa.h picked at run time. A small ISA may build on another's
// table and replace what it does better (TESSERA_BASE_ISA).
//
// One-definition rule: a translation unit built with AVX-512 must not emit an inline function that
// the linker could choose for plain code. So this header holds only PODs and constants, the
// per-ISA sources include nothing but it, C headers and their own static functions, and all their
// names lie in a namespace per ISA.
//
// Bitwise promises, per ISA: a row's result does not depend on the rows, panels or keys it is
// computed together with, nor on the calling thread.
#pragma once

#include <cstdint>

#include "kernels/cpu/element.h"
#include "kernels/cpu/lora_problem.h"
#include "kernels/sample/sample_passes.h"

namespace tessera::cpu {

inline constexpr int kPanel = 16;      // outputs (or keys) side by side
inline constexpr int kKeyBlock = 256;  // kAttentionBlock
inline constexpr int kKeyPanels = kKeyBlock / kPanel;
inline constexpr int kMaxAttendRows = 12;  // query rows of one Attend call
inline constexpr int kMaxHeadDim = 1024;
inline constexpr int64_t kCacheLine = 64;
inline constexpr float kLeastMaximum = 1e-30f;  // kLeastRowMaximum

enum class ScaleType : int32_t { kF32, kBF16, kF16 };
enum class OutputOp : int32_t { kStore, kAdd, kGatedSilu, kGatedGelu };

// Where things lie in panels and rows of a quantised weight (kernels/device/weight_format.h).
// Panel: lines of 64 bytes of codes, then 16 scales for each group, then, in asymmetric formats, 16
// zero points (bytes) for each group. A line of int8 is [16 outputs][4 k]; of int4 the same in the
// low nibbles and the next 4 k in the high ones. Codes behind the last k and outputs behind the
// last are zeros.
// Prepared row: codes (signed bytes, zeros behind the last), the sum of each group's codes (int32),
// the row's scale (fp32).
struct QuantShape {
  int64_t cols = 0;
  int64_t group_size = 0;  // k; the whole row has one group of cols
  int64_t num_groups = 0;
  int64_t line_cols = 0;    // k of a line
  int64_t group_lines = 0;  // of a panel; the last group has what is left
  int64_t scales = 0;       // bytes from a panel's begin
  int64_t zeros = 0;        // bytes from a panel's begin; 0: symmetric
  ScaleType scale_type = ScaleType::kF32;
  int32_t symmetric_zero = 0;
  int64_t row_sums = 0;   // bytes from a prepared row's begin: a multiple of 64
  int64_t row_scale = 0;  // bytes from a prepared row's begin
};

// Packed weights. fp32: [panel][k][16]; bf16: [panel][k / 2][16][2], k padded to even by zeros. The
// last panel is padded to 16 outputs by zeros. Gated weights alternate panels of gate and up.
struct GemmProblem {
  const void* a = nullptr;  // prepared rows
  int64_t a_stride = 0;     // bytes
  const void* b = nullptr;  // panels
  int64_t panel_bytes = 0;
  int64_t steps = 0;  // of 64 panel bytes: k (fp32), k / 2 (bf16), k / 4 (int8), k / 8 (int4)
  const QuantShape* quant = nullptr;  // int8, int4
  int64_t columns = 0;                // of out
  const float* bias = nullptr;        // [columns], or null; gated: of gate
  const float* up_bias = nullptr;     // gated: of up
  float softcap = 0.0f;               // 0: off
  const LoraProblem* lora = nullptr;  // null: no row has an adapter
  OutputOp op = OutputOp::kStore;
  float* out = nullptr;    // [rows, columns]
  int64_t out_stride = 0;  // floats
};

// One token row's K and V of one head on their way into a page.
struct AppendProblem {
  const float* k = nullptr;       // [head_dim]
  const float* v = nullptr;       // [head_dim]
  const float* k_norm = nullptr;  // [head_dim], or null
  float k_norm_eps = 0.0f;
  const float* cos = nullptr;  // [rotary_dim / 2]
  const float* sin = nullptr;
  int32_t rotary_dim = 0;
  int32_t head_dim = 0;
  Element element = Element::kF32;
  void* k_out = nullptr;
  void* v_out = nullptr;
  int64_t scale_offset = 0;  // kI8: bytes from k_out and v_out; zeros lie behind the last code
};

// Query rows of one kv head against one block of keys.
struct AttendProblem {
  // [rows, q_stride], normed and rotated, zero behind head_dim; kBF16: prepared as for bf16
  // weights.
  const float* q = nullptr;
  int64_t q_stride = 0;  // floats, a multiple of 16
  int32_t rows = 0;      // <= kMaxAttendRows
  int32_t head_dim = 0;
  const void* keys = nullptr;              // panels of PackKeys
  const void* const* values = nullptr;     // [kKeyBlock] V rows; null where the block has no key
  const void* const* next_keys = nullptr;  // [kKeyBlock] K rows to bring near meanwhile, or null
  Element element = Element::kF32;         // of keys and values
  const float* key_scales = nullptr;       // kI8: [kKeyBlock], 0 where the block has no key
  const float* value_scales = nullptr;     // likewise
  const int32_t* visible_begin = nullptr;  // [rows] the row's keys in the block: [begin, end)
  const int32_t* visible_end = nullptr;
  float scale = 0.0f;
  float softcap = 0.0f;  // 0: off
  float temperature = 1.0f;
  float* scores = nullptr;  // scratch [rows, kScoreStride]: leaves exp(score - max)
  // Of values: kF32: `scores`; else more scratch, of scores * value_scales (kI8) or rounded scores.
  float* weights = nullptr;
  // kBF16: scratch that stays with the block, [padded_dim / 16][kKeyBlock / 2][16][2]. The first
  // call of a block whose rows see any of it packs the panels of keys [pack_begin, pack_end), which
  // are all that the calls after it need; those leave the range empty. ISAs that read V where it
  // lies ignore it.
  void* value_panels = nullptr;
  int32_t pack_begin = 0;
  int32_t pack_end = 0;
  // The block's partial of each row; `sum` is 0 for a row without a visible key (`out` undefined).
  float* max = nullptr;    // [rows]
  float* sum = nullptr;    // [rows]
  float* out = nullptr;    // [rows, out_stride]
  int64_t out_stride = 0;  // floats, a multiple of 16
};
inline constexpr int64_t kScoreStride = kKeyBlock + kPanel;

struct IsaKernels {
  const char* name = nullptr;
  bool dot_bf16 = false;  // prepared rows for bf16 weights are bf16, else fp32 values rounded to it

  // One row: RMSNorm (if `weight`), rounding (if `round`), zeros up to padded_cols. `out` may be
  // `x`.
  void (*prepare_row)(const float* x, const float* weight, float eps, int64_t cols,
                      int64_t padded_cols, bool round, void* out) = nullptr;
  // out = norm(y), or out += norm(y).
  void (*norm_row)(const float* y, const float* weight, float eps, int64_t cols, bool add,
                   float* out) = nullptr;
  // Rows [row_begin, row_end) of panels [panel_begin, panel_end), which are pairs when gated.
  void (*gemm_f32)(const GemmProblem&, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
                   int64_t row_end) = nullptr;
  void (*gemm_bf16)(const GemmProblem&, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
                    int64_t row_end) = nullptr;

  // One row for quantised weights: RMSNorm (if `weight`), codes, sums and scale.
  void (*quantize_row)(const float* x, const float* weight, float eps, const QuantShape& shape,
                       void* out) = nullptr;
  void (*gemm_i8)(const GemmProblem&, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
                  int64_t row_end) = nullptr;
  void (*gemm_i4)(const GemmProblem&, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
                  int64_t row_end) = nullptr;

  void (*lora_shrink)(const LoraShrinkProblem&) = nullptr;

  void (*append_head)(const AppendProblem&) = nullptr;
  // Norm (if `weight`) and rotation of one query head; `out` may be `x`.
  void (*rotate_head)(const float* x, const float* weight, float eps, const float* cos,
                      const float* sin, int32_t rotary_dim, int32_t head_dim, float* out) = nullptr;
  // Transposes K rows [kPanel * panel_begin, kPanel * panel_end) of a block into panels of 16 keys
  // (fp32: [head_dim][16], bf16: [head_dim / 2][16][2], int8: the codes, [head_dim][16], head_dim
  // up to a multiple of 4); null rows become zeros.
  void (*pack_keys)(const void* const* keys, const void* const* values, Element element,
                    int32_t head_dim, int32_t panel_begin, int32_t panel_end,
                    void* panels) = nullptr;
  void (*attend)(const AttendProblem&) = nullptr;
  // Merges partial (b_max, b_sum, b_out) into (max, sum, out). REQUIRES: b_sum > 0.
  void (*merge)(float b_max, float b_sum, const float* b_out, int32_t padded_dim, float* max,
                float* sum, float* out) = nullptr;
  // out[i] = x[i] / divisor.
  void (*divide)(const float* x, float divisor, int32_t count, float* out) = nullptr;
  const sampling::Passes* sample = nullptr;
  // Benchmarks: the bf16 GEMM's multiply-add on registers alone; returns the flops it did.
  double (*spin_multiply_adds)(int64_t iterations) = nullptr;
  // The same for int8.
  double (*spin_dots)(int64_t iterations) = nullptr;
};

namespace avx2 {
const IsaKernels& Kernels();
}
namespace avxvnni {
const IsaKernels& Kernels();
}
namespace avx512 {
const IsaKernels& Kernels();
}
namespace avx512vnni {
const IsaKernels& Kernels();
}
namespace avx512bf16 {
const IsaKernels& Kernels();
}
namespace amx {
const IsaKernels& Kernels();
}
namespace amxtwin {  // amx with a scalar twin of the tile registers; for tests
const IsaKernels& Kernels();
}

}  // namespace tessera::cpu

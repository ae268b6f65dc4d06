// IsaKernels is a table of plain functions; the cpu backend has one table per instruction set
// (ISA). The sources that CMakeLists.txt calls isa_sources are compiled once per ISA with the
// compiler flags of that ISA and use its instructions through the 16-lane vectors of simd.h. All
// other sources in kernels/cpu are plain x86-64 and call the functions of the table that isa.h
// selects at run time. An ISA may copy the table of another ISA and replace some functions
// (TESSERA_BASE_ISA). Tables are immutable; any thread.
//
// One-definition rule: a translation unit built with AVX-512 must not emit an inline function that
// the linker could choose for plain code. Therefore this header holds only PODs and constants, the
// per-ISA sources include only this header, C headers and headers of static functions, and the
// names in them lie in a namespace per ISA.
//
// Determinism: with a given ISA, the bits of a row's result depend neither on the other rows,
// panels or keys of a call nor on the calling thread.
#pragma once

#include <cstdint>

#include "kernels/cpu/element.h"
#include "kernels/cpu/lora_problem.h"
#include "kernels/cpu/quant_shape.h"
#include "kernels/sample/sample_passes.h"

namespace tessera::cpu {

inline constexpr int kPanel = 16;      // outputs (or keys) of a panel
inline constexpr int kKeyBlock = 256;  // keys of an attention block; equals kAttentionBlock
inline constexpr int kKeyPanels = kKeyBlock / kPanel;
inline constexpr int kMaxAttendRows = 12;  // query rows of one Attend call
inline constexpr int kMaxHeadDim = 1024;
inline constexpr int64_t kCacheLine = 64;
inline constexpr float kLeastMaximum = 1e-30f;  // equals kLeastRowMaximum

enum class OutputOp : int32_t { kStore, kAdd, kGatedSilu, kGatedGelu };

// A product of prepared token rows and a packed weight. Packed fp32 weights are [panel][k][16],
// bf16 weights [panel][k / 2][16][2] with k padded to an even number by zeros, quantised weights as
// quant_shape.h says. The last panel is padded to 16 outputs by zeros. In a gated weight, panels of
// gate and up alternate.
struct GemmProblem {
  const void* a = nullptr;  // prepared rows
  int64_t a_stride = 0;     // bytes
  const void* b = nullptr;  // panels
  int64_t panel_bytes = 0;
  // Number of 64-byte lines of a panel: k (fp32), k / 2 (bf16), k / 4 (int8), k / 8 (int4), 5 k /
  // 32 (int5).
  int64_t steps = 0;
  const QuantShape* quant = nullptr;  // layout of quantised weights
  int64_t columns = 0;                // columns of `out`
  const float* bias = nullptr;        // [columns], or null; of a gated weight, the bias of gate
  const float* up_bias = nullptr;     // [columns], or null; of a gated weight, the bias of up
  float softcap = 0.0f;               // 0: off
  const LoraProblem* lora = nullptr;  // null: no row has an adapter
  OutputOp op = OutputOp::kStore;
  float* out = nullptr;    // [rows, columns]
  int64_t out_stride = 0;  // floats
};

// Writes the K and V of one token row and one KV head to a page.
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
  int32_t key_rotation = 0;  // KeyRotation (kernels/device/key_rotation.h)
  void* k_out = nullptr;     // the rows; bytes of kI8 rows from head_dim on become 0
  void* v_out = nullptr;
  int64_t row_bytes = 0;
  void* k_scale_out = nullptr;  // kI8: the rows' scales, fp32
  void* v_scale_out = nullptr;
};

// Attention of the query rows of one KV head to one block of keys.
struct AttendProblem {
  // [rows, q_stride] queries after norm and rotation, 0 from head_dim on. With kBF16 keys they are
  // prepared like rows for bf16 weights.
  const float* q = nullptr;
  int64_t q_stride = 0;  // floats, a multiple of 16
  int32_t rows = 0;      // <= kMaxAttendRows
  int32_t head_dim = 0;
  const void* keys = nullptr;              // the panels that PackKeys wrote
  const void* const* values = nullptr;     // [kKeyBlock] V rows; null where the block has no key
  const void* const* next_keys = nullptr;  // [kKeyBlock] K rows to prefetch, or null
  Element element = Element::kF32;         // format of keys and values
  const float* key_scales = nullptr;       // kI8: [kKeyBlock], 0 where the block has no key
  const float* value_scales = nullptr;     // kI8: [kKeyBlock], 0 where the block has no key
  const int32_t* visible_begin = nullptr;  // [rows] a row sees keys [begin, end) of the block
  const int32_t* visible_end = nullptr;
  float scale = 0.0f;
  float softcap = 0.0f;  // 0: off
  float temperature = 1.0f;
  float* scores = nullptr;  // scratch [rows, kScoreStride]; contains exp(score - max) afterwards
  // The factors of the V rows. kF32: the same array as `scores`. Otherwise scratch [rows,
  // kScoreStride] for scores * value_scales (kI8) or scores rounded to bf16 (kBF16).
  float* weights = nullptr;
  // kBF16: V packed by pairs of keys, [padded_dim / 16][kKeyBlock / 2][16][2]. All calls for a
  // block share this buffer. The first call in which a row sees a key of the block packs the key
  // panels [pack_begin, pack_end); in later calls the range is empty. ISAs without a bf16 dot
  // product read V from its page and ignore the buffer.
  void* value_panels = nullptr;
  int32_t pack_begin = 0;
  int32_t pack_end = 0;
  // The partial softmax of each row over the block. If a row sees no key, `sum` is 0 and `out` is
  // undefined.
  float* max = nullptr;    // [rows]
  float* sum = nullptr;    // [rows]
  float* out = nullptr;    // [rows, out_stride]
  int64_t out_stride = 0;  // floats, a multiple of 16
};
inline constexpr int64_t kScoreStride = kKeyBlock + kPanel;

struct IsaKernels {
  const char* name = nullptr;
  // Whether prepared rows for bf16 weights are bf16. If not, they are fp32 values rounded to bf16.
  bool dot_bf16 = false;

  // Prepares one row: RMSNorm (if `weight`), rounding to bf16 (if `round`), zeros up to
  // padded_cols. `out` may be `x`.
  void (*prepare_row)(const float* x, const float* weight, float eps, int64_t cols,
                      int64_t padded_cols, bool round, void* out) = nullptr;
  // out = norm(y), or out += norm(y).
  void (*norm_row)(const float* y, const float* weight, float eps, int64_t cols, bool add,
                   float* out) = nullptr;
  // Computes rows [row_begin, row_end) of panels [panel_begin, panel_end). REQUIRES: the panels of
  // a gated weight are whole pairs.
  void (*gemm_f32)(const GemmProblem&, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
                   int64_t row_end) = nullptr;
  void (*gemm_bf16)(const GemmProblem&, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
                    int64_t row_end) = nullptr;

  // Prepares one row for quantised weights: RMSNorm (if `weight`), rotation, then codes, sums and
  // scale. `values` is room for the row before it is quantised, in whole panels of columns.
  void (*quantize_row)(const float* x, const float* weight, float eps, const QuantShape& shape,
                       float* values, void* out) = nullptr;
  void (*gemm_i8)(const GemmProblem&, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
                  int64_t row_end) = nullptr;
  void (*gemm_i4)(const GemmProblem&, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
                  int64_t row_end) = nullptr;

  void (*gemm_i5)(const GemmProblem&, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
                  int64_t row_end) = nullptr;
  // The same for quantised weights whose activations are bf16: RMSNorm (if `weight`) and rounding,
  // then elements and sums.
  void (*round_row)(const float* x, const float* weight, float eps, const QuantShape& shape,
                    float* values, void* out) = nullptr;
  void (*gemm_i8_rounded)(const GemmProblem&, int64_t panel_begin, int64_t panel_end,
                          int64_t row_begin, int64_t row_end) = nullptr;
  void (*gemm_i4_rounded)(const GemmProblem&, int64_t panel_begin, int64_t panel_end,
                          int64_t row_begin, int64_t row_end) = nullptr;
  void (*gemm_i5_rounded)(const GemmProblem&, int64_t panel_begin, int64_t panel_end,
                          int64_t row_begin, int64_t row_end) = nullptr;

  void (*lora_shrink)(const LoraShrinkProblem&) = nullptr;

  void (*append_head)(const AppendProblem&) = nullptr;
  // Multiplies the blocks of `rotation` numbers of x [cols] by the Hadamard matrix, in place
  // (RotateRow in kernels/device/quantize.h). REQUIRES: `rotation` > 0.
  void (*rotate_blocks)(int32_t rotation, int64_t cols, float* x) = nullptr;
  // Applies RMSNorm (if `weight`) and the rotary embedding to one head. `out` may be `x`.
  void (*rotate_head)(const float* x, const float* weight, float eps, const float* cos,
                      const float* sin, int32_t rotary_dim, int32_t head_dim, float* out) = nullptr;
  // Transposes K rows [kPanel * panel_begin, kPanel * panel_end) of a block into panels of 16 keys:
  // fp32 [head_dim][16], bf16 [head_dim / 2][16][2], int8 codes [head_dim][16] with head_dim
  // rounded up to a multiple of 4. Null rows become zeros. Prefetches the V rows.
  void (*pack_keys)(const void* const* keys, const void* const* values, Element element,
                    int32_t head_dim, int32_t panel_begin, int32_t panel_end,
                    void* panels) = nullptr;
  void (*attend)(const AttendProblem&) = nullptr;
  // Merges the partial softmax (b_max, b_sum, b_out) into (max, sum, out). REQUIRES: b_sum > 0.
  void (*merge)(float b_max, float b_sum, const float* b_out, int32_t padded_dim, float* max,
                float* sum, float* out) = nullptr;
  // out[i] = x[i] / divisor.
  void (*divide)(const float* x, float divisor, int32_t count, float* out) = nullptr;
  const sampling::Passes* sample = nullptr;
  // For benchmarks: runs the multiply-add of gemm_bf16 on registers only. Returns the number of
  // floating-point operations.
  double (*spin_multiply_adds)(int64_t iterations) = nullptr;
  // For benchmarks: the same with the dot product of gemm_i8.
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
namespace amxtwin {  // the amx kernels with the tile registers emulated in scalar code; for tests
const IsaKernels& Kernels();
}

}  // namespace tessera::cpu

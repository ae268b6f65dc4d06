// The ISA seam of the cpu backend: a table of plain functions per instruction set. gemm_kernels.cc,
// row_kernels.cc and attention_kernels.cc are compiled once per ISA with its own compiler flags and
// reach the machine through the 16-lane wrapper of simd.h; everything else in this room is plain
// x86-64 and calls through the table that isa.h picked at run time.
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

namespace tessera::cpu {

inline constexpr int kPanel = 16;      // outputs (or keys) side by side
inline constexpr int kKeyBlock = 256;  // kAttentionBlock
inline constexpr int kKeyPanels = kKeyBlock / kPanel;
inline constexpr int kMaxAttendRows = 12;  // query rows of one Attend call
inline constexpr int kMaxHeadDim = 1024;
inline constexpr int64_t kCacheLine = 64;

enum class Element : int32_t { kF32, kBF16 };
enum class OutputOp : int32_t { kStore, kAdd, kGatedSilu, kGatedGelu };

// Packed weights. fp32: [panel][k][16]; bf16: [panel][k / 2][16][2], k padded to even by zeros. The
// last panel is padded to 16 outputs by zeros. Gated weights alternate panels of gate and up.
struct GemmProblem {
  const void* a = nullptr;  // prepared rows
  int64_t a_stride = 0;     // bytes
  const void* b = nullptr;  // panels
  int64_t panel_bytes = 0;
  int64_t steps = 0;               // of 64 panel bytes: k (fp32) or k / 2 (bf16)
  int64_t columns = 0;             // of out
  const float* bias = nullptr;     // [columns], or null; gated: of gate
  const float* up_bias = nullptr;  // gated: of up
  float softcap = 0.0f;            // 0: off
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
};

// Query rows of one kv head against one block of keys.
struct AttendProblem {
  const float* q = nullptr;  // [rows, q_stride], normed and rotated, zero behind head_dim
  int64_t q_stride = 0;      // floats, a multiple of 16
  int32_t rows = 0;          // <= kMaxAttendRows
  int32_t head_dim = 0;
  const void* keys = nullptr;              // panels of PackKeys
  const void* const* values = nullptr;     // [kKeyBlock] V rows; null where the block has no key
  const void* const* next_keys = nullptr;  // [kKeyBlock] K rows to bring near meanwhile, or null
  Element element = Element::kF32;         // of keys and values
  const int32_t* visible_begin = nullptr;  // [rows] the row's keys in the block: [begin, end)
  const int32_t* visible_end = nullptr;
  float scale = 0.0f;
  float softcap = 0.0f;  // 0: off
  float temperature = 1.0f;
  float* scores = nullptr;  // scratch [rows, kScoreStride]
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

  // One row: RMSNorm (if `weight`), rounding (if `round`), zeros up to padded_cols.
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

  void (*append_head)(const AppendProblem&) = nullptr;
  // Norm (if `weight`) and rotation of one query head; `out` may be `x`.
  void (*rotate_head)(const float* x, const float* weight, float eps, const float* cos,
                      const float* sin, int32_t rotary_dim, int32_t head_dim, float* out) = nullptr;
  // Transposes K rows [kPanel * panel_begin, kPanel * panel_end) of a block into panels of 16 keys
  // (fp32: [head_dim][16], bf16: [head_dim / 2][16][2]); null rows become zeros.
  void (*pack_keys)(const void* const* keys, const void* const* values, Element element,
                    int32_t head_dim, int32_t panel_begin, int32_t panel_end,
                    void* panels) = nullptr;
  void (*attend)(const AttendProblem&) = nullptr;
  // Merges partial (b_max, b_sum, b_out) into (max, sum, out). REQUIRES: b_sum > 0.
  void (*merge)(float b_max, float b_sum, const float* b_out, int32_t padded_dim, float* max,
                float* sum, float* out) = nullptr;
  // out[i] = x[i] / divisor.
  void (*divide)(const float* x, float divisor, int32_t count, float* out) = nullptr;
  // Benchmarks: the bf16 GEMM's multiply-add on registers alone; returns the flops it did.
  double (*spin_multiply_adds)(int64_t iterations) = nullptr;
};

namespace avx2 {
const IsaKernels& Kernels();
}
namespace avx512 {
const IsaKernels& Kernels();
}
namespace avx512bf16 {
const IsaKernels& Kernels();
}

}  // namespace tessera::cpu

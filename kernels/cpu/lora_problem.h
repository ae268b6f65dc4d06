// The arguments of the LoRA products in the per-ISA sources. This header holds only PODs, under the
// rules of isa_kernels.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/element.h"

namespace tessera::cpu {

// An adapter's matrix A or B as tiles of equal size in pages of the pool
// (kernels/step/adapter_layout.h).
struct LoraTiles {
  const char* pool = nullptr;
  int64_t slab_bytes = 0;
  const int32_t* pages = nullptr;  // the matrix's pages; the first one holds tile 0
  int32_t offset = 0;              // offset in bytes of tile 0 in the first page
  int32_t tile_bytes = 0;
  int32_t in_first = 0;  // number of tiles in the first page
  int32_t per_page = 0;  // number of tiles in each other page
};

// One LoRA target of a fused weight.
struct LoraPart {
  int32_t rank = 0;
  int32_t first_panel = 0;  // the target's outputs are num_panels panels of the weight: this one
  int32_t panel_step = 1;   // and every panel_step-th after it (2 in gated weights)
  int32_t num_panels = 0;
  int32_t z_begin = 0;  // index of the target's first element in a row of z
  Element element = Element::kF32;
  LoraTiles a;
  LoraTiles b;
};
inline constexpr int kMaxLoraParts = 3;

// Consecutive rows that use the same adapter.
struct LoraRun {
  int32_t row_begin = 0;
  int32_t row_end = 0;
  int32_t num_parts = 0;
  LoraPart parts[kMaxLoraParts];
};

// The product that a GEMM adds to its outputs: y += B z for each row of a run.
struct LoraProblem {
  const int32_t* row_runs = nullptr;  // [rows] index into `runs`; -1: the row has no adapter
  const LoraRun* runs = nullptr;
  const float* z = nullptr;  // [rows, z_stride]
  int64_t z_stride = 0;
};

// The product z[row][z_begin + i] = scale_i * (A_i . x[row]) for ranks i in [rank_begin, rank_end).
struct LoraShrinkProblem {
  const float* x = nullptr;  // [rows, x_stride]
  int64_t x_stride = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  const LoraPart* part = nullptr;
  int32_t rank_begin = 0;
  int32_t rank_end = 0;
  float* z = nullptr;  // [rows, z_stride]
  int64_t z_stride = 0;
};

}  // namespace tessera::cpu

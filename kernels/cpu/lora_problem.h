// What the LoRA part of a GEMM and of its rows is given: PODs for the per-ISA sources, under the
// rules of isa_kernels.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/element.h"

namespace tessera::cpu {

// Equal tiles of an adapter's matrix in pages of the pool (kernels/step/adapter_layout.h).
struct LoraTiles {
  const char* pool = nullptr;
  int64_t slab_bytes = 0;
  const int32_t* pages = nullptr;  // from the page of tile 0 on
  int32_t offset = 0;              // of tile 0
  int32_t tile_bytes = 0;
  int32_t in_first = 0;  // tiles of the first page
  int32_t per_page = 0;  // of the others
};

// One target of a fused weight: which panels its outputs are, and where its z lie.
struct LoraPart {
  int32_t rank = 0;
  int32_t first_panel = 0;
  int32_t panel_step = 1;  // 2 in gated weights
  int32_t num_panels = 0;
  int32_t z_begin = 0;  // of a row of z
  Element element = Element::kF32;
  LoraTiles a;
  LoraTiles b;
};
inline constexpr int kMaxLoraParts = 3;

// Adjoining rows that share an adapter.
struct LoraRun {
  int32_t row_begin = 0;
  int32_t row_end = 0;
  int32_t num_parts = 0;
  LoraPart parts[kMaxLoraParts];
};

// What a GEMM adds to its outputs: y += B z for each row of a run.
struct LoraProblem {
  const int32_t* row_runs = nullptr;  // [rows] index of runs; -1: none
  const LoraRun* runs = nullptr;
  const float* z = nullptr;  // [rows, z_stride]
  int64_t z_stride = 0;
};

// z[row][z_begin + i] = scale_i * (A_i . x[row]) for ranks i in [rank_begin, rank_end).
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

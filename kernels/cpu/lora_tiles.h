// How the per-ISA sources read an adapter's matrices, and B z as a GEMM adds it to a tile of its
// outputs. A row's sums do not depend on the rows beside it.
#pragma once

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/simd.h"

namespace tessera::cpu::TESSERA_ISA {

TESSERA_INLINE const char* LoraTile(const LoraTiles& tiles, int32_t tile) {
  if (tile < tiles.in_first) {
    return tiles.pool + tiles.pages[0] * tiles.slab_bytes + tiles.offset +
           int64_t{tile} * tiles.tile_bytes;
  }
  const uint32_t behind = static_cast<uint32_t>(tile - tiles.in_first);
  const uint32_t per_page = static_cast<uint32_t>(tiles.per_page);
  return tiles.pool + tiles.pages[1 + behind / per_page] * tiles.slab_bytes +
         int64_t{behind % per_page} * tiles.tile_bytes;
}

// Elements of a tile as floats.
struct LoraF32 {
  static constexpr int64_t kBytes = 4;
  TESSERA_INLINE V16 Load16(const char* p) { return Load(p); }
};
struct LoraBF16 {
  static constexpr int64_t kBytes = 2;
  TESSERA_INLINE V16 Load16(const char* p) { return LoadBF16(p); }
};

struct LoraI8 {
  static constexpr int64_t kBytes = 1;
  TESSERA_INLINE V16 Load16(const char* p) { return ToFloats(LoadSignedBytes(p)); }
};

// y[r] += B z[r] over one panel for kRows rows.
template <class Weight, int kRows>
static void ExpandPanel(const char* tile, int32_t rank, const float* z, int64_t z_stride, float* y,
                        int64_t y_stride) {
  V16 sum[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) sum[r] = Load(y + r * y_stride);
  for (int32_t i = 0; i < rank; ++i) {
    const V16 b = Weight::Load16(tile + i * (Weight::kBytes * kPanel));
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) sum[r] = Fma(BroadcastWord(z + r * z_stride + i), b, sum[r]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) Store(y + r * y_stride, sum[r]);
}

template <class Weight>
static void ExpandRows(const char* tile, int32_t rank, const float* z, int64_t z_stride, float* y,
                       int64_t y_stride, int rows) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) {
    ExpandPanel<Weight, 4>(tile, rank, z + r * z_stride, z_stride, y + r * y_stride, y_stride);
  }
  for (; r < rows; ++r) {
    ExpandPanel<Weight, 1>(tile, rank, z + r * z_stride, z_stride, y + r * y_stride, y_stride);
  }
}

// Rows [row, row + rows) of one run; y: their tile of panels [panel, panel + panels).
static inline void ExpandPart(const LoraPart& part, const float* z, int64_t z_stride, float* y,
                              int64_t y_stride, int rows, int64_t panel, int panels) {
  for (int p = 0; p < panels; ++p) {
    const int64_t behind = panel + p - part.first_panel;
    if (behind < 0 || behind % part.panel_step != 0) continue;
    const int32_t tile_index = static_cast<int32_t>(behind / part.panel_step);
    if (tile_index >= part.num_panels) continue;
    const char* const tile = LoraTile(part.b, tile_index);
    const auto expand = part.element == Element::kF32    ? &ExpandRows<LoraF32>
                        : part.element == Element::kBF16 ? &ExpandRows<LoraBF16>
                                                         : &ExpandRows<LoraI8>;
    expand(tile, part.rank, z + part.z_begin, z_stride, y + p * kPanel, y_stride, rows);
  }
}

static inline void AddLora(const LoraProblem& lora, float* tile, int64_t tile_stride, int64_t panel,
                           int panels, int64_t row, int rows) {
  for (int begin = 0, end = 0; begin < rows; begin = end) {
    const int32_t run = lora.row_runs[row + begin];
    for (end = begin + 1; end < rows && lora.row_runs[row + end] == run;) ++end;
    if (run < 0) continue;
    for (int32_t i = 0; i < lora.runs[run].num_parts; ++i) {
      ExpandPart(lora.runs[run].parts[i], lora.z + (row + begin) * lora.z_stride, lora.z_stride,
                 tile + begin * tile_stride, tile_stride, end - begin, panel, panels);
    }
  }
}

}  // namespace tessera::cpu::TESSERA_ISA

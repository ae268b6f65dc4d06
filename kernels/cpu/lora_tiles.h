// Functions of the per-ISA sources that read an adapter's matrices and add B z to a tile of a
// GEMM's outputs. A row's sums do not depend on the other rows of the tile. Pure functions.
#pragma once

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/simd.h"

namespace tessera::cpu::TESSERA_ISA {

// Returns the address of a tile, and in *after the number of tiles after it in the same page.
TESSERA_INLINE const char* LoraTile(const LoraTiles& tiles, int32_t tile, int32_t* after) {
  if (tile < tiles.in_first) {
    *after = tiles.in_first - tile - 1;
    return tiles.pool + tiles.pages[0] * tiles.slab_bytes + tiles.offset +
           int64_t{tile} * tiles.tile_bytes;
  }
  const uint32_t after_first = static_cast<uint32_t>(tile - tiles.in_first);
  const uint32_t per_page = static_cast<uint32_t>(tiles.per_page);
  *after = static_cast<int32_t>(per_page - after_first % per_page - 1);
  return tiles.pool + tiles.pages[1 + after_first / per_page] * tiles.slab_bytes +
         int64_t{after_first % per_page} * tiles.tile_bytes;
}

// LoraF32, LoraBF16 and LoraI8 load 16 elements of a tile as floats.
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

// The most rows and panels of one ExpandTile, limited by the number of registers.
inline constexpr int kExpandRows = kMaxRows == 12 ? 6 : 2;
inline constexpr int kExpandPanels = kMaxRows == 12 ? 2 : 1;

// Computes y[r] += B z[r] for kRows rows and kPanels panels, whose tiles are tile_bytes apart. Even
// and odd ranks have separate sums, which halves the chain of dependent additions of a single row.
// The loop also prefetches the next tiles, because a run of tiles is too short for the hardware
// prefetcher.
template <class Weight, int kRows, int kPanels>
static void ExpandTile(const char* tile, int64_t tile_bytes, int32_t rank, const float* z,
                       int64_t z_stride, float* y, int64_t y_stride) {
  constexpr int64_t kStep = Weight::kBytes * kPanel;
  V16 sum[2][kRows][kPanels];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      sum[0][r][p] = Load(y + r * y_stride + p * kPanel);
      sum[1][r][p] = Zero();
    }
  }
  const auto add = [&](int32_t i, int half) __attribute__((always_inline)) {
    V16 b[kPanels];
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      b[p] = Weight::Load16(tile + p * tile_bytes + i * kStep);
      __builtin_prefetch(tile + (kPanels + p) * tile_bytes + i * kStep);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const V16 of_rank = BroadcastWord(z + r * z_stride + i);
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) sum[half][r][p] = Fma(of_rank, b[p], sum[half][r][p]);
    }
  };
  int32_t i = 0;
  for (; i + 2 <= rank; i += 2) {
    add(i, 0);
    add(i + 1, 1);
  }
  if (i < rank) add(i, 0);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      Store(y + r * y_stride + p * kPanel, Add(sum[0][r][p], sum[1][r][p]));
    }
  }
}

template <class Weight, int kPanels, int kRows = kExpandRows>
static void ExpandRows(const char* tile, int64_t tile_bytes, int32_t rank, const float* z,
                       int64_t z_stride, float* y, int64_t y_stride, int rows) {
  for (; rows >= kRows; rows -= kRows) {
    ExpandTile<Weight, kRows, kPanels>(tile, tile_bytes, rank, z, z_stride, y, y_stride);
    z += kRows * z_stride;
    y += kRows * y_stride;
  }
  if constexpr (kRows > 1) {
    ExpandRows<Weight, kPanels, kRows - 1>(tile, tile_bytes, rank, z, z_stride, y, y_stride, rows);
  }
}

template <int kPanels>
static void ExpandElements(Element element, const char* tile, int64_t tile_bytes, int32_t rank,
                           const float* z, int64_t z_stride, float* y, int64_t y_stride, int rows) {
  const auto expand = element == Element::kF32    ? &ExpandRows<LoraF32, kPanels>
                      : element == Element::kBF16 ? &ExpandRows<LoraBF16, kPanels>
                                                  : &ExpandRows<LoraI8, kPanels>;
  expand(tile, tile_bytes, rank, z, z_stride, y, y_stride, rows);
}

// Adds one part's B z to `rows` rows of one run. `y` is the rows' tile of outputs, panels [panel,
// panel + panels) of the weight.
static inline void ExpandPart(const LoraPart& part, const float* z, int64_t z_stride, float* y,
                              int64_t y_stride, int rows, int64_t panel, int panels) {
  int width = 1;
  for (int p = 0; p < panels; p += width) {
    width = 1;
    const int64_t after = panel + p - part.first_panel;
    if (after < 0 || after % part.panel_step != 0) continue;
    const int32_t tile_index = static_cast<int32_t>(after / part.panel_step);
    if (tile_index >= part.num_panels) continue;
    int32_t tiles_behind;
    const char* const tile = LoraTile(part.b, tile_index, &tiles_behind);
    const bool has_next = part.panel_step == 1 && p + 1 < panels &&
                          tile_index + 1 < part.num_panels && tiles_behind > 0;
    if (has_next) width = kExpandPanels;
    (width == kExpandPanels ? &ExpandElements<kExpandPanels>
                            : &ExpandElements<1>)(part.element, tile, part.b.tile_bytes, part.rank,
                                                  z + part.z_begin, z_stride, y + p * kPanel,
                                                  y_stride, rows);
  }
}

// Adds B z of every adapter to a tile of outputs: rows [row, row + rows), panels [panel, panel +
// panels).
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

// Where a LoRA adapter's weights lie in pages of the KV pool: the only place that knows. An adapter
// adds scale * B (A x) to a linear (Hu et al., arXiv 2106.09685), A [rank, in], B [out, rank], of
// any rank, for any of a layer's seven linears (its targets). Unified paging (S-LoRA, arXiv
// 2311.03285) with byte pages: nothing is padded to a largest rank.
//
// A matrix is a run of equal tiles, one behind the other, none across a page's edge:
//   A tile: one rank's row of A, `in` elements and zeros up to a multiple of 16, then its scale
//           (fp32); rank tiles
//   B tile: 16 outputs (a panel), [rank][16] elements; ceil(out / 16) tiles, zeros behind the last
// Elements are fp32, bf16 or int8. The scale is alpha / r (alpha / sqrt(r) for rank-stabilised
// adapters), times a blend's weight, times what int8 codes of A's row and of B's column stand for.
//
// Plain data and arithmetic; any thread. Free of absl and spdlog (CUDA sources see it).
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/types.h"
#include "kernels/step/page_layout.h"

namespace tessera {

inline constexpr int kLoraPanel = 16;

enum class LoraTarget : int32_t { kQuery = 0, kKey, kValue, kOut, kGate, kUp, kDown };
inline constexpr int kNumLoraTargets = 7;
const char* LoraTargetName(LoraTarget target);  // "q_proj", ...

// Where equal tiles lie: tile 0 at `offset` of the adapter's page `page` (an index of its list), as
// many behind it as fit, the rest from the begin of the following pages.
struct TileRun {
  int32_t page = 0;
  int32_t offset = 0;      // bytes
  int32_t tile_bytes = 0;  // a multiple of 64
  int32_t num_tiles = 0;
};

// A and B of one target of one layer.
struct LoraMatrices {
  int32_t rank = 0;  // 0: the target is not adapted
  TileRun a;
  TileRun b;
};

// A byte of an adapter's pages.
struct TilePlace {
  int32_t page = 0;  // index of the adapter's list
  int64_t offset = 0;
};
inline TilePlace PlaceOfTile(const TileRun& run, int64_t page_bytes, int32_t tile) {
  const int64_t in_first = (page_bytes - run.offset) / run.tile_bytes;
  if (tile < in_first) return {run.page, run.offset + int64_t{tile} * run.tile_bytes};
  const int64_t behind = tile - in_first;
  const int64_t per_page = page_bytes / run.tile_bytes;
  return {static_cast<int32_t>(run.page + 1 + behind / per_page),
          behind % per_page * run.tile_bytes};
}

// Rows (outputs) and columns (inputs) of each target's linear, the same in all layers.
struct LoraShape {
  int32_t rows[kNumLoraTargets] = {};
  int32_t cols[kNumLoraTargets] = {};
};

// Immutable once planned.
struct AdapterLayout {
  DType dtype = DType::kF32;  // kF32, kBF16 or kI8
  int64_t page_bytes = 0;
  int32_t num_pages = 0;
  int64_t num_bytes = 0;               // of tiles, without what pages' ends leave
  std::vector<LoraMatrices> matrices;  // [layers, kNumLoraTargets]

  // Bytes from an A tile's begin to its scale.
  static int64_t ScaleOffset(int64_t cols, DType dtype) {
    return RoundUp<int64_t>(cols, kLoraPanel) * DTypeBytes(dtype);
  }
  const LoraMatrices& at(int layer, LoraTarget target) const {
    return matrices[static_cast<size_t>(layer) * kNumLoraTargets + static_cast<size_t>(target)];
  }
};

// ranks: [layers, kNumLoraTargets]. num_pages is 0 when some tile is larger than a page.
AdapterLayout PlanAdapter(const LoraShape& shape, const std::vector<int32_t>& ranks, DType dtype,
                          int64_t page_bytes);

// One target's weights in fp32, ready to be placed: `a` [rank, cols], `b` [rows, rank], `scales`
// [rank].
struct LoraTensors {
  int32_t rank = 0;
  std::vector<float> a;
  std::vector<float> b;
  std::vector<float> scales;
};

// Writes the tiles of one target of a layer. `pages`: page images of layout.page_bytes bytes each,
// contiguous. Rounds to bf16 (ties to even) or to int8 (each rank's row of A and column of B
// symmetric to its maximum).
void PlaceMatrices(const AdapterLayout& layout, const LoraShape& shape, int layer,
                   LoraTarget target, const LoraTensors& tensors, char* pages);

}  // namespace tessera

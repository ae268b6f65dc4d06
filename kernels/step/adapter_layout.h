// The layout of a LoRA adapter's weights in pages of the KV pool; no other code computes it. An
// adapter adds scale * B (A x) to a linear (Hu et al., arXiv 2106.09685), with A [rank, in] and B
// [out, rank]. An adapter may change any of a layer's seven linears (its targets), each with any
// rank. The layout is the unified paging of S-LoRA (arXiv 2311.03285) with byte pages, so no matrix
// is padded to a largest rank.
//
// A matrix is a sequence of equal tiles. No tile crosses the end of a page.
//   A tile: one row of A (one rank): `in` elements, zeros up to a multiple of 16 elements, then the
//           rank's scale (fp32). A has `rank` tiles.
//   B tile: 16 outputs (a panel) as [rank][16] elements. B has ceil(out / 16) tiles; the last is
//           padded with zeros.
// Elements are fp32, bf16 or int8. The scale of a rank is alpha / r (alpha / sqrt(r) for
// rank-stabilised adapters), times the weight of the adapter in a blend, times the quantisation
// steps of the int8 codes of A's row and of B's column.
//
// Plain data and arithmetic; any thread. Uses no absl and no spdlog, because CUDA sources include
// it.
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

// The places of a sequence of equal tiles. Tile 0 is in the adapter's page `page` at `offset`. The
// tiles after tile 0 follow without gaps up to the end of the page, and continue at the starts of
// the following pages.
struct TileRun {
  int32_t page = 0;        // index in the adapter's list of pages
  int32_t offset = 0;      // bytes from the start of the page
  int32_t tile_bytes = 0;  // a multiple of 64
  int32_t num_tiles = 0;
};

// A and B of one target of one layer.
struct LoraMatrices {
  int32_t rank = 0;  // 0: the target is not adapted
  TileRun a;
  TileRun b;
};

// The place of a tile.
struct TilePlace {
  int32_t page = 0;    // index in the adapter's list of pages
  int64_t offset = 0;  // bytes from the start of the page
};
inline TilePlace PlaceOfTile(const TileRun& run, int64_t page_bytes, int32_t tile) {
  const int64_t in_first = (page_bytes - run.offset) / run.tile_bytes;
  if (tile < in_first) return {run.page, run.offset + int64_t{tile} * run.tile_bytes};
  const int64_t after = tile - in_first;
  const int64_t per_page = page_bytes / run.tile_bytes;
  return {static_cast<int32_t>(run.page + 1 + after / per_page), after % per_page * run.tile_bytes};
}

// The rows (outputs) and columns (inputs) of each target's linear, which are equal in all layers.
struct LoraShape {
  int32_t rows[kNumLoraTargets] = {};
  int32_t cols[kNumLoraTargets] = {};
};

// The places of all matrices of an adapter. Immutable after PlanAdapter.
struct AdapterLayout {
  DType dtype = DType::kF32;  // kF32, kBF16 or kI8
  int64_t page_bytes = 0;
  int32_t num_pages = 0;
  int64_t num_bytes = 0;               // bytes of all tiles, without unused ends of pages
  std::vector<LoraMatrices> matrices;  // [layers, kNumLoraTargets]

  // The number of bytes from the start of an A tile to its scale.
  static int64_t ScaleOffset(int64_t cols, DType dtype) {
    return RoundUp<int64_t>(cols, kLoraPanel) * DTypeBytes(dtype);
  }
  const LoraMatrices& at(int layer, LoraTarget target) const {
    return matrices[static_cast<size_t>(layer) * kNumLoraTargets + static_cast<size_t>(target)];
  }
};

// Plans the places of an adapter's matrices. `ranks` is [layers, kNumLoraTargets]. The result's
// num_pages is 0 if a tile is larger than a page.
AdapterLayout PlanAdapter(const LoraShape& shape, const std::vector<int32_t>& ranks, DType dtype,
                          int64_t page_bytes);

// The weights of one target of one layer in fp32.
struct LoraTensors {
  int32_t rank = 0;
  std::vector<float> a;       // [rank, cols]
  std::vector<float> b;       // [rows, rank]
  std::vector<float> scales;  // [rank]
};

// Writes the tiles of one target of a layer. `pages` is a contiguous array of page images of
// layout.page_bytes bytes each. Rounds to bf16 (ties to even), or to symmetric int8 scaled by the
// maximum of each row of A and of each column of B.
void PlaceMatrices(const AdapterLayout& layout, const LoraShape& shape, int layer,
                   LoraTarget target, const LoraTensors& tensors, char* pages);

}  // namespace tessera

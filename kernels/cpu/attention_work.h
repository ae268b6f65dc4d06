// How a step's attention is cut into tasks: (segment, kv head, tile of query tokens) and, where one
// task would keep the others waiting, runs of its key blocks. Blocks that several segments have in
// front (shared_prefix.h) are tasks of their own, done once for the rows of all. Costs decide the
// cut, results do not depend on it: a block's partial is the same wherever it is computed, and
// partials are always merged in ascending order. Plain data, remade when the batch or the layer's
// shape changes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/types/span.h"
#include "kernels/cpu/shared_prefix.h"
#include "kernels/device/backend.h"
#include "kernels/step/attention_plan.h"

namespace tessera::cpu {

// Query rows (tokens times heads per kv head) of a tile: enough to pay for transposing a block's
// keys.
inline constexpr int32_t kTileRows = 96;
// Query rows that load a shared block together, and the tokens of a segment that may be among them.
inline constexpr int32_t kSharedRows = 256;
inline constexpr int32_t kMaxSharingTokens = 8;

// Query tokens of one segment with one kv head. Its query rows are numbered token by token.
struct AttentionTile {
  int32_t segment = 0;
  int32_t kv_head = 0;
  int32_t token_begin = 0;  // rows of the batch
  int32_t num_tokens = 0;
  // Positions that the tile's rows have.
  int32_t min_position = 0;
  int32_t max_position = 0;
  // When cut: pieces that are not done yet count down, the last one merges.
  int32_t num_pieces = 1;
  int32_t cut = -1;           // index among the cut tiles; -1: whole
  int64_t partial_begin = 0;  // of its first block, in (block, row) units
  int32_t num_blocks = 0;
  int32_t num_shared = 0;  // of the first blocks; they belong to shared tasks
};

struct AttentionTask {
  int32_t tile = 0;
  int32_t block_begin = 0;  // of the tile's blocks, counted through the streams
  int32_t block_end = 0;
  int64_t cost = 0;
  int32_t shared = -1;  // index of shared_tiles() whose blocks these are; `tile` is their first
};

class AttentionWork final {
 public:
  // Segments' streams and tasks for one group. `heads_per_kv` = heads / kv_heads. At most
  // `max_partials` partials are kept: beyond them tiles are neither cut nor share blocks.
  void Build(const BatchView& batch, int group, const GroupLayout& layout, int32_t heads_per_kv,
             int num_members, int64_t max_partials);

  const std::vector<AttentionTile>& tiles() const { return tiles_; }
  // Dearest first.
  const std::vector<AttentionTask>& tasks() const { return tasks_; }
  int32_t num_cut_tiles() const { return num_cut_tiles_; }
  int64_t num_partials() const { return num_partials_; }  // (block, row) cells of cut tiles
  // Tiles of one kv head with blocks in common, at most kSharedRows query rows.
  absl::Span<const int32_t> shared_tiles(int32_t shared) const {
    const size_t begin = shared_begin_[static_cast<size_t>(shared)];
    const size_t end = shared_begin_[static_cast<size_t>(shared) + 1];
    return absl::MakeConstSpan(shared_tiles_).subspan(begin, end - begin);
  }

  const KvStream* streams_begin(int32_t segment) const {
    return streams_.data() + stream_begin_[static_cast<size_t>(segment)];
  }
  const KvStream* streams_end(int32_t segment) const {
    return streams_.data() + stream_begin_[static_cast<size_t>(segment) + 1];
  }

  // The blocks [first, last) of a stream that some row of the tile sees.
  static PositionRange VisibleBlocks(const KvStream& stream, const AttentionTile& tile,
                                     int32_t window) {
    const PositionRange oldest = VisibleKeys(stream, window, tile.min_position);
    const PositionRange newest = VisibleKeys(stream, window, tile.max_position);
    if (oldest.begin >= newest.end) return {0, 0};
    return {oldest.begin / kAttentionBlock, CeilDiv(newest.end, kAttentionBlock)};
  }

 private:
  void AddTiles(const BatchView& batch, const GroupLayout& layout, int32_t segment,
                int32_t tile_tokens);
  // Collects shared_tiles_, a task for each (not cut yet), and the tiles' num_shared. Tiles that
  // share keep at most `max_partials` partials.
  void ShareBlocks(const BatchView& batch, const GroupLayout& layout, int32_t heads_per_kv,
                   int32_t tile_tokens, int64_t max_partials);
  // Lets a tile share blocks up to `block_end`. False: its partials would be too many.
  bool Share(AttentionTile* tile, int32_t rows, int32_t block_end, int64_t max_partials);
  // Adds the tile's tasks; an unshared tile is cut only while `cut_partials` of the partials are
  // left, and takes them.
  void AddTasks(int32_t tile, int32_t rows, int64_t member_share, int64_t* cut_partials);
  void CutShared(size_t num_shared, int64_t member_share);

  std::vector<KvStream> streams_;
  std::vector<size_t> stream_begin_;  // [segments + 1]
  std::vector<AttentionTile> tiles_;
  std::vector<int32_t> first_tile_;  // [segments]
  std::vector<AttentionTask> tasks_;
  std::vector<PrefixCandidate> candidates_;
  SharedPrefixes prefixes_;
  std::vector<int32_t> shared_tiles_;
  std::vector<size_t> shared_begin_;  // [shared tasks + 1], into shared_tiles_
  int32_t num_cut_tiles_ = 0;
  int64_t num_partials_ = 0;
  int64_t num_shared_partials_ = 0;  // of tiles that share blocks
};

}  // namespace tessera::cpu

// AttentionWork divides the attention of a step into tasks for the thread team. A task is one tile:
// (segment, KV head, range of query tokens). A tile that would take much longer than the others is
// cut into pieces, each a range of its key blocks. Leading key blocks that several segments share
// (shared_prefix.h) become separate tasks, which load each block once for the query rows of all
// these segments. Estimated costs determine the cut. Results do not depend on the cut: the partial
// softmax of a block does not depend on its task, and partials are merged in ascending order.
//
// AttentionOp owns the work and builds it again when the batch or the layer's shape changes. Built
// by one thread, then read by the team.
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

// The most query rows (tokens times heads per KV head) of a tile. With this many rows the time to
// transpose a block's keys is small beside the time to attend to them.
inline constexpr int32_t kTileRows = 96;
// The most query rows of one shared task.
inline constexpr int32_t kSharedRows = 256;
// Only segments of at most this many tokens take part in shared tasks.
inline constexpr int32_t kMaxSharingTokens = 8;

// A range of query tokens of one segment with one KV head. Query row r of the tile is token
// r / heads_per_kv with head r % heads_per_kv.
struct AttentionTile {
  int32_t segment = 0;
  int32_t kv_head = 0;
  int32_t token_begin = 0;  // first row in the batch
  int32_t num_tokens = 0;
  int32_t min_position = 0;  // lowest position of the tile's tokens
  int32_t max_position = 0;  // highest position of the tile's tokens
  int32_t num_pieces = 1;    // tasks that compute blocks of the tile; the last to end merges
  int32_t cut = -1;          // index among the cut tiles; -1: the tile is one task
  // Index of the first cell of a cut tile; a cell is the partial of one (block, row).
  int64_t partial_begin = 0;
  int32_t num_blocks = 0;  // key blocks that some row sees, over all streams
  int32_t num_shared = 0;  // number of leading blocks that shared tasks compute
};

struct AttentionTask {
  int32_t tile = 0;
  int32_t block_begin = 0;  // index among the tile's blocks, counted through all streams
  int32_t block_end = 0;
  int64_t cost = 0;
  // Index for shared_tiles() of a shared task, whose `tile` is the first of those tiles; -1: the
  // task computes blocks of one tile only.
  int32_t shared = -1;
};

class AttentionWork final {
 public:
  // Finds the streams of all segments in one KV group and creates the tasks for a team of
  // num_members. heads_per_kv is heads / kv_heads. The tasks keep at most `max_partials` partials:
  // tiles that would need more are not cut and share no blocks.
  void Build(const BatchView& batch, int group, const GroupLayout& layout, int32_t heads_per_kv,
             int num_members, int64_t max_partials);

  const std::vector<AttentionTile>& tiles() const { return tiles_; }
  // The tasks in descending order of cost.
  const std::vector<AttentionTask>& tasks() const { return tasks_; }
  int32_t num_cut_tiles() const { return num_cut_tiles_; }
  int64_t num_partials() const { return num_partials_; }  // cells of all cut tiles
  // Returns the tiles of a shared task: tiles of one KV head that share key blocks, with at most
  // kSharedRows query rows in total.
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

  // Returns the range of blocks of a stream that some row of the tile sees.
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
  // Fills shared_tiles_, adds a task (not cut yet) for each entry, and sets the tiles' num_shared.
  // The tiles that share blocks keep at most `max_partials` partials.
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
  std::vector<int32_t> first_tile_;  // [segments] index of a segment's first tile
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

#include "kernels/cpu/attention_work.h"

#include "kernels/cpu/work_plan.h"

namespace tessera::cpu {
namespace {

// Returns the cost of one block for `rows` query rows, in units of one query row. Transposing the
// keys of a block costs about as much as 4 rows.
int64_t BlockCost(int32_t rows) { return rows + 4; }

}  // namespace

void AttentionWork::Build(const BatchView& batch, int group, const GroupLayout& layout,
                          int32_t heads_per_kv, int num_members, int64_t max_partials) {
  streams_.clear();
  stream_begin_.clear();
  tiles_.clear();
  first_tile_.clear();
  tasks_.clear();
  shared_tiles_.clear();
  shared_begin_.clear();
  num_cut_tiles_ = 0;
  num_partials_ = 0;
  num_shared_partials_ = 0;
  const int32_t tile_tokens = std::max(1, kTileRows / heads_per_kv);
  for (int32_t s = 0; s < batch.num_segments(); ++s) {
    stream_begin_.push_back(streams_.size());
    ForEachStream(batch, group, s, [this](const KvStream& stream) { streams_.push_back(stream); });
    stream_begin_.push_back(streams_.size());
    first_tile_.push_back(static_cast<int32_t>(tiles_.size()));
    AddTiles(batch, layout, s, tile_tokens);
    stream_begin_.pop_back();
  }
  stream_begin_.push_back(streams_.size());
  // Sharing leaves partials for cuts, unless there are enough partials for all tiles.
  int32_t most_blocks = 0;
  int64_t all_partials = 0;
  for (const AttentionTile& tile : tiles_) {
    most_blocks = std::max(most_blocks, tile.num_blocks);
    all_partials += int64_t{tile.num_blocks} * tile.num_tokens * heads_per_kv;
  }
  const int64_t for_cuts =
      all_partials <= max_partials
          ? 0
          : std::min(max_partials,
                     MaxCutPartials(heads_per_kv, layout.head_dim, most_blocks, num_members));
  if (layout.window == 0) {
    ShareBlocks(batch, layout, heads_per_kv, tile_tokens, max_partials - for_cuts);
  }

  const size_t num_shared = tasks_.size();
  int64_t total = 0;
  for (const AttentionTask& task : tasks_) total += task.cost;
  for (const AttentionTile& tile : tiles_) {
    total += (tile.num_blocks - tile.num_shared) * BlockCost(tile.num_tokens * heads_per_kv);
  }
  const int64_t member_share =
      num_members == 1 ? std::numeric_limits<int64_t>::max() : total / num_members;
  int64_t cut_partials = max_partials - num_shared_partials_;
  for (size_t i = 0; i < tiles_.size(); ++i) {
    AddTasks(static_cast<int32_t>(i), tiles_[i].num_tokens * heads_per_kv, member_share,
             &cut_partials);
  }
  CutShared(num_shared, member_share);
  std::sort(tasks_.begin(), tasks_.end(), [](const AttentionTask& a, const AttentionTask& b) {
    if (a.cost != b.cost) return a.cost > b.cost;
    return a.tile != b.tile ? a.tile < b.tile : a.block_begin < b.block_begin;
  });
}

void AttentionWork::AddTiles(const BatchView& batch, const GroupLayout& layout, int32_t segment,
                             int32_t tile_tokens) {
  const Segment& rows = batch.segments()[segment];
  for (int32_t begin = 0; begin < rows.num_tokens; begin += tile_tokens) {
    AttentionTile tile;
    tile.segment = segment;
    tile.token_begin = rows.token_begin + begin;
    tile.num_tokens = std::min(tile_tokens, rows.num_tokens - begin);
    const int32_t* const positions = batch.positions() + tile.token_begin;
    const auto extremes = std::minmax_element(positions, positions + tile.num_tokens);
    tile.min_position = *extremes.first;
    tile.max_position = *extremes.second;
    for (const KvStream* s = streams_begin(segment); s != streams_end(segment); ++s) {
      const PositionRange blocks = VisibleBlocks(*s, tile, layout.window);
      tile.num_blocks += blocks.end - blocks.begin;
    }
    for (tile.kv_head = 0; tile.kv_head < layout.kv_heads; ++tile.kv_head) {
      tiles_.push_back(tile);
    }
  }
}

bool AttentionWork::Share(AttentionTile* tile, int32_t rows, int32_t block_end,
                          int64_t max_partials) {
  if (tile->num_shared == 0) {
    const int64_t partials = int64_t{tile->num_blocks} * rows;
    if (num_shared_partials_ + partials > max_partials) return false;
    num_shared_partials_ += partials;
  }
  tile->num_shared = std::max(tile->num_shared, block_end);
  return true;
}

void AttentionWork::ShareBlocks(const BatchView& batch, const GroupLayout& layout,
                                int32_t heads_per_kv, int32_t tile_tokens, int64_t max_partials) {
  candidates_.clear();
  for (int32_t s = 0; s < batch.num_segments(); ++s) {
    const int32_t num_tokens = batch.segments()[s].num_tokens;
    if (num_tokens == 0 || num_tokens > std::min(kMaxSharingTokens, tile_tokens)) continue;
    const KvStream* const stream = streams_begin(s);
    if (stream == streams_end(s) || stream->pos_begin != 0) continue;
    const AttentionTile& tile = tiles_[static_cast<size_t>(first_tile_[static_cast<size_t>(s)])];
    const int32_t seen_by_all = std::min(stream->pos_end, tile.min_position + 1);
    candidates_.push_back({s, stream, seen_by_all / kAttentionBlock});
  }
  for (const SharedBlocks& shared : prefixes_.Find(batch, layout.page_tokens, candidates_)) {
    const int32_t num_blocks = shared.block_end - shared.block_begin;
    for (int32_t kv_head = 0; kv_head < layout.kv_heads; ++kv_head) {
      // Query rows of the current task; the start value makes the first tile begin a task.
      int32_t rows = kSharedRows + 1;
      for (const int32_t member : prefixes_.members(shared)) {
        const int32_t segment = candidates_[static_cast<size_t>(member)].segment;
        const int32_t index = first_tile_[static_cast<size_t>(segment)] + kv_head;
        AttentionTile& tile = tiles_[static_cast<size_t>(index)];
        const int32_t tile_rows = tile.num_tokens * heads_per_kv;
        // Refused for one range of blocks, a tile is refused for all: the sum never decreases.
        if (!Share(&tile, tile_rows, shared.block_end, max_partials)) continue;
        if (rows + tile_rows > kSharedRows) {
          tasks_.push_back({index, shared.block_begin, shared.block_end, num_blocks * BlockCost(0),
                            static_cast<int32_t>(shared_begin_.size())});
          shared_begin_.push_back(shared_tiles_.size());
          rows = 0;
        }
        rows += tile_rows;
        tasks_.back().cost += static_cast<int64_t>(num_blocks) * tile_rows;
        shared_tiles_.push_back(index);
      }
    }
  }
  shared_begin_.push_back(shared_tiles_.size());
}

// Cuts each of the first num_shared tasks, which are the shared ones, into pieces of an eighth of a
// member's share of the total cost.
void AttentionWork::CutShared(size_t num_shared, int64_t member_share) {
  const int64_t piece_cost = std::max<int64_t>(1, member_share / 8);
  for (size_t i = 0; i < num_shared; ++i) {
    const AttentionTask whole = tasks_[i];
    const int64_t num_blocks = whole.block_end - whole.block_begin;
    const int64_t num_pieces = std::min(num_blocks, CeilDiv(whole.cost, piece_cost));
    for (int64_t p = 0; p < num_pieces; ++p) {
      AttentionTask piece = whole;
      piece.block_begin = whole.block_begin + static_cast<int32_t>(num_blocks * p / num_pieces);
      piece.block_end = whole.block_begin + static_cast<int32_t>(num_blocks * (p + 1) / num_pieces);
      piece.cost = whole.cost / num_blocks * (piece.block_end - piece.block_begin);
      if (p == 0) {
        tasks_[i] = piece;
      } else {
        tasks_.push_back(piece);
      }
    }
    for (const int32_t tile : shared_tiles(whole.shared)) {
      tiles_[static_cast<size_t>(tile)].num_pieces += static_cast<int32_t>(num_pieces);
    }
  }
}

// Adds the tasks of a tile. A tile that costs more than half of a member's share of the total cost
// is cut into pieces of an eighth of a share. A tile with shared blocks is always cut.
void AttentionWork::AddTasks(int32_t index, int32_t rows, int64_t member_share,
                             int64_t* cut_partials) {
  AttentionTile& tile = tiles_[static_cast<size_t>(index)];
  const int64_t block_cost = BlockCost(rows);
  const int64_t num_own = tile.num_blocks - tile.num_shared;
  const int64_t cost = num_own * block_cost;
  const int64_t partials = int64_t{tile.num_blocks} * rows;
  if (tile.num_shared == 0) {
    if (cost <= member_share / 2 || tile.num_blocks < 2 || partials > *cut_partials) {
      tasks_.push_back({index, 0, tile.num_blocks, cost});
      return;
    }
    *cut_partials -= partials;
  }
  const int64_t piece_cost = std::max<int64_t>(1, member_share / 8);
  tile.num_pieces = static_cast<int32_t>(std::min(num_own, CeilDiv(cost, piece_cost)));
  tile.cut = num_cut_tiles_++;
  tile.partial_begin = num_partials_;
  num_partials_ += partials;
  for (int64_t i = 0; i < tile.num_pieces; ++i) {
    const int32_t begin = tile.num_shared + static_cast<int32_t>(num_own * i / tile.num_pieces);
    const int32_t end = tile.num_shared + static_cast<int32_t>(num_own * (i + 1) / tile.num_pieces);
    tasks_.push_back({index, begin, end, (end - begin) * block_cost});
  }
}

}  // namespace tessera::cpu

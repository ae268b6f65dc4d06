#include "kernels/cpu/attention_work.h"

namespace tessera::cpu {
namespace {

// Of one block for `rows` query rows, in units of a row: transposing its keys costs as much as some
// rows do.
int64_t BlockCost(int32_t rows) { return rows + 4; }

}  // namespace

void AttentionWork::Build(const BatchView& batch, int group, const GroupLayout& layout,
                          int32_t heads_per_kv, int num_members) {
  streams_.clear();
  stream_begin_.clear();
  tiles_.clear();
  tasks_.clear();
  num_cut_tiles_ = 0;
  num_partials_ = 0;
  const int32_t tile_tokens = std::max(1, kTileRows / heads_per_kv);
  for (int32_t s = 0; s < batch.num_segments(); ++s) {
    stream_begin_.push_back(streams_.size());
    ForEachStream(batch, group, s, [this](const KvStream& stream) { streams_.push_back(stream); });
    stream_begin_.push_back(streams_.size());
    AddTiles(batch, layout, s, tile_tokens);
    stream_begin_.pop_back();
  }
  stream_begin_.push_back(streams_.size());

  int64_t total = 0;
  for (const AttentionTile& tile : tiles_) {
    total += tile.num_blocks * BlockCost(tile.num_tokens * heads_per_kv);
  }
  const int64_t member_share =
      num_members == 1 ? std::numeric_limits<int64_t>::max() : total / num_members;
  for (size_t i = 0; i < tiles_.size(); ++i) {
    AddTasks(static_cast<int32_t>(i), tiles_[i].num_tokens * heads_per_kv, member_share);
  }
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

// Cuts a tile that costs more than half of a member's share into eighths of a share.
void AttentionWork::AddTasks(int32_t index, int32_t rows, int64_t member_share) {
  AttentionTile& tile = tiles_[static_cast<size_t>(index)];
  const int64_t block_cost = BlockCost(rows);
  const int64_t cost = tile.num_blocks * block_cost;
  if (cost <= member_share / 2 || tile.num_blocks < 2) {
    tasks_.push_back({index, 0, tile.num_blocks, cost});
    return;
  }
  const int64_t piece_cost = std::max<int64_t>(1, member_share / 8);
  tile.num_pieces =
      static_cast<int32_t>(std::min<int64_t>(tile.num_blocks, CeilDiv(cost, piece_cost)));
  tile.cut = num_cut_tiles_++;
  tile.partial_begin = num_partials_;
  num_partials_ += static_cast<int64_t>(tile.num_blocks) * rows;
  for (int64_t i = 0; i < tile.num_pieces; ++i) {
    const int32_t begin = static_cast<int32_t>(tile.num_blocks * i / tile.num_pieces);
    const int32_t end = static_cast<int32_t>(tile.num_blocks * (i + 1) / tile.num_pieces);
    tasks_.push_back({index, begin, end, (end - begin) * block_cost});
  }
}

}  // namespace tessera::cpu

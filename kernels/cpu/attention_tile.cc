#include "kernels/cpu/attention_tile.h"

#include <cmath>
#include <cstring>

#include "kernels/cpu/work_plan.h"
#include "kernels/device/key_rotation.h"

namespace tessera::cpu {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// Returns the positions of `stream` in `block` that some row of the tile sees.
PositionRange VisibleInBlock(const AttentionCall& call, const AttentionTile& tile,
                             const KvStream& stream, int32_t block) {
  const int32_t window = call.args->layout->window;
  const PositionRange oldest = VisibleKeys(stream, window, tile.min_position);
  const PositionRange newest = VisibleKeys(stream, window, tile.max_position);
  return {std::max(oldest.begin, block * kAttentionBlock),
          std::min(newest.end, (block + 1) * kAttentionBlock)};
}

int32_t NumRows(const AttentionCall& call, const AttentionTile& tile) {
  return tile.num_tokens * call.heads_per_kv;
}

}  // namespace

void TileWorker::Prepare(const AttentionCall& call) {
  const int64_t rows = std::max(kTileRows, call.heads_per_kv);
  const int64_t query_rows = std::max<int64_t>(rows, kSharedRows);
  const int64_t dim = call.padded_dim;
  const int64_t half = RoundUp<int64_t>(call.rope.half, kPanel);
  const int64_t block_floats = kKeyBlock * dim;
  const int64_t block_pairs = block_floats / 2;  // pairs of bf16 values of a block
  float* next =
      memory_.Floats(TileFloats(call.heads_per_kv, call.args->layout->head_dim, call.rope.half));
  const auto take = [&next](int64_t count) {
    float* const taken = next;
    next += RoundUp<int64_t>(count, kPanel);
    return taken;
  };
  keys_ = reinterpret_cast<char*>(take(block_floats));
  values_ = reinterpret_cast<char*>(take(block_floats));
  value_panels_ = reinterpret_cast<char*>(take(block_pairs));
  q_ = take(query_rows * dim);
  tokens_.resize(static_cast<size_t>(query_rows));
  cells_.resize(static_cast<size_t>(query_rows));
  scores_ = take(kMaxAttendRows * kScoreStride);
  weights_ = take(kMaxAttendRows * kScoreStride);
  key_scales_ = take(kKeyBlock);
  value_scales_ = take(kKeyBlock);
  block_ = {take(kMaxAttendRows), take(kMaxAttendRows), take(kMaxAttendRows * dim)};
  stream_ = {take(rows), take(rows), take(rows * dim)};
  total_ = {take(rows), take(rows), take(rows * dim)};
  cos_ = take(half);
  sin_ = take(half);
}

void TileWorker::PrepareQueries(const AttentionCall& call, const AttentionTile& tile,
                                int32_t pos_delta, int32_t first_row) {
  const AttentionArgs& args = *call.args;
  const int32_t head_dim = args.layout->head_dim;
  const int64_t first_head = static_cast<int64_t>(tile.kv_head) * call.heads_per_kv;
  int32_t row = first_row;
  for (int32_t t = 0; t < tile.num_tokens; ++t) {
    const int64_t token = tile.token_begin + t;
    const float* cos = cos_;
    const float* sin = sin_;
    if (pos_delta == 0) {
      cos = call.rope.cos + token * call.rope.half;
      sin = call.rope.sin + token * call.rope.half;
    } else if (call.rope.half > 0) {
      ComputeRotation(*args.rope, args.batch.positions()[token] - pos_delta,
                      args.rope->attention_factor, cos_, sin_);
    }
    const float* const heads = args.qkv.f32(token) + first_head * head_dim;
    for (int32_t h = 0; h < call.heads_per_kv; ++h, ++row) {
      float* const q = q_ + static_cast<int64_t>(row) * call.padded_dim;
      tokens_[static_cast<size_t>(row)] = static_cast<int32_t>(token);
      kernels_.rotate_head(heads + h * head_dim, args.q_norm.weight, args.q_norm.eps, cos, sin,
                           static_cast<int32_t>(2 * call.rope.half), head_dim, q);
      if (call.key_rotation != 0) kernels_.rotate_blocks(call.key_rotation, head_dim, q);
      kernels_.prepare_row(q, nullptr, 0.0f, head_dim, call.padded_dim,
                           args.layout->dtype == DType::kBF16, q);
    }
  }
}

void TileWorker::FindRows(const AttentionCall& call, const AttentionTile& tile,
                          const KvStream& stream, int32_t block, BlockRows* rows) const {
  const AttentionArgs& args = *call.args;
  const GroupLayout& layout = *args.layout;
  const PositionRange visible = VisibleInBlock(call, tile, stream, block);
  const int32_t base = block * kAttentionBlock;
  std::fill_n(rows->keys, kKeyBlock, nullptr);
  std::fill_n(rows->values, kKeyBlock, nullptr);
  rows->num_scale_pieces = 0;
  ForEachPiece(args.batch, stream, layout.page_tokens, visible.begin, visible.end,
               [&](const KeyPiece& piece) {
                 const char* const head = args.pool.Page(piece.page) +
                                          layout.HeadOffset(args.layer_in_group, tile.kv_head);
                 const int32_t first = piece.pos - base;
                 const char* key = head + piece.token * layout.row_bytes();
                 for (int32_t i = first; i < first + piece.count; ++i, key += layout.row_bytes()) {
                   rows->keys[i] = key;
                   rows->values[i] = key + layout.value_offset();
                 }
                 if (!layout.quantized()) return;
                 const char* const scales =
                     head + layout.scales_offset() + piece.token * GroupLayout::kScaleBytes;
                 __builtin_prefetch(scales);
                 __builtin_prefetch(scales + layout.value_offset());
                 rows->scale_pieces[rows->num_scale_pieces++] = {scales, first, piece.count};
               });
}

void TileWorker::LoadBlock(const AttentionCall& call, const AttentionTile& tile,
                           const KvStream& stream, int32_t block, int32_t end) {
  const GroupLayout& layout = *call.args->layout;
  if (has_next_) {
    std::swap(loaded_, next_);
  } else {
    FindRows(call, tile, stream, block, loaded_);
  }
  has_next_ = block + 1 < end;
  if (has_next_) FindRows(call, tile, stream, block + 1, next_);
  const PositionRange visible = VisibleInBlock(call, tile, stream, block);
  const int32_t base = block * kAttentionBlock;
  const int32_t panel_begin = (visible.begin - base) / kPanel;
  const int32_t panel_end = CeilDiv(visible.end - base, kPanel);
  kernels_.pack_keys(loaded_->keys, loaded_->values, ElementOf(layout.dtype), layout.head_dim,
                     panel_begin, panel_end, keys_);
  if (layout.quantized()) LoadScales(layout, panel_begin * kPanel, panel_end * kPanel);
  if (layout.head_dim != call.padded_dim) PadValues(call, visible.begin - base, visible.end - base);
  loaded_->pack_begin = panel_begin;
  loaded_->pack_end = panel_end;
}

// Attend reads whole vectors, which would extend past the end of a V row in its page.
void TileWorker::PadValues(const AttentionCall& call, int32_t begin, int32_t end) {
  const GroupLayout& layout = *call.args->layout;
  const int64_t element_bytes = DTypeBytes(layout.dtype);
  const int64_t row_bytes = call.padded_dim * element_bytes;
  for (int32_t i = begin; i < end; ++i) {
    char* const copy = values_ + i * row_bytes;
    std::memset(copy, 0, static_cast<size_t>(row_bytes));
    std::memcpy(copy, loaded_->values[i], static_cast<size_t>(layout.head_dim * element_bytes));
    loaded_->values[i] = copy;
  }
}

void TileWorker::LoadScales(const GroupLayout& layout, int32_t begin, int32_t end) {
  std::fill(key_scales_ + begin, key_scales_ + end, 0.0f);
  std::fill(value_scales_ + begin, value_scales_ + end, 0.0f);
  for (int32_t i = 0; i < loaded_->num_scale_pieces; ++i) {
    const ScalePiece& piece = loaded_->scale_pieces[i];
    const size_t bytes = static_cast<size_t>(piece.count) * sizeof(float);
    std::memcpy(key_scales_ + piece.first, piece.scales, bytes);
    std::memcpy(value_scales_ + piece.first, piece.scales + layout.value_offset(), bytes);
  }
}

void TileWorker::AttendRows(const AttentionCall& call, const KvStream& stream, int32_t block,
                            int32_t row, int32_t count, const Rows& partial) {
  const AttentionArgs& args = *call.args;
  const int32_t base = block * kAttentionBlock;
  int32_t visible_begin[kMaxAttendRows];
  int32_t visible_end[kMaxAttendRows];
  bool sees = false;
  for (int32_t r = 0; r < count; ++r) {
    const int32_t token = tokens_.data()[row + r];
    const PositionRange visible =
        VisibleKeys(stream, args.layout->window, args.batch.positions()[token]);
    visible_begin[r] = std::max(visible.begin - base, 0);
    visible_end[r] = std::min(visible.end - base, kAttentionBlock);
    sees = sees || visible_begin[r] < visible_end[r];
  }
  AttendProblem problem;
  problem.q = q_ + static_cast<int64_t>(row) * call.padded_dim;
  problem.q_stride = call.padded_dim;
  problem.rows = count;
  problem.head_dim = args.layout->head_dim;
  problem.keys = keys_;
  problem.values = loaded_->values;
  problem.value_panels = value_panels_;
  if (sees) {
    problem.pack_begin = loaded_->pack_begin;
    problem.pack_end = loaded_->pack_end;
    loaded_->pack_end = loaded_->pack_begin;
  }
  if (has_next_ && row == 0) problem.next_keys = next_->keys;
  problem.element = ElementOf(args.layout->dtype);
  problem.visible_begin = visible_begin;
  problem.visible_end = visible_end;
  problem.scale = args.scale * KeyRotationScale(*args.layout);
  problem.softcap = args.softcap;
  problem.temperature = stream.temperature;
  problem.scores = scores_;
  problem.weights = args.layout->dtype == DType::kF32 ? scores_ : weights_;
  if (args.layout->quantized()) {
    problem.key_scales = key_scales_;
    problem.value_scales = value_scales_;
  }
  problem.max = partial.max;
  problem.sum = partial.sum;
  problem.out = partial.out;
  problem.out_stride = call.padded_dim;
  kernels_.attend(problem);
}

void TileWorker::MergeRow(const AttentionCall& call, const Rows& from, int64_t from_row,
                          const Rows& to, int64_t to_row) const {
  if (from.sum[from_row] == 0.0f) return;
  kernels_.merge(from.max[from_row], from.sum[from_row], from.out + from_row * call.padded_dim,
                 call.padded_dim, to.max + to_row, to.sum + to_row,
                 to.out + to_row * call.padded_dim);
}

void TileWorker::BeginTile(const AttentionCall& call, const AttentionTile& tile) {
  const int32_t rows = NumRows(call, tile);
  std::fill(total_.sum, total_.sum + rows, 0.0f);
  std::fill(stream_.sum, stream_.sum + rows, 0.0f);
}

// Normalises the stream's result, applies the stream's scale to its log-sum-exp, and merges it into
// total_.
void TileWorker::FinishStream(const AttentionCall& call, const KvStream& stream, int32_t num_rows) {
  for (int32_t r = 0; r < num_rows; ++r) {
    if (stream_.sum[r] == 0.0f) continue;
    float* const out = stream_.out + static_cast<int64_t>(r) * call.padded_dim;
    kernels_.divide(out, stream_.sum[r], call.padded_dim, out);
    stream_.max[r] = stream.scale * (stream_.max[r] + std::log(stream_.sum[r]));
    stream_.sum[r] = 1.0f;
    MergeRow(call, stream_, r, total_, r);
    stream_.sum[r] = 0.0f;
  }
}

void TileWorker::FinishTile(const AttentionCall& call, const AttentionTile& tile) {
  const AttentionArgs& args = *call.args;
  const int32_t head_dim = args.layout->head_dim;
  for (int32_t r = 0; r < NumRows(call, tile); ++r) {
    const int64_t token = tile.token_begin + r / call.heads_per_kv;
    const int64_t head = tile.kv_head * call.heads_per_kv + r % call.heads_per_kv;
    float* const out = args.out.f32(token) + head * head_dim;
    const bool empty = total_.sum[r] == 0.0f;
    if (empty) {
      std::fill(out, out + head_dim, 0.0f);
    } else {
      kernels_.divide(total_.out + static_cast<int64_t>(r) * call.padded_dim, total_.sum[r],
                      head_dim, out);
    }
    if (call.lse == nullptr) continue;
    call.lse[token * args.heads + head] =
        empty ? kNegativeInfinity : total_.max[r] + std::log(total_.sum[r]);
  }
}

void TileWorker::AttendStream(const AttentionCall& call, const AttentionTile& tile,
                              const KvStream& stream, int32_t num_rows) {
  const PositionRange blocks =
      AttentionWork::VisibleBlocks(stream, tile, call.args->layout->window);
  if (blocks.begin < blocks.end) PrepareQueries(call, tile, stream.pos_delta, 0);
  for (int32_t block = blocks.begin; block < blocks.end; ++block) {
    LoadBlock(call, tile, stream, block, blocks.end);
    for (int32_t row = 0; row < num_rows; row += kMaxAttendRows) {
      const int32_t count = std::min(kMaxAttendRows, num_rows - row);
      AttendRows(call, stream, block, row, count, block_);
      for (int32_t r = 0; r < count; ++r) MergeRow(call, block_, r, stream_, row + r);
    }
  }
}

void TileWorker::AttendTile(const AttentionCall& call, const AttentionTile& tile) {
  const int32_t num_rows = NumRows(call, tile);
  const KvStream* const end = call.work->streams_end(tile.segment);
  for (const KvStream* stream = call.work->streams_begin(tile.segment); stream != end; ++stream) {
    AttendStream(call, tile, *stream, num_rows);
    FinishStream(call, *stream, num_rows);
  }
}

void TileWorker::MergePieces(const AttentionCall& call, const AttentionTile& tile) {
  const int32_t num_rows = NumRows(call, tile);
  const Rows cells = {call.partial_max, call.partial_sum, call.partial_out};
  int64_t cell = tile.partial_begin;
  const KvStream* const end = call.work->streams_end(tile.segment);
  for (const KvStream* stream = call.work->streams_begin(tile.segment); stream != end; ++stream) {
    const PositionRange blocks =
        AttentionWork::VisibleBlocks(*stream, tile, call.args->layout->window);
    for (int32_t block = blocks.begin; block < blocks.end; ++block) {
      for (int32_t r = 0; r < num_rows; ++r) MergeRow(call, cells, cell++, stream_, r);
    }
    FinishStream(call, *stream, num_rows);
  }
}

void TileWorker::EndPiece(const AttentionCall& call, const AttentionTile& tile) {
  if (call.pieces_left[tile.cut].fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  BeginTile(call, tile);
  MergePieces(call, tile);
  FinishTile(call, tile);
}

void TileWorker::RunShared(const AttentionCall& call, const AttentionTask& task) {
  const absl::Span<const int32_t> members = call.work->shared_tiles(task.shared);
  const std::vector<AttentionTile>& tiles = call.work->tiles();
  const AttentionTile& first = tiles[static_cast<size_t>(task.tile)];
  const KvStream& stream = *call.work->streams_begin(first.segment);
  int32_t num_rows = 0;
  for (const int32_t member : members) {
    const AttentionTile& tile = tiles[static_cast<size_t>(member)];
    PrepareQueries(call, tile, stream.pos_delta, num_rows);
    for (int32_t r = 0; r < NumRows(call, tile); ++r) {
      cells_[static_cast<size_t>(num_rows++)] = {tile.partial_begin + r, NumRows(call, tile)};
    }
  }
  for (int32_t block = task.block_begin; block < task.block_end; ++block) {
    LoadBlock(call, first, stream, block, task.block_end);
    for (int32_t row = 0; row < num_rows; row += kMaxAttendRows) {
      const int32_t count = std::min(kMaxAttendRows, num_rows - row);
      AttendRows(call, stream, block, row, count, block_);
      for (int32_t r = 0; r < count; ++r) {
        const Cells& of_row = cells_.data()[row + r];
        const int64_t cell = of_row.first + block * of_row.stride;
        call.partial_max[cell] = block_.max[r];
        call.partial_sum[cell] = block_.sum[r];
        std::copy_n(block_.out + static_cast<int64_t>(r) * call.padded_dim, call.padded_dim,
                    call.partial_out + cell * call.padded_dim);
      }
    }
  }
  for (const int32_t member : members) EndPiece(call, tiles[static_cast<size_t>(member)]);
}

void TileWorker::RunTask(const AttentionCall& call, const AttentionTask& task) {
  if (task.shared >= 0) {
    RunShared(call, task);
    return;
  }
  const AttentionTile& tile = call.work->tiles()[static_cast<size_t>(task.tile)];
  if (tile.cut < 0) {
    BeginTile(call, tile);
    AttendTile(call, tile);
    FinishTile(call, tile);
    return;
  }
  const int32_t num_rows = NumRows(call, tile);
  int32_t stream_first = 0;  // index of the stream's first block among the tile's blocks
  const KvStream* const end = call.work->streams_end(tile.segment);
  for (const KvStream* stream = call.work->streams_begin(tile.segment); stream != end; ++stream) {
    const PositionRange blocks =
        AttentionWork::VisibleBlocks(*stream, tile, call.args->layout->window);
    const int32_t first = std::max(task.block_begin, stream_first);
    const int32_t last = std::min(task.block_end, stream_first + blocks.end - blocks.begin);
    if (first < last) PrepareQueries(call, tile, stream->pos_delta, 0);
    for (int32_t i = first; i < last; ++i) {
      const int32_t block = blocks.begin + i - stream_first;
      LoadBlock(call, tile, *stream, block, blocks.begin + last - stream_first);
      for (int32_t row = 0; row < num_rows; row += kMaxAttendRows) {
        const int64_t cell = tile.partial_begin + static_cast<int64_t>(i) * num_rows + row;
        AttendRows(call, *stream, block, row, std::min(kMaxAttendRows, num_rows - row),
                   {call.partial_max + cell, call.partial_sum + cell,
                    call.partial_out + cell * call.padded_dim});
      }
    }
    stream_first += blocks.end - blocks.begin;
  }
  EndPiece(call, tile);
}

void TileWorker::AddMass(const AttentionCall& call, const AttentionTile& tile, const Tap& tap,
                         double* mass) {
  BeginTile(call, tile);
  const int32_t num_rows = NumRows(call, tile);
  const KvStream* const begin = call.work->streams_begin(tile.segment);
  const KvStream* const end = call.work->streams_end(tile.segment);
  // The first pass over the streams (attention_plan.h) computes the log-sum-exp of each stream, as
  // AttendTile does. The second pass adds the softmax weight of each key to `mass`.
  float* const lse = stream_memory_.Floats((end - begin) * num_rows);
  for (const KvStream* stream = begin; stream != end; ++stream) {
    AttendStream(call, tile, *stream, num_rows);
    for (int32_t r = 0; r < num_rows; ++r) {
      const bool empty = stream_.sum[r] == 0.0f;
      lse[(stream - begin) * num_rows + r] =
          empty ? kNegativeInfinity : stream_.max[r] + std::log(stream_.sum[r]);
    }
    FinishStream(call, *stream, num_rows);
  }
  for (const KvStream* stream = begin; stream != end; ++stream) {
    const PositionRange blocks =
        AttentionWork::VisibleBlocks(*stream, tile, call.args->layout->window);
    if (blocks.begin < blocks.end) PrepareQueries(call, tile, stream->pos_delta, 0);
    for (int32_t block = blocks.begin; block < blocks.end; ++block) {
      LoadBlock(call, tile, *stream, block, blocks.end);
      AddBlockMass(call, tile, *stream, block, lse + (stream - begin) * num_rows, tap, mass);
    }
  }
}

void TileWorker::AddBlockMass(const AttentionCall& call, const AttentionTile& tile,
                              const KvStream& stream, int32_t block, const float* stream_lse,
                              const Tap& tap, double* mass) {
  const int32_t num_rows = NumRows(call, tile);
  const int32_t tap_begin = call.args->batch.segments()[tap.segment].token_begin + tap.row_begin;
  const PositionRange visible = VisibleInBlock(call, tile, stream, block);
  const int32_t first_key = stream.key_begin - stream.pos_begin;  // key index of position 0
  for (int32_t row = 0; row < num_rows; row += kMaxAttendRows) {
    const int32_t count = std::min(kMaxAttendRows, num_rows - row);
    AttendRows(call, stream, block, row, count, block_);
    for (int32_t r = 0; r < count; ++r) {
      const int32_t token = tile.token_begin + (row + r) / call.heads_per_kv;
      const bool tapped = token >= tap_begin && token < tap_begin + tap.num_rows;
      if (!tapped || block_.sum[r] == 0.0f) continue;
      const float lse = stream_lse[row + r];
      const float total = total_.max[row + r] + std::log(total_.sum[row + r]);
      const double weight =
          static_cast<double>(std::exp(block_.max[r] - lse)) * std::exp(stream.scale * lse - total);
      const PositionRange seen =
          VisibleKeys(stream, call.args->layout->window, call.args->batch.positions()[token]);
      const int32_t end = std::min(visible.end, seen.end);
      for (int32_t pos = std::max(visible.begin, seen.begin); pos < end; ++pos) {
        const float score = scores_[r * kScoreStride + pos - block * kAttentionBlock];
        mass[(first_key + pos) / tap.block] += weight * score;
      }
    }
  }
}

}  // namespace tessera::cpu

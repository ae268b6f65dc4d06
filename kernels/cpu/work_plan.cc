#include "kernels/cpu/work_plan.h"

#include <algorithm>

#include "kernels/cpu/attention_work.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/device/footprint.h"
#include "kernels/step/adapter_layout.h"
#include "kernels/step/attention_plan.h"

namespace tessera::cpu {
namespace {

// The largest number of bytes for partials of attention blocks that several segments share. Blocks
// whose partials exceed this number are read once for each segment, which gives the same bits.
constexpr int64_t kMaxSharedPartialBytes = int64_t{128} << 20;

// Tiles whose partials exceed this number are not cut, which balances the threads less well and
// gives the same bits.
constexpr int64_t kMaxCutPartialBytes = int64_t{256} << 20;

int64_t FloatBytes(int64_t count) {
  return count == 0 ? 0 : BufferBytes(count * static_cast<int64_t>(sizeof(float)));
}

int64_t PartialBytes(const StepShape::Attention& group, const StepBounds& bounds, int num_threads) {
  const int64_t floats = PartialFloats(group.head_dim);
  const int64_t all = bounds.num_tokens * group.heads * bounds.num_blocks;
  const int64_t cut =
      MaxCutPartials(group.heads / group.kv_heads, group.head_dim, bounds.num_blocks, num_threads);
  int64_t shared = 0;
  if (group.window == 0 && bounds.num_segments > 1) {
    shared = std::min(bounds.num_tokens, bounds.num_segments * kMaxSharingTokens) * group.heads *
             bounds.num_blocks;
    shared = std::min(shared, kMaxSharedPartialBytes / (floats * int64_t{sizeof(float)}));
  }
  return FloatBytes(RoundUp<int64_t>(std::min(all, cut + shared), kPanel) * floats);
}

// Returns the largest rank that one adapter has on a linear of one layer. The rank on a fused
// linear is the sum of the ranks on its parts.
int64_t LargestRank(const LoraMatrices* layer) {
  const auto rank = [layer](LoraTarget target) {
    return int64_t{layer[static_cast<int>(target)].rank};
  };
  return std::max({rank(LoraTarget::kQuery) + rank(LoraTarget::kKey) + rank(LoraTarget::kValue),
                   rank(LoraTarget::kOut), rank(LoraTarget::kGate) + rank(LoraTarget::kUp),
                   rank(LoraTarget::kDown)});
}

}  // namespace

int64_t PartialFloats(int32_t head_dim) { return 2 + RoundUp<int64_t>(head_dim, kPanel); }

int64_t MaxCutPartials(int32_t heads_per_kv, int32_t head_dim, int64_t num_blocks,
                       int num_threads) {
  if (num_threads == 1) return 0;
  // A tile is cut if its cost is more than half of a thread's share of the cost of all tiles
  // (AttentionWork::AddTasks).
  return std::min(int64_t{2} * num_threads * std::max(kTileRows, heads_per_kv) * num_blocks,
                  kMaxCutPartialBytes / (PartialFloats(head_dim) * int64_t{sizeof(float)}));
}

int64_t TileFloats(int32_t heads_per_kv, int32_t head_dim, int64_t rope_half) {
  const int64_t rows = std::max(kTileRows, heads_per_kv);
  const int64_t query_rows = std::max<int64_t>(rows, kSharedRows);
  const int64_t dim = RoundUp<int64_t>(head_dim, kPanel);
  const int64_t block_floats = kKeyBlock * dim;
  const int64_t block_pairs = block_floats / 2;  // pairs of bf16 numbers
  return (query_rows + 2 * rows) * dim + 4 * RoundUp<int64_t>(rows, kPanel) +
         kMaxAttendRows * (dim + 2 * kScoreStride) + 2 * kPanel +
         2 * RoundUp<int64_t>(rope_half, kPanel) + 2 * block_floats + block_pairs + 2 * kKeyBlock;
}

WorkPlan PlanWork(const StepShape& shape, const StepBounds& bounds, int num_threads) {
  WorkPlan plan;
  const int64_t rows = bounds.num_tokens;
  if (rows == 0) return plan;
  plan.Set(WorkPart::kRows, PreparedBytes(rows, shape.widest_input));
  plan.Set(WorkPart::kRowValues,
           FloatBytes(num_threads * RoundUp<int64_t>(shape.widest_input, kPanel)));
  plan.Set(WorkPart::kOutputs, FloatBytes(rows * shape.post_norm_cols));
  int32_t rope_dim = 0;
  for (const int32_t dim : shape.rope_dims) rope_dim = std::max(rope_dim, dim);
  plan.Set(WorkPart::kRotations, FloatBytes(rows * rope_dim),
           static_cast<int32_t>(shape.rope_dims.size()));
  if (bounds.adapter_rank > 0) {
    plan.Set(WorkPart::kAdapterRows, FloatBytes(rows * RoundUp<int64_t>(shape.hidden, kPanel)));
    plan.Set(WorkPart::kAdapterSums, FloatBytes(rows * bounds.adapter_rank));
  }
  int64_t partials = 0;
  int64_t tile_floats = 0;
  int64_t heads = 0;
  int64_t tap_sums = 0;
  for (const StepShape::Attention& group : shape.groups) {
    const int32_t heads_per_kv = group.heads / group.kv_heads;
    partials = std::max(partials, PartialBytes(group, bounds, num_threads));
    tile_floats = std::max(tile_floats, TileFloats(heads_per_kv, group.head_dim, rope_dim / 2));
    heads = std::max<int64_t>(heads, group.heads);
    tap_sums = std::max(tap_sums, bounds.tapped_streams * std::max(kTileRows, heads_per_kv));
  }
  plan.Set(WorkPart::kPartials, partials);
  plan.Set(WorkPart::kTiles, FloatBytes(tile_floats), num_threads);
  plan.Set(WorkPart::kLogSumExps, bounds.taps_log_sum_exp ? FloatBytes(rows * heads) : 0);
  plan.Set(WorkPart::kTapSums, FloatBytes(tap_sums), num_threads);
  return plan;
}

StepBounds BoundsOf(const BatchView& view) {
  const StepBatch& batch = *view.batch;
  StepBounds bounds;
  bounds.num_tokens = view.num_tokens();
  bounds.num_segments = view.num_segments();
  int64_t most_streams = 0;
  for (int32_t group = 0; group < batch.num_groups; ++group) {
    for (int32_t s = 0; s < view.num_segments(); ++s) {
      int64_t num_blocks = 0;
      int64_t num_streams = 0;
      ForEachStream(view, group, s, [&](const KvStream& stream) {
        num_blocks += CeilDiv(stream.pos_end, kAttentionBlock) - stream.pos_begin / kAttentionBlock;
        ++num_streams;
      });
      bounds.num_blocks = std::max(bounds.num_blocks, num_blocks);
      most_streams = std::max(most_streams, num_streams);
    }
  }
  const Tap* const taps = view.data(batch.taps);
  for (uint32_t i = 0; i < batch.taps.count; ++i) {
    if (taps[i].kind == TapKind::kLogSumExp) bounds.taps_log_sum_exp = true;
    if (taps[i].kind == TapKind::kAttentionMass) bounds.tapped_streams = most_streams;
  }
  const LoraMatrices* const matrices = view.data(batch.lora_matrices);
  for (uint32_t i = 0; i + kNumLoraTargets <= batch.lora_matrices.count; i += kNumLoraTargets) {
    bounds.adapter_rank = std::max(bounds.adapter_rank, LargestRank(matrices + i));
  }
  return bounds;
}

}  // namespace tessera::cpu

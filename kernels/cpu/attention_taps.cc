// The taps (optional outputs of a step) that are computed from attention.
#include <algorithm>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/page_row.h"

namespace tessera::cpu {
namespace {

// Returns the squared distance between a row's new V, as a page would store it, and the V that its
// place in the page holds now.
double ValueDeviation(const AttentionArgs& args, int64_t row) {
  alignas(float) char head_of_new[kMaxHeadDim * sizeof(float)];
  float stored[kMaxHeadDim];
  float old[kMaxHeadDim];
  const GroupLayout& layout = *args.layout;
  GroupLayout one_token = layout;  // the new V, as a page of one token would hold it
  one_token.page_tokens = 1;
  const int64_t place = args.batch.write_places(args.group)[row];
  if (place < layout.page_tokens) return 0.0;
  const PageId page = static_cast<PageId>(place / layout.page_tokens);
  const int32_t token = static_cast<int32_t>(place % layout.page_tokens);
  const float* const values =
      args.qkv.f32(row) + static_cast<int64_t>(args.heads + layout.kv_heads) * layout.head_dim;
  double sum = 0.0;
  for (int32_t h = 0; h < layout.kv_heads; ++h) {
    const char* const head =
        args.pool.Page(page) + layout.HeadOffset(args.layer_in_group, h) + layout.value_offset();
    StoreRow(one_token, values + static_cast<int64_t>(h) * layout.head_dim, head_of_new, 0);
    LoadRow(one_token, head_of_new, 0, stored);
    LoadRow(layout, head, token, old);
    for (int32_t d = 0; d < layout.head_dim; ++d) {
      const double difference = static_cast<double>(stored[d]) - old[d];
      sum += difference * difference;
    }
  }
  return sum;
}

}  // namespace

void AttentionOp::TapValueDeviation(const AttentionArgs& args) {
  ForEachTap(args.batch, TapKind::kValueDeviation, args.layer, args.heads, 0, args.taps,
             [&](const Tap& tap, float* out) {
               const int64_t first = args.batch.segments()[tap.segment].token_begin + tap.row_begin;
               for (int64_t i = 0; i < tap.num_rows; ++i) {
                 out[i] = static_cast<float>(ValueDeviation(args, first + i));
               }
             });
}

void AttentionOp::TapLogSumExp(const AttentionArgs& args, const float* lse) {
  ForEachTap(args.batch, TapKind::kLogSumExp, args.layer, args.heads, 0, args.taps,
             [&](const Tap& tap, float* out) {
               const int64_t first = args.batch.segments()[tap.segment].token_begin + tap.row_begin;
               std::copy_n(lse + first * args.heads,
                           static_cast<int64_t>(tap.num_rows) * args.heads, out);
             });
}

// Each tile sums the mass of its own rows. The sums of the tiles are added in a fixed order, so the
// result does not depend on the threads.
void AttentionOp::TapAttentionMass(const AttentionCall& call) {
  const AttentionArgs& args = *call.args;
  const std::vector<AttentionTile>& tiles = call.work->tiles();
  ForEachTap(args.batch, TapKind::kAttentionMass, args.layer, args.heads, 0, args.taps,
             [&](const Tap& tap, float* out) {
               const int64_t num_blocks = TapFloatsPerLayer(args.batch, tap, args.heads, 0);
               const auto of_segment = [&tap](const AttentionTile& tile) {
                 return tile.segment == tap.segment;
               };
               const auto first = std::find_if(tiles.begin(), tiles.end(), of_segment);
               const auto last = std::find_if_not(first, tiles.end(), of_segment);
               mass_.assign(static_cast<size_t>((last - first) * num_blocks), 0.0);
               team_->ParallelFor(last - first, 1, [&](int64_t begin, int64_t end, int member) {
                 for (int64_t i = begin; i < end; ++i) {
                   workers_[static_cast<size_t>(member)]->AddMass(call, first[i], tap,
                                                                  mass_.data() + i * num_blocks);
                 }
               });
               for (int64_t b = 0; b < num_blocks; ++b) {
                 double sum = 0.0;
                 for (int64_t i = 0; i < last - first; ++i) {
                   sum += mass_[static_cast<size_t>(i * num_blocks + b)];
                 }
                 out[b] = static_cast<float>(sum);
               }
             });
}

}  // namespace tessera::cpu

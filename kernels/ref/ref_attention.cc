// The reference backend's attention: computes the definition in kernels/step/attention_plan.h for
// one (row, head) at a time. That file also defines a stream: KV runs of a segment that follow one
// another in position.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/log.h"
#include "kernels/device/backend.h"
#include "kernels/ref/ref_math.h"
#include "kernels/step/attention_plan.h"

namespace tessera::ref {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// A partial softmax with its output vector.
struct Partial {
  SoftmaxPartial softmax;
  std::vector<float> out;  // [head_dim], not yet divided by the sum
};

void Merge(const Partial& b, Partial* a) {
  if (b.softmax.empty()) return;
  if (a->softmax.empty()) {
    *a = b;
    return;
  }
  const float max = std::max(a->softmax.max, b.softmax.max);
  const float weight_a = std::exp(a->softmax.max - max);
  const float weight_b = std::exp(b.softmax.max - max);
  a->softmax = {max, a->softmax.sum * weight_a + b.softmax.sum * weight_b};
  for (size_t d = 0; d < a->out.size(); ++d) {
    a->out[d] = a->out[d] * weight_a + b.out[d] * weight_b;
  }
}

// Returns the result of a finished stream as a partial of the row: normalised, with the stream's
// scale applied to the log-sum-exp.
Partial Finish(const Partial& stream, float scale) {
  if (stream.softmax.empty()) return stream;
  Partial done{{scale * stream.softmax.lse(), 1.0f}, stream.out};
  for (float& value : done.out) value /= stream.softmax.sum;
  return done;
}

// The scores and log-sum-exps of one query row and head, from which taps (optional outputs of a
// step, TapKind) are computed.
struct RowView {
  std::vector<float> scores;      // [keys of the segment], -infinity where the row sees no key
  std::vector<KvStream> streams;  // the streams of the segment
  std::vector<float> stream_lse;  // [streams] log-sum-exp, not multiplied by KvStream::scale
  float lse = kNegativeInfinity;
};

// The attention of the rows of one segment.
class SegmentAttention {
 public:
  SegmentAttention(const AttentionArgs& args, int segment) : args_(args), layout_(*args.layout) {
    ForEachStream(args.batch, args.group, segment,
                  [this](const KvStream& stream) { view_.streams.push_back(stream); });
    view_.scores.resize(NumKeys(args.batch, args.group, segment));
    view_.stream_lse.resize(view_.streams.size());
    const Range range = args.batch.run_range(args.group, segment);
    for (int32_t r = range.begin; r < range.begin + range.count; ++r) {
      const KvRun& run = args.batch.runs()[r];
      CHECK_LE(run.first + run.count, run.num_pages * layout_.page_tokens);
    }
  }

  // out := the attention of row `row` in head `head`.
  const RowView& Attend(int32_t row, int32_t head, float* out) {
    std::fill(view_.scores.begin(), view_.scores.end(), kNegativeInfinity);
    Partial total{{}, std::vector<float>(layout_.head_dim, 0.0f)};
    for (size_t s = 0; s < view_.streams.size(); ++s) {
      const KvStream& stream = view_.streams[s];
      const Partial partial = AttendStream(stream, row, head);
      view_.stream_lse[s] = partial.softmax.lse();
      Merge(Finish(partial, stream.scale), &total);
    }
    view_.lse = total.softmax.lse();
    for (int32_t d = 0; d < layout_.head_dim; ++d) {
      out[d] = total.softmax.empty() ? 0.0f : total.out[d] / total.softmax.sum;
    }
    return view_;
  }

 private:
  Partial AttendStream(const KvStream& stream, int32_t row, int32_t head) {
    const int32_t position = args_.batch.positions()[row];
    const float* normed = args_.qkv.f32(row) + static_cast<int64_t>(head) * layout_.head_dim;
    std::vector<float> query(normed, normed + layout_.head_dim);
    Rotate(RotationAt(*args_.rope, position - stream.pos_delta, args_.rope->attention_factor),
           query.data());
    RotateForPage(layout_, query.data());
    for (float& x : query) x = RoundedForPairs(x);
    const PositionRange visible = VisibleKeys(stream, layout_.window, position);
    Partial merged{{}, std::vector<float>(layout_.head_dim, 0.0f)};
    for (int32_t begin = visible.begin; begin < visible.end;) {
      const int32_t end = std::min(visible.end, RoundUp(begin + 1, kAttentionBlock));
      Merge(AttendBlock(stream, query, head, begin, end), &merged);
      begin = end;
    }
    return merged;
  }

  // Computes the partial of the keys at positions [begin, end). REQUIRES: the positions lie in one
  // attention block.
  Partial AttendBlock(const KvStream& stream, const std::vector<float>& query, int32_t head,
                      int32_t begin, int32_t end) {
    float* scores = view_.scores.data() + stream.key_begin;  // indexed by position in the stream
    Partial block{{}, std::vector<float>(layout_.head_dim, 0.0f)};
    ForEachKey(stream, head, begin, end, [&](int32_t pos, const char* keys, int32_t token) {
      float dot = 0.0f;
      for (int32_t d = 0; d < layout_.head_dim; ++d) {
        dot += query[d] * PageElement(layout_, keys, token, d);
      }
      dot *= PageScale(layout_, keys, token) * KeyRotationScale(layout_);
      const float score = Softcap(args_.softcap, dot * args_.scale) / stream.temperature;
      scores[pos - stream.pos_begin] = score;
      block.softmax.max = std::max(block.softmax.max, score);
    });
    ForEachKey(stream, head, begin, end, [&](int32_t pos, const char* keys, int32_t token) {
      const char* values = keys + layout_.value_offset();
      const float weight = std::exp(scores[pos - stream.pos_begin] - block.softmax.max);
      block.softmax.sum += weight;
      const float scaled = RoundedForPairs(weight) * PageScale(layout_, values, token);
      for (int32_t d = 0; d < layout_.head_dim; ++d) {
        block.out[d] += scaled * PageElement(layout_, values, token, d);
      }
    });
    return block;
  }

  // Numbers that are multiplied with bf16 keys or values are rounded to bf16 first.
  float RoundedForPairs(float x) const {
    return layout_.dtype == DType::kBF16 ? RoundTo(DType::kBF16, x) : x;
  }

  // Calls visit(position, the head's K in a page, token in the page) for the keys at positions
  // [begin, end), in ascending order.
  template <class Visit>
  void ForEachKey(const KvStream& stream, int32_t head, int32_t begin, int32_t end,
                  const Visit& visit) const {
    const int32_t kv_head = head / (args_.heads / layout_.kv_heads);
    ForEachPiece(args_.batch, stream, layout_.page_tokens, begin, end, [&](const KeyPiece& piece) {
      const char* keys =
          args_.pool.Page(piece.page) + layout_.HeadOffset(args_.layer_in_group, kv_head);
      for (int32_t i = 0; i < piece.count; ++i) visit(piece.pos + i, keys, piece.token + i);
    });
  }

  const AttentionArgs& args_;
  const GroupLayout& layout_;
  RowView view_;
};

// Applies the norms to queries and keys in place, and rotates the keys for their positions.
void NormAndRotate(const AttentionArgs& args) {
  const int32_t head_dim = args.layout->head_dim;
  for (int32_t row = 0; row < args.batch.num_tokens(); ++row) {
    const Rotation rotation =
        RotationAt(*args.rope, args.batch.positions()[row], args.rope->attention_factor);
    float* head = args.qkv.f32(row);
    for (int32_t h = 0; h < args.heads; ++h, head += head_dim) {
      RmsNorm(args.q_norm, head, head_dim, head);
    }
    for (int32_t h = 0; h < args.layout->kv_heads; ++h, head += head_dim) {
      RmsNorm(args.k_norm, head, head_dim, head);
      Rotate(rotation, head);
    }
  }
}

// Calls visit(keys, token, key, value) for each KV head of a batch row that is written to a page:
// `keys` is the head's K in the page, `token` the row's token in the page, `key` and `value` are
// the K and V of the batch.
template <class Visit>
void ForEachWrittenHead(const AttentionArgs& args, int32_t row, const Visit& visit) {
  const GroupLayout& layout = *args.layout;
  const int64_t place = args.batch.write_places(args.group)[row];
  if (place < layout.page_tokens) return;  // the null page
  const PageId page = static_cast<PageId>(place / layout.page_tokens);
  CHECK_LT(page, args.pool.num_slabs);
  const int32_t token = static_cast<int32_t>(place % layout.page_tokens);
  const float* keys = args.qkv.f32(row) + static_cast<int64_t>(args.heads) * layout.head_dim;
  for (int32_t h = 0; h < layout.kv_heads; ++h) {
    const float* key = keys + static_cast<int64_t>(h) * layout.head_dim;
    const float* value = key + static_cast<int64_t>(layout.kv_heads) * layout.head_dim;
    visit(args.pool.Page(page) + layout.HeadOffset(args.layer_in_group, h), token, key, value);
  }
}

void AppendToPages(const AttentionArgs& args) {
  const GroupLayout& layout = *args.layout;
  for (int32_t row = 0; row < args.batch.num_tokens(); ++row) {
    ForEachWrittenHead(args, row,
                       [&](char* keys, int32_t token, const float* key, const float* value) {
                         StorePageKey(layout, key, keys, token);
                         StorePageRow(layout, value, keys + layout.value_offset(), token);
                       });
  }
}

// Computes the deviation of each row's new V from the V that its page holds. The new V is first
// rounded as StorePageRow rounds it, so the deviation is exactly 0 if the page already holds the
// same row. A row that the step does not write has the deviation 0. REQUIRES: the new V is not yet
// in the pages.
void TapValueDeviation(const AttentionArgs& args, const Tap& tap, float* out) {
  const GroupLayout& layout = *args.layout;
  const int32_t first = args.batch.segments()[tap.segment].token_begin + tap.row_begin;
  GroupLayout one_token = layout;
  one_token.page_tokens = 1;
  std::vector<char> head(one_token.head_stride());
  for (int32_t i = 0; i < tap.num_rows; ++i) {
    double sum = 0.0;
    ForEachWrittenHead(
        args, first + i, [&](char* keys, int32_t token, const float*, const float* value) {
          StorePageRow(one_token, value, head.data(), 0);
          const std::vector<float> stored = LoadPageRow(one_token, head.data(), 0);
          const std::vector<float> old = LoadPageRow(layout, keys + layout.value_offset(), token);
          for (int32_t d = 0; d < layout.head_dim; ++d) {
            const double difference = static_cast<double>(stored[d]) - old[d];
            sum += difference * difference;
          }
        });
    out[i] = static_cast<float>(sum);
  }
}

void TapLogSumExp(const AttentionArgs& args, const Tap& tap, float* out) {
  SegmentAttention attention(args, tap.segment);
  std::vector<float> unused(args.layout->head_dim);
  const int32_t first = args.batch.segments()[tap.segment].token_begin + tap.row_begin;
  for (int32_t i = 0; i < tap.num_rows; ++i) {
    for (int32_t h = 0; h < args.heads; ++h) {
      out[i * args.heads + h] = attention.Attend(first + i, h, unused.data()).lse;
    }
  }
}

void TapAttentionMass(const AttentionArgs& args, const Tap& tap, float* out) {
  SegmentAttention attention(args, tap.segment);
  std::vector<float> unused(args.layout->head_dim);
  std::vector<double> mass(TapFloatsPerLayer(args.batch, tap, args.heads, 0), 0.0);
  const int32_t first = args.batch.segments()[tap.segment].token_begin + tap.row_begin;
  for (int32_t i = 0; i < tap.num_rows * args.heads; ++i) {
    const RowView& row = attention.Attend(first + i / args.heads, i % args.heads, unused.data());
    for (size_t s = 0; s < row.streams.size(); ++s) {
      const KvStream& stream = row.streams[s];
      if (row.stream_lse[s] == kNegativeInfinity) continue;
      const float weight = std::exp(stream.scale * row.stream_lse[s] - row.lse);
      const int32_t key_end = stream.key_begin + stream.pos_end - stream.pos_begin;
      for (int32_t key = stream.key_begin; key < key_end; ++key) {
        mass[key / tap.block] += weight * std::exp(row.scores[key] - row.stream_lse[s]);
      }
    }
  }
  for (size_t b = 0; b < mass.size(); ++b) out[b] = static_cast<float>(mass[b]);
}

}  // namespace

void Attention(const AttentionArgs& args) {
  CHECK_EQ(args.heads % args.layout->kv_heads, 0);
  NormAndRotate(args);
  const auto tap = [&args](TapKind kind, auto function) {
    if (args.taps == nullptr) return;
    ForEachTap(args.batch, kind, args.layer, args.heads, 0, args.taps,
               [&](const Tap& tap, float* out) { function(args, tap, out); });
  };
  tap(TapKind::kValueDeviation, TapValueDeviation);
  AppendToPages(args);
  for (int32_t s = 0; s < args.batch.num_segments(); ++s) {
    const Segment& segment = args.batch.segments()[s];
    SegmentAttention attention(args, s);
    for (int32_t i = 0; i < segment.num_tokens * args.heads; ++i) {
      const int32_t row = segment.token_begin + i / args.heads;
      const int32_t head = i % args.heads;
      attention.Attend(row, head,
                       args.out.f32(row) + static_cast<int64_t>(head) * args.layout->head_dim);
    }
  }
  tap(TapKind::kLogSumExp, TapLogSumExp);
  tap(TapKind::kAttentionMass, TapAttentionMass);
}

}  // namespace tessera::ref

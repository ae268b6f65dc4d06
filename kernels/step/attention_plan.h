// Defines how attention visits the keys of a segment, so that all backends compute the same partial
// results in the same order. Pure helper functions over the batch; any thread.
//
// Streams. Consecutive runs of a segment in a group form a stream if each run continues the
// positions of the previous one and all have equal pos_delta, temperature and scale. Runs without
// keys are ignored. A stream has exactly one key at each position in [pos_begin, pos_end).
//
// Blocks. Block b of a stream has the keys at positions [256 b, 256 (b + 1)) (kAttentionBlock). A
// query row at position p attends to the keys at positions <= p and, with a window, > p - window.
// All computation in a block is indexed by position, so the result does not depend on the borders
// of runs and pages. With the scores s_j of the visible keys (fp32: q.k * attention scale,
// softcapped, divided by the temperature), a block gives
//   max = max_j s_j    sum = sum_j exp(s_j - max)    out = sum_j exp(s_j - max) * v_j
// in a fixed order over the positions in the block. A block without a visible key is skipped.
// With bf16 rows, the queries (normed and rotated) and the exponentials that weigh V are rounded to
// bf16, so that both products multiply pairs of bf16. `sum` adds the exponentials before rounding.
// With int8 rows (kernels/step/page_layout.h), q stays fp32 and the codes of K and V are used. The
// scales multiply whole sums and weights, so that k and v are never rounded again:
//   q.k = (sum_d q[d] * k_code[d]) * k_scale
//   out = sum_j (exp(s_j - max) * v_scale_j) * v_code_j
//
// Partial results A and B are merged (blocks of a stream in ascending order, then streams in
// order):
//   max = max(A.max, B.max)   a = exp(A.max - max)   b = exp(B.max - max)
//   sum = A.sum * a + B.sum * b                      out = A.out * a + B.out * b
// If A is empty, the result is a copy of B. A finished stream becomes the row's partial result
//   max = scale * (max + log(sum))   sum = 1   out = out / sum
// The row's output is out / sum of the merged streams. The row's log-sum-exp, which a tap
// (TapKind::kLogSumExp) returns, is max + log(sum). A row without a visible key has an output of
// zeros and a log-sum-exp of -infinity.
//
// Keys of the step's own tokens are rotated for their own positions. Therefore runs into which the
// step writes new tokens have pos_delta 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/base/types.h"
#include "kernels/step/batch.h"

namespace tessera {

struct KvStream {
  int32_t run_begin = 0;  // the stream has the runs [run_begin, run_end) of StepBatch::runs
  int32_t run_end = 0;
  int32_t pos_begin = 0;
  int32_t pos_end = 0;
  int32_t pos_delta = 0;
  float temperature = 1.0f;
  float scale = 1.0f;
  int32_t key_begin = 0;  // number of keys in the segment's earlier streams
};

// Calls visit(const KvStream&) for the streams of a segment in a group, in order.
template <class Visit>
void ForEachStream(const BatchView& view, int group, int segment, const Visit& visit) {
  const Range range = view.run_range(group, segment);
  const KvRun* runs = view.runs();
  KvStream stream;
  int32_t num_keys = 0;
  bool open = false;
  for (int32_t r = range.begin; r < range.begin + range.count; ++r) {
    const KvRun& run = runs[r];
    if (run.count == 0) continue;
    const bool continues = open && run.pos_begin == stream.pos_end &&
                           run.pos_delta == stream.pos_delta &&
                           run.temperature == stream.temperature && run.scale == stream.scale;
    if (!continues) {
      if (open) visit(static_cast<const KvStream&>(stream));
      stream = {r,         r,       run.pos_begin, run.pos_begin, run.pos_delta, run.temperature,
                run.scale, num_keys};
      open = true;
    }
    stream.run_end = r + 1;
    stream.pos_end += run.count;
    num_keys += run.count;
  }
  if (open) visit(static_cast<const KvStream&>(stream));
}

// Adjacent keys in one page: the page's tokens [token, token + count), at consecutive positions
// from `pos` on.
struct KeyPiece {
  PageId page = kNullPage;
  int32_t token = 0;
  int32_t count = 0;
  int32_t pos = 0;
};

// Calls visit(const KeyPiece&) for a stream's keys at positions [pos_begin, pos_end), ascending.
template <class Visit>
void ForEachPiece(const BatchView& view, const KvStream& stream, int32_t page_tokens,
                  int32_t pos_begin, int32_t pos_end, const Visit& visit) {
  const KvRun* runs = view.runs();
  const PageId* pages = view.pages();
  for (int32_t r = stream.run_begin; r < stream.run_end; ++r) {
    const KvRun& run = runs[r];
    const int32_t end = std::min(pos_end, run.pos_begin + run.count);
    for (int32_t pos = std::max(pos_begin, run.pos_begin); pos < end;) {
      const int32_t at = run.first + (pos - run.pos_begin);  // token index, from page_begin on
      const int32_t token = at % page_tokens;
      const int32_t count = std::min(page_tokens - token, end - pos);
      visit(KeyPiece{pages[run.page_begin + at / page_tokens], token, count, pos});
      pos += count;
    }
  }
}

struct PositionRange {
  int32_t begin = 0;
  int32_t end = 0;  // <= begin: the range is empty
};

// The positions of a stream's keys that a query at `position` attends to.
inline PositionRange VisibleKeys(const KvStream& stream, int32_t window, int32_t position) {
  const int32_t oldest = window > 0 ? position - window + 1 : stream.pos_begin;
  return {std::max(stream.pos_begin, oldest), std::min(stream.pos_end, position + 1)};
}

// The scalars of a partial result. The caller stores its output vector.
struct SoftmaxPartial {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0.0f;  // 0: the partial result is empty

  bool empty() const { return sum == 0.0f; }
  float lse() const { return empty() ? max : max + std::log(sum); }
};

// The number of keys of a segment in a group, as kAttentionMass counts them.
inline int64_t NumKeys(const BatchView& view, int group, int segment) {
  const Range range = view.run_range(group, segment);
  int64_t num_keys = 0;
  for (int32_t r = 0; r < range.count; ++r) num_keys += view.runs()[range.begin + r].count;
  return num_keys;
}

// The number of floats per layer of a tap. For kAttentionMass it is the number of blocks of the
// group with the most keys. Layers of a group with fewer keys fill the first floats of their row;
// the others stay zero.
inline int64_t TapFloatsPerLayer(const BatchView& view, const Tap& tap, int32_t heads,
                                 int64_t hidden) {
  switch (tap.kind) {
    case TapKind::kAttentionMass: {
      int64_t num_keys = 0;
      for (int g = 0; g < view.batch->num_groups; ++g) {
        num_keys = std::max(num_keys, NumKeys(view, g, tap.segment));
      }
      return CeilDiv<int64_t>(num_keys, tap.block);
    }
    case TapKind::kLogSumExp:
      return static_cast<int64_t>(tap.num_rows) * heads;
    case TapKind::kHidden:
      return tap.num_rows * hidden;
    case TapKind::kValueDeviation:
      return tap.num_rows;
  }
  return 0;
}

// Calls visit(const Tap&, float* out) for the taps of `kind` that include `layer`. `out` is the
// part of the tap's output for this layer.
template <class Visit>
void ForEachTap(const BatchView& view, TapKind kind, int32_t layer, int32_t heads, int64_t hidden,
                float* floats, const Visit& visit) {
  const Tap* taps = view.data(view.batch->taps);
  for (uint32_t i = 0; i < view.batch->taps.count; ++i) {
    const Tap& tap = taps[i];
    if (tap.kind != kind || layer < tap.layer_begin || layer >= tap.layer_end) continue;
    const int64_t per_layer = TapFloatsPerLayer(view, tap, heads, hidden);
    visit(tap, floats + tap.out_begin + (layer - tap.layer_begin) * per_layer);
  }
}

}  // namespace tessera

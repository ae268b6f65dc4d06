// The input of a step, which computes tokens of one model. A StepBatch is a POD of {offset, count}
// spans into one arena, so it can be handed to a rank thread or copied to another process as bytes.
// There is no prefill mode and no decode mode: a segment is a range of query tokens of one
// sequence, and a list of KV runs names the keys that it may attend to. The engine owns and writes
// a batch on its thread; rank threads read it. scheduler/README.md is the contract.
#pragma once

#include <cstdint>

#include "kernels/base/types.h"
#include "kernels/step/adapter_layout.h"
#include "kernels/step/batch_arena.h"

namespace tessera {

// Consecutive query tokens of one sequence: a decode token, a prefill chunk, k draft tokens to
// verify and one more, or a hole to recompute. A sequence may have several segments in a step.
struct Segment {
  int32_t slot = 0;         // index of the sequence's slot, in [0, max_num_seqs)
  int32_t token_begin = 0;  // index of the first token in StepBatch::tokens and positions
  int32_t num_tokens = 0;
  int32_t adapter = -1;  // index in StepBatch::adapters; -1: the base model
};

struct Range {
  int32_t begin = 0;
  int32_t count = 0;
};

// Keys that a segment attends to in one KV group: the keys of `count` tokens, starting with token
// `first` of page pages[page_begin], at positions pos_begin, pos_begin + 1, ... A query at position
// p attends to the keys at positions <= p inside the window.
//
// The keys were rotated for position (pos - pos_delta), so the query is rotated for (p - pos_delta)
// against them. `temperature` divides the scores. `scale` multiplies the run's log-sum-exp before
// runs are merged (APE, arXiv 2502.05431). Splitting a run in two changes no bit of the result
// (streams, attention_plan.h).
struct KvRun {
  int32_t page_begin = 0;
  int32_t num_pages = 0;
  int32_t first = 0;
  int32_t count = 0;
  int32_t pos_begin = 0;
  int32_t pos_delta = 0;
  float temperature = 1.0f;
  float scale = 1.0f;
};

// A LoRA adapter that segments of the step use (kernels/step/adapter_layout.h).
struct BatchAdapter {
  int32_t page_begin = 0;    // index of the adapter's first page in StepBatch::pages
  int32_t matrix_begin = 0;  // first of its [layers, kNumLoraTargets] in StepBatch::lora_matrices
  DType dtype = DType::kF32;
};

struct TokenBias {
  TokenId token = 0;
  float bias = 0.0f;  // added to the logit; -infinity bans the token
};

// A token to which penalties apply.
struct TokenCount {
  TokenId token = 0;
  int32_t output_count = 0;  // number of times that the token was generated
  int32_t in_prompt = 0;     // 1 if the prompt has the token
};

// A row of logits from which a token is sampled, or (target >= 0) which scores a given token.
struct SamplerRow {
  int32_t token_row = 0;  // index of the token in StepBatch::tokens whose logits are computed
  int32_t slot = -1;      // slot that stores the sampled token; -1: no slot
  TokenId target = -1;    // >= 0: report this token's logprob instead of sampling (prompt logprobs)
  float temperature = 0.0f;  // 0: greedy (lowest id wins a tie)
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  int32_t num_logprobs = -1;  // -1: no logprobs, 0: the token's logprob, N: also the N best tokens
  // Random numbers are a pure function of index, position and seed (Philox 4x32-10).
  int32_t index = 0;     // index of the sequence among the n of its request
  int32_t position = 0;  // position of the sampled token in its sequence
  uint64_t seed = 0;
  Range biases;  // range in StepBatch::biases
  Range counts;  // range in StepBatch::counts; empty without a penalty
  // First of ceil(vocab / 32) words in StepBatch::masks (a set bit allows a token); -1: no mask.
  int32_t mask = -1;
};

enum class TapKind : int32_t {
  // [layers, ceil(keys / block)]: softmax mass per block of keys, summed over rows and heads.
  kAttentionMass = 0,
  kLogSumExp = 1,  // [layers, rows, heads]: log-sum-exp of the scaled scores
  // [layers, rows, hidden]: residual stream after the layer; layer num_layers is the state after
  // the final norm.
  kHidden = 2,
  // [layers, rows]: squared distance of the row's new V from the V that its page held before.
  kValueDeviation = 3,
};

// An optional output of a step for rows of one segment and layers [layer_begin, layer_end). The
// output is written to StepResult::taps[out_begin ...] in the shape that TapKind states. Policies
// read taps.
struct Tap {
  TapKind kind = TapKind::kHidden;
  int32_t segment = 0;    // index in StepBatch::segments
  int32_t row_begin = 0;  // index of the first row in the segment
  int32_t num_rows = 0;
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  int32_t block = 1;      // for kAttentionMass: keys per block, counted through the runs in order
  int32_t out_begin = 0;  // floats
  int32_t out_count = 0;  // floats; REQUIRES: the size of the shape that TapKind states
};

enum class PageOpKind : int32_t {
  kCopy = 0,       // copies num_tokens tokens of src from src_token on to dst from dst_token on
  kRopeShift = 1,  // rotates the keys of num_tokens tokens of dst, from dst_token on, by `delta`
  // Copies src token indices[i] to dst token i. Each (layer, head) has its own list of indices if
  // index_stride > 0.
  kGather = 2,
};

// A change of page contents, never inside a layer: ops run in order before the step's layers.
struct PageOp {
  PageOpKind kind = PageOpKind::kCopy;
  int32_t group = 0;
  PageId src = kNullPage;
  PageId dst = kNullPage;
  int32_t src_token = 0;
  int32_t dst_token = 0;
  int32_t num_tokens = 0;
  int32_t layer_begin = 0;  // the op changes layers [layer_begin, layer_end) of the group
  int32_t layer_end = 0;
  int32_t delta = 0;        // kRopeShift: number of positions by which the keys are shifted
  int32_t index_begin = 0;  // index of the first list in StepBatch::indices
  // 0: all layers and heads use the list at index_begin. Not 0: (layer, head) uses the list at
  // index_begin + (layer * kv_heads + head) * index_stride.
  int32_t index_stride = 0;
};

// Sets a slot's last sampled token before the step, for a resumed sequence.
struct SlotUpdate {
  int32_t slot = 0;
  TokenId token = 0;
};

struct StepBatch {
  int32_t model = 0;
  int32_t num_groups = 1;
  uint64_t step_id = 0;
  ArenaSpan<TokenId> tokens;     // [T]; kLastSampledToken: the slot's last sampled token
  ArenaSpan<int32_t> positions;  // [T]
  // [groups, T]: page * page_tokens + token in the page; < page_tokens: the null page.
  ArenaSpan<int64_t> write_places;
  ArenaSpan<Segment> segments;  // [S]; their tokens cover [0, T) in order
  ArenaSpan<Range> run_ranges;  // [groups, S]: range in `runs` of a segment's runs in a group
  ArenaSpan<KvRun> runs;
  ArenaSpan<PageId> pages;
  ArenaSpan<BatchAdapter> adapters;
  ArenaSpan<LoraMatrices> lora_matrices;
  ArenaSpan<SamplerRow> sampler_rows;  // [R]
  ArenaSpan<TokenBias> biases;
  ArenaSpan<TokenCount> counts;
  ArenaSpan<uint32_t> masks;
  ArenaSpan<Tap> taps;
  ArenaSpan<PageOp> page_ops;
  ArenaSpan<int32_t> indices;
  ArenaSpan<SlotUpdate> slot_updates;
  int32_t num_tap_floats = 0;
};

// A batch and the address of its arena in this process.
struct BatchView {
  const StepBatch* batch = nullptr;
  const char* base = nullptr;

  template <class T>
  const T* data(ArenaSpan<T> span) const {
    return reinterpret_cast<const T*>(base + span.offset);
  }
  int32_t num_tokens() const { return static_cast<int32_t>(batch->tokens.count); }
  int32_t num_segments() const { return static_cast<int32_t>(batch->segments.count); }
  const TokenId* tokens() const { return data(batch->tokens); }
  const int32_t* positions() const { return data(batch->positions); }
  const int64_t* write_places(int group) const {
    return data(batch->write_places) + static_cast<int64_t>(group) * num_tokens();
  }
  const Segment* segments() const { return data(batch->segments); }
  Range run_range(int group, int segment) const {
    return data(batch->run_ranges)[static_cast<int64_t>(group) * num_segments() + segment];
  }
  const KvRun* runs() const { return data(batch->runs); }
  const PageId* pages() const { return data(batch->pages); }
};

}  // namespace tessera

// The one step input. A StepBatch is a POD of {offset, count} spans into one arena, so that it can
// be handed to a rank thread or copied to another process as bytes. There is no prefill mode and no
// decode mode: a segment is a run of query tokens of one sequence, and what it may attend to is a
// list of KV runs. A step is for one model.
//
// The engine writes a batch, ranks read it. scheduler/README.md is the contract.
#pragma once

#include <cstdint>

#include "kernels/base/types.h"
#include "kernels/step/adapter_layout.h"
#include "kernels/step/batch_arena.h"

namespace tessera {

// A run of query tokens of one sequence: decode (1), a prefill chunk, verification of drafts (k +
// 1), or a hole to be recomputed (several segments of one sequence in one step).
struct Segment {
  int32_t slot = 0;         // of the sequence, in [0, max_num_seqs)
  int32_t token_begin = 0;  // first row of tokens / positions
  int32_t num_tokens = 0;
  int32_t adapter = -1;  // index of StepBatch::adapters; -1: the base model
};

struct Range {
  int32_t begin = 0;
  int32_t count = 0;
};

// Keys a segment attends to in one KV group: `count` tokens from token `first` of page
// `pages[page_begin]` on, at positions pos_begin, pos_begin + 1, ... A query at position p sees
// those at positions <= p, inside the window.
//
// Keys were rotated for position (pos - pos_delta): the query is rotated for (p - pos_delta)
// against this run. `temperature` divides the scores and `scale` multiplies the run's log-sum-exp
// before runs are merged (APE, arXiv 2502.05431). Consecutive runs of one segment that continue
// each other's positions with equal pos_delta, temperature and scale form one stream: splitting a
// run changes nothing, bitwise.
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
  int32_t page_begin = 0;    // of its pages in StepBatch::pages
  int32_t matrix_begin = 0;  // of its [layers, kNumLoraTargets] in StepBatch::lora_matrices
  DType dtype = DType::kF32;
};

struct TokenBias {
  TokenId token = 0;
  float bias = 0.0f;  // added to the logit; -infinity bans the token
};

// A token that penalties know of: in the prompt, or generated `output_count` times.
struct TokenCount {
  TokenId token = 0;
  int32_t output_count = 0;
  int32_t in_prompt = 0;
};

// One row of logits and what is done with it: sample a token, or (target >= 0) only score a given
// one.
struct SamplerRow {
  int32_t token_row = 0;  // row of tokens whose final hidden state gives the logits
  int32_t slot = -1;      // its last-sampled-token cell is written when sampling; -1: none
  TokenId target = -1;    // >= 0: report this token's logprob instead of sampling (prompt logprobs)
  float temperature = 0.0f;  // 0: greedy (lowest id wins a tie)
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  int32_t num_logprobs = -1;  // -1: none, 0: the chosen token's, N: and the N best
  // Random numbers are a pure function of these three (Philox 4x32-10).
  int32_t index = 0;     // which of n
  int32_t position = 0;  // of the sampled token in its sequence
  uint64_t seed = 0;
  Range biases;  // in StepBatch::biases
  Range counts;  // in StepBatch::counts; empty when no penalty is active
  int32_t mask =
      -1;  // first word in StepBatch::masks of ceil(vocab / 32) words, bit set = allowed; -1: none
};

enum class TapKind : int32_t {
  kAttentionMass = 0,  // [layers, ceil(keys / block)]: softmax mass summed over the rows and heads,
                       // per block of keys
  kLogSumExp = 1,      // [layers, rows, heads]: of the scaled scores
  kHidden = 2,  // [layers, rows, hidden]: the residual stream after the layer; layer num_layers is
                // after the final norm
  kValueDeviation =
      3,  // [layers, rows]: squared distance of the row's new V from what its page held before
};

// An optional output of a step for rows of one segment, over layers [layer_begin, layer_end).
// Policies read taps between steps or layer ranges. Results lie at StepResult::taps[out_begin ...]
// in the shape that TapKind states.
struct Tap {
  TapKind kind = TapKind::kHidden;
  int32_t segment = 0;
  int32_t row_begin = 0;  // rows of the segment
  int32_t num_rows = 0;
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  int32_t block =
      1;  // keys per block (kAttentionMass); keys are counted through the segment's runs in order
  int32_t out_begin = 0;  // floats
  int32_t out_count = 0;  // floats; REQUIRES: as the shape says
};

enum class PageOpKind : int32_t {
  kCopy = 0,  // num_tokens tokens of src from src_token to dst from dst_token
  // Rotates the keys of num_tokens tokens of dst from dst_token on by `delta` positions.
  kRopeShift = 1,
  kGather = 2,  // dst token i := src token indices[i]; per layer and head when index_stride > 0
};

// A change of page contents between steps (never a hook inside a layer). Executed in order before
// the step's layers.
struct PageOp {
  PageOpKind kind = PageOpKind::kCopy;
  int32_t group = 0;
  PageId src = kNullPage;
  PageId dst = kNullPage;
  int32_t src_token = 0;
  int32_t dst_token = 0;
  int32_t num_tokens = 0;
  int32_t layer_begin = 0;  // layers of the group
  int32_t layer_end = 0;
  int32_t delta = 0;
  int32_t index_begin = 0;   // in StepBatch::indices
  int32_t index_stride = 0;  // 0: one list for all; else list of (layer, head) at index_begin +
                             // (layer*kv_heads+head)*stride
};

// Sets a slot's last-sampled-token cell before the step (a resumed sequence).
struct SlotUpdate {
  int32_t slot = 0;
  TokenId token = 0;
};

struct StepBatch {
  int32_t model = 0;
  int32_t num_groups = 1;
  uint64_t step_id = 0;
  ArenaSpan<TokenId> tokens;     // [T]; kLastSampledToken: the slot's cell
  ArenaSpan<int32_t> positions;  // [T]
  ArenaSpan<int64_t>
      write_slots;  // [groups, T]: page * page_tokens + token in page; < page_tokens: the null page
  ArenaSpan<Segment> segments;  // [S], their rows cover [0, T) in order
  ArenaSpan<Range> run_ranges;  // [groups, S]: a segment's runs in a group
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

// A batch and where its arena lies in this address space.
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
  const int64_t* write_slots(int group) const {
    return data(batch->write_slots) + static_cast<int64_t>(group) * num_tokens();
  }
  const Segment* segments() const { return data(batch->segments); }
  Range run_range(int group, int segment) const {
    return data(batch->run_ranges)[static_cast<int64_t>(group) * num_segments() + segment];
  }
  const KvRun* runs() const { return data(batch->runs); }
  const PageId* pages() const { return data(batch->pages); }
};

}  // namespace tessera

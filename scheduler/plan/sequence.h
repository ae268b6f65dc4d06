// A sequence is one of the n answers of a request while the engine computes it. Its progress is one
// number: the engine computes tokens until num_computed has reached the number of tokens. Prefill,
// decode, prefix hits and recomputation after preemption are all cases of this rule. Holes are
// token ranges below num_computed whose KV must be computed again. Holes are computed before the
// tokens after num_computed, in ascending order.
//
// Owned by the engine core; engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "kvstore/kv_manager.h"
#include "scheduler/plan/cost_model.h"
#include "scheduler/request.h"
#include "scheduler/residency/residency.h"

namespace tessera {

enum class SequenceState : int32_t {
  kWaiting,   // is new, preempted (keeps its tokens) or paused; holds no pages and no slot
  kLoading,   // as kWaiting, while its need is loading or another sequence computes its prefix
  kRunning,   // holds a slot and pages
  kFinished,  // its last event was sent; the object exists while num_steps > 0
};

// Where a waiting sequence is filed (queue.h).
enum class QueuePlace : int32_t {
  kNone,     // not in the queue
  kReady,    // its need is in the pool, or it has none: it may be admitted in its turn
  kNeedy,    // its need is not in the pool and must be asked for
  kLoading,  // its need is being loaded
  kPrefix,   // another sequence computes the next pages of its prefix
  kPaused,   // its reader is slow
};

struct TokenRange {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};

// The share of a running sequence in the scheduler's sums.
struct RunningShare {
  int64_t outstanding_slabs = 0;  // slabs that the sequence's prompt still needs
  int64_t num_tokens = 0;         // tokens of the sequence
  StepCost prompt;                // cost of the tokens to compute; zero for a single token
};

// The members that every step reads are first, in two cache lines.
struct Sequence {
  const Request* request = nullptr;
  // Prompt and generated tokens that the host knows. Empty before the first admission: a waiting
  // sequence uses the request's prompt, so waiting copies of a request take no memory for tokens.
  std::vector<TokenId> tokens;
  int64_t num_computed = 0;  // KV of tokens [0, num_computed) is written
  int64_t room_tokens = 0;   // number of tokens that the sequence's pages can hold
  int32_t num_inflight = 0;  // tokens after num_computed that launched steps are computing
  int32_t num_pending = 0;   // tokens after `tokens` that launched steps will sample
  int32_t num_steps = 0;     // launched steps that compute for the sequence
  int32_t slot = -1;         // -1: the sequence does not run

  // Holes that are not retired: ascending, without overlap, below num_computed.
  std::vector<TokenRange> holes;
  int64_t holes_launched = 0;  // launched steps compute the hole tokens before this position
  int32_t index = 0;           // index of the sequence among the n of its request
  SequenceState state = SequenceState::kWaiting;
  bool paused = false;          // the reader is slow: no further step computes for the sequence
  bool counts_in_queue = true;  // counts against max_queue, until its first step or its end
  int32_t running_index = -1;   // position in its model's RunningList; -1: not in the list
  NeedId need = kNoNeed;        // need that the sequence holds while it runs
  int32_t tenant = 0;           // number of Request::tenant in this engine

  int64_t num_prompt = 0;  // number of prompt tokens
  RunningShare share;      // what the scheduler's sums contain for the sequence
  KvState kv;
  QueuePlace place = QueuePlace::kNone;
  PageHash awaited;             // hash of the page that a sequence in kPrefix waits for
  int64_t expected_tokens = 0;  // predicted number of generated tokens in all; 0 for kEmbed
  int64_t end_step = -1;        // what its model's PredictedEnds contain for it; -1: nothing

  int64_t cached_prompt_tokens = 0;  // prompt tokens of the prefix hit at the first admission
  int32_t num_preemptions = 0;
  int64_t first_step_us = 0;   // clock time of the launch of the first step
  int64_t first_token_us = 0;  // clock time of the first generated token
  int64_t last_token_us = 0;   // clock time of the last generated token

  // Token counts for the sampler's penalties, sorted by token; empty without a penalty.
  std::vector<TokenCount> counts;
  // Token counts of the prompt, made once per request. Null without a repetition penalty, because
  // the other penalties count generated tokens only.
  std::shared_ptr<const std::vector<TokenCount>> prompt_counts;
  int64_t num_scored = 0;          // number of prompt tokens whose logprobs are sent
  std::vector<double> hidden_sum;  // [hidden] for kEmbed, else empty

  absl::Span<const TokenId> known_tokens() const {
    return tokens.empty() ? absl::MakeConstSpan(request->prompt) : absl::MakeConstSpan(tokens);
  }
  int64_t num_known() const { return static_cast<int64_t>(known_tokens().size()); }
  // Copies the prompt and its counts into `tokens` and `counts`. Called at each admission; only the
  // first call has an effect.
  void TakePrompt();
  // Appends a sampled token and counts it.
  void TakeToken(TokenId token);

  // Number of tokens that exist or that launched steps will sample.
  int64_t num_tokens() const { return num_known() + num_pending; }
  int64_t num_generated() const { return num_tokens() - num_prompt; }
  int64_t num_scheduled() const { return num_computed + num_inflight; }
  int64_t num_to_compute() const {
    const int64_t num_new = num_tokens() - num_scheduled();
    return holes.empty() ? num_new : num_new + num_hole_tokens();
  }
  // Number of hole tokens that no launched step computes yet.
  int64_t num_hole_tokens() const;
  // The KV of the first num_final() tokens is written and will not be computed again.
  int64_t num_final() const { return holes.empty() ? num_computed : holes.front().begin; }
  // Position of the first token that no launched step computes yet, holes first.
  int64_t NextToCompute() const;
  // Appends the next `num_tokens` tokens to compute, holes first.
  // REQUIRES: num_tokens <= num_to_compute().
  void NextRanges(int64_t num_tokens, absl::InlinedVector<TokenRange, 1>* ranges) const;
  // A step that computes the range was launched.
  void Launched(const TokenRange& range);
  // A step that computes the range has retired.
  void Retired(const TokenRange& range);
  bool has_penalties() const {
    const SamplingParams& s = request->sampling;
    return s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f ||
           s.frequency_penalty != 0.0f;
  }
};

// Loops over thousands of sequences are limited by cache misses. They therefore prefetch the
// sequence that they visit kPrefetchTurns iterations later.
inline constexpr size_t kPrefetchTurns = 8;
inline void PrefetchSequence(const Sequence* sequence) {
  if (sequence == nullptr) return;
  constexpr size_t kLineBytes = 64;
  const char* const first = reinterpret_cast<const char*>(sequence);
  __builtin_prefetch(first);
  __builtin_prefetch(first + kLineBytes);
  __builtin_prefetch(first + 2 * kLineBytes);
}

// The distinct tokens of a prompt, sorted by token, each with prompt count 1.
std::vector<TokenCount> CountPrompt(absl::Span<const TokenId> prompt);

}  // namespace tessera

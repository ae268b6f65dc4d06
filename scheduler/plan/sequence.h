// One sequence of a request (one of its n) on its way through the engine. There is one progress
// number: num_computed must catch up with the tokens. Prefill, decode, prefix hits and
// recomputation after preemption are all that. Holes are token ranges below num_computed whose KV
// must be computed again; they are computed first, in ascending order.
//
// Owned by the engine core, touched on the engine thread only.
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
  kWaiting,   // new, preempted (it keeps its tokens) or paused; holds no pages and no slot
  kLoading,   // as kWaiting, while its need or its prefix is on its way
  kRunning,   // holds a slot and pages
  kFinished,  // its last event was sent; lives on while num_inflight > 0
};

// Where a waiting sequence is filed (queue.h).
enum class QueuePlace : int32_t {
  kNone,     // not in the queue
  kReady,    // may be admitted in its turn
  kNeedy,    // its need must be asked for
  kLoading,  // its need is on its way
  kPrefix,   // another sequence computes the next pages of its prefix
  kPaused,
};

struct TokenRange {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};

// What a running sequence adds to the scheduler's sums.
struct RunningShare {
  int64_t outstanding_slabs = 0;  // that its prompt still needs
  StepCost prompt;                // to compute, when more than one token is
};

// What each step asks comes first, in two cache lines.
struct Sequence {
  const Request* request = nullptr;
  // Prompt and generated, as far as the host knows them. Empty until the first admission: whoever
  // waits for it shares the request's prompt, so a queue of copies costs no memory.
  std::vector<TokenId> tokens;
  int64_t num_computed = 0;  // KV of tokens [0, num_computed) is written
  int64_t room_tokens = 0;   // that its pages reach
  int32_t num_inflight = 0;  // tokens after num_computed that launched steps are computing
  int32_t num_pending = 0;   // tokens after `tokens` that launched steps sample
  int32_t num_steps = 0;     // launched steps that compute for it
  int32_t slot = -1;

  std::vector<TokenRange> holes;  // not retired yet, ascending, apart, below num_computed
  int64_t holes_launched = 0;     // tokens of holes before this one are being computed
  int32_t index = 0;              // which of n
  SequenceState state = SequenceState::kWaiting;
  bool paused = false;          // its reader is slow: it computes nothing and holds no pages
  bool counts_in_queue = true;  // against max_queue: until its first step or its end
  int32_t running_index = -1;   // in its model's list of running ones; -1: not there
  NeedId need = kNoNeed;        // held while it runs
  int32_t tenant = 0;           // the engine's number for Request::tenant

  int64_t num_prompt = 0;
  RunningShare share;  // counted in the scheduler's sums while it runs
  KvState kv;
  QueuePlace place = QueuePlace::kNone;
  PageHash awaited;  // with kPrefix: the page that it waits for

  int64_t cached_prompt_tokens = 0;  // at the first admission
  int32_t num_preemptions = 0;
  int64_t first_step_us = 0;
  int64_t first_token_us = 0;
  int64_t last_token_us = 0;

  // Only when a penalty is active: what the sampler gets, sorted by token. The prompt's are made
  // once per request, and only for a repetition penalty: the others count generated tokens.
  std::vector<TokenCount> counts;
  std::shared_ptr<const std::vector<TokenCount>> prompt_counts;
  int64_t num_scored = 0;                    // prompt tokens with a logprob
  std::vector<OutputToken> prompt_logprobs;  // theirs, until the whole prompt's are sent
  bool prompt_scored = false;                // and sent
  std::vector<double> hidden_sum;            // kEmbed

  absl::Span<const TokenId> known_tokens() const {
    return tokens.empty() ? absl::MakeConstSpan(request->prompt) : absl::MakeConstSpan(tokens);
  }
  int64_t num_known() const { return static_cast<int64_t>(known_tokens().size()); }
  // Gives it tokens and counts of its own. Called when it is admitted.
  void TakePrompt();
  // Appends a sampled token.
  void TakeToken(TokenId token);

  // Tokens that exist or will once the launched steps are done.
  int64_t num_tokens() const { return num_known() + num_pending; }
  int64_t num_generated() const { return num_tokens() - num_prompt; }
  int64_t num_scheduled() const { return num_computed + num_inflight; }
  int64_t num_to_compute() const {
    const int64_t num_new = num_tokens() - num_scheduled();
    return holes.empty() ? num_new : num_new + num_hole_tokens();
  }
  int64_t num_hole_tokens() const;  // to compute, not launched yet
  // KV of tokens before this one is final.
  int64_t num_final() const { return holes.empty() ? num_computed : holes.front().begin; }
  int64_t NextToCompute() const;
  // The next `num_tokens` tokens to compute, holes first. REQUIRES: no more than num_to_compute().
  void NextRanges(int64_t num_tokens, absl::InlinedVector<TokenRange, 1>* ranges) const;
  // A step that computes the range was launched, or has retired.
  void Launched(const TokenRange& range);
  void Retired(const TokenRange& range);
  bool has_penalties() const {
    const SamplingParams& s = request->sampling;
    return s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f ||
           s.frequency_penalty != 0.0f;
  }
};

// Loops over thousands of sequences wait for memory, not for arithmetic: they fetch what they will
// look at some turns ahead.
inline constexpr size_t kPrefetchTurns = 8;
inline void PrefetchSequence(const Sequence* sequence) {
  constexpr size_t kLineBytes = 64;
  const char* const first = reinterpret_cast<const char*>(sequence);
  __builtin_prefetch(first);
  __builtin_prefetch(first + kLineBytes);
  __builtin_prefetch(first + 2 * kLineBytes);
}

// The distinct tokens of a prompt, sorted.
std::vector<TokenCount> CountPrompt(absl::Span<const TokenId> prompt);

}  // namespace tessera

// One sequence of a request (one of its n) on its way through the engine. There is one progress
// number: num_computed must catch up with the tokens. Prefill, decode, prefix hits and
// recomputation after preemption are all that.
//
// Owned by the engine core, touched on the engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "kvstore/kv_manager.h"
#include "scheduler/request.h"

namespace tessera {

enum class SequenceState : int32_t {
  kWaiting,   // new, preempted (it keeps its tokens) or paused; holds no pages and no slot
  kLoading,   // as kWaiting, while its adapter is on its way to the pool
  kRunning,   // holds a slot and pages
  kFinished,  // its last event was sent; lives on while num_inflight > 0
};

struct Sequence {
  const Request* request = nullptr;
  int32_t index = 0;  // which of n
  SequenceState state = SequenceState::kWaiting;

  // Prompt and generated, as far as the host knows them. Empty until the first admission: whoever
  // waits for it shares the request's prompt, so a queue of copies costs no memory.
  std::vector<TokenId> tokens;
  int64_t num_prompt = 0;
  int64_t num_computed = 0;  // KV of tokens [0, num_computed) is written
  int32_t num_inflight = 0;  // tokens after them that launched steps are computing
  int32_t num_pending = 0;   // tokens after `tokens` that launched steps will sample
  KvState kv;
  int32_t slot = -1;
  // A page of its prefix that another sequence is computing: it waits while that is announced.
  std::optional<PageHash> awaited;
  bool paused = false;          // its reader is slow: it computes nothing and holds no pages
  int32_t queue_index = -1;     // in the scheduler's list of waiting ones; -1: not there
  bool counts_in_queue = true;  // against max_queue: until its first step or its end

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
  int64_t num_to_compute() const { return num_tokens() - num_scheduled(); }
  bool has_penalties() const {
    const SamplingParams& s = request->sampling;
    return s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f ||
           s.frequency_penalty != 0.0f;
  }
};

// The distinct tokens of a prompt, sorted.
std::vector<TokenCount> CountPrompt(absl::Span<const TokenId> prompt);

}  // namespace tessera

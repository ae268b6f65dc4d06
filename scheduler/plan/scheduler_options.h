// What decides how the scheduler plans, and what it counts.
#pragma once

#include <cstdint>

#include "kernels/base/stats.h"

namespace tessera {

enum class QueuePolicyKind : int32_t { kPriority = 0, kEarlyAbort = 1 };

struct SchedulerOptions {
  // Sequences that may be admitted at once, over all models. More: better throughput, more KV
  // memory, slower streams.
  int32_t max_num_seqs = 256;
  // Tokens of one step. More: faster prefill, longer gaps between the tokens of running streams.
  int32_t max_num_batched_tokens = 512;
  // While streams run, prefill chunks are cut so that a step is predicted to take no longer than
  // this, or than target_step_ratio times the streams' step alone, whichever is longer. 0: no
  // bound.
  int64_t target_step_us = 200'000;
  // Each step reads all weights, however few tokens of prompts it takes along: a large ratio keeps
  // that share small, at the price of longer gaps between tokens while prompts are computed.
  int32_t target_step_ratio = 8;
  QueuePolicyKind queue_policy = QueuePolicyKind::kPriority;
  // A waiting request gains one priority class each time it has waited this long.
  int64_t ageing_us = 5'000'000;
  // Of kEarlyAbort: a request whose predicted wait for the first token is longer is refused.
  int64_t early_abort_us = 6'000'000;
  // Share of the pool's slabs that admission leaves free for running sequences to grow into.
  double watermark = 0.01;
};

// Written on the engine thread, read by any.
struct SchedulerStats {
  Counter prompt_tokens;         // of admitted sequences
  Counter cached_prompt_tokens;  // of them, found in the prefix cache
  Counter preemptions;
  Gauge cost_model_error;  // mean relative error of predicted step times, exponentially weighted
};

}  // namespace tessera

// The options of the scheduler, and the statistics that it counts. The engine's options and
// statistics extend them. The options are immutable; the engine thread writes the statistics.
#pragma once

#include <cstdint>

#include "kernels/base/stats.h"

namespace tessera {

enum class QueuePolicyKind : int32_t { kPriority = 0, kEarlyAbort = 1 };

struct SchedulerOptions {
  // The largest number of running sequences, over all models. A larger value gives better
  // throughput, more KV memory in use, and slower streams.
  int32_t max_num_seqs = 256;
  // The largest number of tokens of one step. A larger value gives faster prefill and a longer ITL
  // of running streams.
  int32_t max_num_batched_tokens = 512;
  // While streams run, prefill chunks are cut so that the predicted step time is at most this
  // value, or at most target_step_ratio times the predicted time of a step of the streams alone,
  // whichever is longer. 0: no bound.
  int64_t target_step_us = 200'000;
  // Every step reads all weights, even if it computes few prompt tokens. A large ratio spends a
  // smaller share of the prefill time on reading weights, but ITL is longer while prompts run.
  int32_t target_step_ratio = 8;
  QueuePolicyKind queue_policy = QueuePolicyKind::kPriority;
  // A waiting request gains one priority class each time it has waited this long.
  int64_t ageing_us = 5'000'000;
  // The limit of kEarlyAbort for the first token: a request is refused if its predicted wait
  // exceeds this limit less S-LoRA's margin of 0.5 s.
  int64_t early_abort_us = 6'000'000;
  // The share of the pool's slabs that admission leaves free, so that running sequences can grow.
  double watermark = 0.01;
};

// Written on the engine thread, read by any thread.
struct SchedulerStats {
  Counter prompt_tokens;         // prompt tokens of admitted sequences
  Counter cached_prompt_tokens;  // prompt tokens of admitted sequences found in the prefix cache
  Counter preemptions;
  Gauge cost_model_error;  // mean relative error of predicted step times, exponentially weighted
};

}  // namespace tessera

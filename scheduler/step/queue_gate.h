// Decides whether a request may be queued. Two bounds hold beside the bound of the queue policy:
//
// 1. At most max_queue sequences wait for their first step.
// 2. The predicted queue delay stays near max_queue_delay_us while the load exceeds what the device
//    can serve. A burst is not such a load: requests are refused only after the delay has exceeded
//    the bound for a time as long as the bound. From then on each request is refused that would
//    wait longer than the bound, until the delay has fallen to half of the bound. A request that
//    finds one of the max_num_seqs slots not yet asked for is never refused for the delay.
//
// Owned by the engine. Enter, MayEnter and Leave: any thread. Observe: engine thread.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "scheduler/plan/queue_policy.h"
#include "scheduler/step/engine_options.h"
#include "scheduler/step/engine_stats.h"

namespace tessera {

class QueueGate final {
 public:
  // The gate reads the queue delay and the number of running sequences from `stats`. `options` and
  // `stats` outlive the gate.
  QueueGate(const EngineOptions& options, EngineStats* stats) : options_(options), stats_(stats) {}

  // Counts the sequences of a request as waiting, before the request is queued, so that concurrent
  // calls cannot exceed the bound. Otherwise returns ResourceExhausted (RefusedForNow) and counts
  // the request as refused. A queue in which nothing waits accepts any request: a request with more
  // copies than the bound could never run.
  absl::Status Enter(int64_t num_sequences, const QueuePolicy& policy);
  // Returns the error that Enter would now give a request of one sequence, and counts it as
  // refused, but takes no place for it.
  absl::Status MayEnter(const QueuePolicy& policy) const;
  // Sequences that Enter counted have had their first step or have ended.
  void Leave(int64_t num_sequences) {
    num_queued_.fetch_sub(num_sequences, std::memory_order_relaxed);
  }
  // Called in every round, after the stats were published.
  void Observe(int64_t now_us);

 private:
  int64_t QueueDelayUs() const { return static_cast<int64_t>(stats_->queue_delay_us.value()); }
  // The bound on the delay is off under the policy early_abort, which has a bound of its own.
  bool BoundsDelay() const {
    return options_.max_queue_delay_us > 0 && options_.queue_policy == QueuePolicyKind::kPriority;
  }
  absl::Status CheckDelay(const QueuePolicy& policy, int64_t num_queued) const;
  absl::Status QueueFull() const;

  const EngineOptions& options_;
  EngineStats* const stats_;
  std::atomic<int64_t> num_queued_{0};  // sequences whose first step is not launched
  std::atomic<bool> is_overloaded_{false};
  int64_t above_since_us_ = -1;  // when the delay rose above its bound; -1: it is not above
};

}  // namespace tessera

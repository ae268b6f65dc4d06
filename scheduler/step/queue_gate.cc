#include "scheduler/step/queue_gate.h"

#include "absl/strings/str_cat.h"
#include "scheduler/generator.h"

namespace tessera {

absl::Status QueueGate::Enter(int64_t num_sequences, const QueuePolicy& policy) {
  int64_t queued = num_queued_.load(std::memory_order_relaxed);
  absl::Status status = CheckDelay(policy, queued);
  do {
    if (status.ok() && queued > 0 && queued + num_sequences > options_.max_queue) {
      status = QueueFull();
    }
    if (!status.ok()) {
      stats_->refused.Add();
      return status;
    }
  } while (!num_queued_.compare_exchange_weak(queued, queued + num_sequences,
                                              std::memory_order_relaxed));
  return absl::OkStatus();
}

absl::Status QueueGate::MayEnter(const QueuePolicy& policy) const {
  const int64_t queued = num_queued_.load(std::memory_order_relaxed);
  absl::Status status = CheckDelay(policy, queued);
  if (status.ok() && queued >= options_.max_queue) status = QueueFull();
  if (!status.ok()) stats_->refused.Add();
  return status;
}

absl::Status QueueGate::CheckDelay(const QueuePolicy& policy, int64_t num_queued) const {
  const int64_t delay_us = QueueDelayUs();
  const absl::Status by_policy = policy.MayQueue(delay_us);
  if (!by_policy.ok()) return RefusedForNow(by_policy.message(), delay_us);
  const int64_t bound_us = options_.max_queue_delay_us;
  if (!is_overloaded_.load(std::memory_order_relaxed) || delay_us <= bound_us || num_queued == 0 ||
      num_queued + stats_->sequences_running.value() < options_.max_num_seqs) {
    return absl::OkStatus();
  }
  return RefusedForNow(
      absl::StrCat("the queue is full: a new request would wait for ", delay_us / 1000,
                   " ms, and engine.max_queue_delay_ms allows ", bound_us / 1000),
      delay_us);
}

absl::Status QueueGate::QueueFull() const {
  return RefusedForNow(absl::StrCat("the queue is full (at most ", options_.max_queue,
                                    " sequences wait; --max-queue of the server sets this number)"),
                       QueueDelayUs());
}

void QueueGate::Observe(int64_t now_us) {
  if (!BoundsDelay()) return;
  const int64_t bound_us = options_.max_queue_delay_us;
  const int64_t delay_us = QueueDelayUs();
  if (delay_us <= bound_us / 2) is_overloaded_.store(false, std::memory_order_relaxed);
  // While nothing waits, full slots alone are no overload.
  if (delay_us <= bound_us || num_queued_.load(std::memory_order_relaxed) == 0) {
    above_since_us_ = -1;
    return;
  }
  if (above_since_us_ < 0) above_since_us_ = now_us;
  if (now_us - above_since_us_ >= bound_us) is_overloaded_.store(true, std::memory_order_relaxed);
}

}  // namespace tessera

// The order in which waiting sequences are admitted, and who may enter. A policy is told what was
// served; its keys change only then and with time.
#pragma once

#include <cstdint>
#include <memory>
#include <tuple>

#include "absl/status/status.h"
#include "scheduler/plan/scheduler_options.h"
#include "scheduler/plan/sequence.h"

namespace tessera {

// Smaller is served first.
struct QueueKey {
  int32_t rank = 0;        // classes, best first
  int64_t arrival_us = 0;  // within a class: first come, first served
  uint64_t request_id = 0;
  int32_t index = 0;

  friend bool operator<(const QueueKey& a, const QueueKey& b) {
    return std::tie(a.rank, a.arrival_us, a.request_id, a.index) <
           std::tie(b.rank, b.arrival_us, b.request_id, b.index);
  }
};

class QueuePolicy {
 public:
  virtual ~QueuePolicy() = default;

  virtual QueueKey Key(const Sequence& sequence, int64_t now_us) const = 0;
  // The queue files sequences of one model, tenant and lane by arrival. REQUIRES: at any time, the
  // smallest key of any run of neighbours in a lane is at one of the run's ends, if all of them
  // came before SplitUs or none did.
  virtual int32_t Lane(const Sequence& sequence) const { return 0; }
  virtual int64_t SplitUs(int64_t now_us) const { return 0; }

  // Whether the sequence may be admitted now (a quota). One that may not blocks its tenant only.
  virtual bool MayEnter(const Sequence& sequence) const { return true; }
  // Whether a request may be queued, when one that is queued now is predicted to wait
  // `queue_delay_us` for its first step. RESOURCE_EXHAUSTED says when to come again. Any thread.
  virtual absl::Status MayQueue(int64_t queue_delay_us) const { return absl::OkStatus(); }

  // A step that computes `num_tokens` tokens of the sequence was planned.
  virtual void OnServed(const Sequence& sequence, int64_t num_tokens) {}
  // A step was planned: how many sequences have come since the last one, and how many it admitted.
  virtual void OnPlanned(int64_t num_arrived, int64_t num_admitted) {}
};

// Priority classes; a sequence gains one class each time it has waited `ageing_us`, so that nothing
// starves. A preempted sequence keeps its arrival and so comes back before those that came after
// it.
std::unique_ptr<QueuePolicy> NewPriorityPolicy(int64_t ageing_us);

// S-LoRA's early abort (arXiv 2311.03285 and its code), to compare with: first come, first served,
// but the newest first while more come than are admitted. Sequences that cannot have their first
// token within `slo_us` of their arrival any more come last: S-LoRA drops them, but what was
// accepted here is served. A request that would miss the limit, with S-LoRA's margin of 0.5 s, may
// not be queued.
std::unique_ptr<QueuePolicy> NewEarlyAbortPolicy(int64_t slo_us);

std::unique_ptr<QueuePolicy> NewQueuePolicy(const SchedulerOptions& options);

}  // namespace tessera

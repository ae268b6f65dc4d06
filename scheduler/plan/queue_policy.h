// The order in which waiting sequences are admitted. Policies are values of a total order; they
// change nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <tuple>

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
  // After a step was planned: how many sequences have come since the last one, and how many it
  // admitted. Keys change only here and with time.
  virtual void OnPlanned(int64_t num_arrived, int64_t num_admitted) {}
};

// Priority classes; a sequence gains one class each time it has waited `ageing_us`, so that nothing
// starves. A preempted sequence keeps its arrival and so comes back before those that came after
// it.
std::unique_ptr<QueuePolicy> NewPriorityPolicy(int64_t ageing_us);

// S-LoRA's early abort (arXiv 2311.03285 and its code), to compare with: first come, first served,
// but the newest first while more come than are admitted. Sequences that cannot have their first
// token within `slo_us` of their arrival any more come last: S-LoRA drops them, but what was
// accepted here is served. What can be refused is what is not accepted yet: see IsHopeless.
std::unique_ptr<QueuePolicy> NewEarlyAbortPolicy(int64_t slo_us);
// Whether a request that waits so long misses the limit, with S-LoRA's margin of 0.5 s.
bool IsHopeless(int64_t wait_us, int64_t slo_us);

}  // namespace tessera

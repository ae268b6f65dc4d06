// The order in which waiting sequences are admitted. Policies are values of a total order; they
// change nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <tuple>

#include "scheduler/sequence.h"

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
};

// Priority classes; a sequence gains one class each time it has waited `ageing_us`, so that nothing
// starves. A preempted sequence keeps its arrival and so comes back before those that came after
// it.
std::unique_ptr<QueuePolicy> NewPriorityPolicy(int64_t ageing_us);

}  // namespace tessera

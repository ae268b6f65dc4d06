// A queue policy determines the order in which waiting sequences are admitted, and which of them
// may be admitted at all. The scheduler reports admissions to the policy and keeps the accounts of
// tenants; the policy's keys change only by these and with time.
//
// Owned by the scheduler; engine thread only, except MayQueue.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <tuple>

#include "absl/status/status.h"
#include "scheduler/plan/scheduler_options.h"
#include "scheduler/plan/sequence.h"
#include "scheduler/plan/tenant_accounts.h"

namespace tessera {

// The sequence with the smallest key is served first.
struct QueueKey {
  // What the sequence's tenant has been served (TenantAccounts::used_us); 0 for all sequences while
  // only one tenant has work.
  double share = 0.0;
  int32_t rank = 0;        // number of the class; 0 is the best
  int64_t arrival_us = 0;  // within a class, the earliest arrival is served first
  uint64_t request_id = 0;
  int32_t index = 0;

  friend bool operator<(const QueueKey& a, const QueueKey& b) {
    return std::tie(a.share, a.rank, a.arrival_us, a.request_id, a.index) <
           std::tie(b.share, b.rank, b.arrival_us, b.request_id, b.index);
  }
};

class QueuePolicy {
 public:
  virtual ~QueuePolicy() = default;

  virtual QueueKey Key(const Sequence& sequence, int64_t now_us) const = 0;
  // The lane number of a sequence. A lane holds the waiting sequences of one model, tenant and lane
  // number, sorted by arrival. The queue splits a lane in two parts: the sequences that arrived
  // before SplitUs, and the others. REQUIRES: in any range of consecutive sequences of one part,
  // the sequence with the smallest key is at one of the range's ends, at any time.
  virtual int32_t Lane(const Sequence& sequence) const { return 0; }
  // The arrival time at which the queue splits each lane.
  virtual int64_t SplitUs(int64_t now_us) const { return std::numeric_limits<int64_t>::min(); }

  // Whether tenants divide the device by their accounts now: the keys then have shares, and slots
  // and prompts follow them.
  virtual bool DividesByTenants() const { return false; }
  // Whether the sequence may be admitted now; for quotas. A sequence that may not be admitted
  // blocks only sequences of its tenant.
  virtual bool MayEnter(const Sequence& sequence) const { return true; }
  // Whether a request may be queued that is predicted to wait `queue_delay_us` for its first step.
  // The message of a RESOURCE_EXHAUSTED status says why not; the caller adds when to retry. Any
  // thread.
  virtual absl::Status MayQueue(int64_t queue_delay_us) const { return absl::OkStatus(); }

  // A step was planned. `num_arrived` sequences arrived since the previous plan, and the plan
  // admitted `num_admitted` sequences.
  virtual void OnPlanned(int64_t num_arrived, int64_t num_admitted) {}
};

// Orders by priority class, then by arrival. A sequence gains one class each time it has waited
// `ageing_us`, so no sequence starves. A preempted sequence keeps its arrival time, so it is
// admitted before sequences of its class that arrived later.
std::unique_ptr<QueuePolicy> NewPriorityPolicy(int64_t ageing_us);

// Orders by the accounts of tenants, and within a tenant by the priority policy. `accounts`
// outlives the policy.
std::unique_ptr<QueuePolicy> NewFairPolicy(int64_t ageing_us, const TenantAccounts* accounts);

// S-LoRA's early abort (arXiv 2311.03285 and its code), for comparison. The oldest sequence is
// first; the newest is first while at least as many sequences arrive as are admitted. Sequences
// that can no longer have their first token within `slo_us` of their arrival are last. S-LoRA drops
// such sequences; this policy serves every accepted request. A request that would miss the limit,
// with S-LoRA's margin of 0.5 s, may not be queued.
std::unique_ptr<QueuePolicy> NewEarlyAbortPolicy(int64_t slo_us);

// Makes the policy that options.queue_policy names: NewFairPolicy or NewEarlyAbortPolicy.
std::unique_ptr<QueuePolicy> NewQueuePolicy(const SchedulerOptions& options,
                                            const TenantAccounts* accounts);

}  // namespace tessera

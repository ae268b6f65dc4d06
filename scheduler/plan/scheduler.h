// Decides what the next step computes: which model, which sequences, and how many tokens of each.
// The scheduler knows four things: tokens to compute, pages, slots, and whether a sequence is held
// back. It uses memory only through KvManager's verbs and Residency, and predicts time only through
// CostModel. Plan works on scratch (planner.h); Commit applies the plan.
//
// The rules (scheduler/README.md gives their reasons and details):
//  1. The model that has used the least device time steps next.
//  2. Every running sequence that has one token to compute gets it in every step of its model.
//  3. The rest of the token budget goes to running prompts, in the order of their admission, and
//     then to waiting sequences in the policy's order. While streams run, prompt chunks are cut so
//     that the predicted step time stays bounded.
//  4. A sequence is admitted only if its whole prompt fits beside the pages that running prompts
//     still need, plus a watermark. After a sequence was refused, no sequence after it in the queue
//     is admitted, of any model. A sequence that does not fit although nothing runs ends with an
//     error.
//  5. When a running sequence cannot grow, the running sequence with the worst key is preempted and
//     later recomputed.
//  6. A waiting sequence whose need is not in the pool waits for the need. It blocks the sequences
//     after it only if the pool has no room for the need. Needs are loaded ahead of the admission
//     of their sequences, whether or not a slot is free.
//  7. A waiting sequence waits for its prefix while another sequence computes that prefix.
//  8. Tenants with work share device time and slots by their weights (tenant_accounts.h). The queue
//     serves the tenant that has been served least. A tenant that has less than its share of the
//     slots takes a slot from one that has more.
//
// Owned by the engine core; engine thread only.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "kernels/base/clock.h"
#include "scheduler/plan/planner.h"
#include "scheduler/plan/queue.h"
#include "scheduler/plan/queue_policy.h"
#include "scheduler/plan/scheduler_state.h"
#include "scheduler/plan/step_plan.h"

namespace tessera {

class Scheduler {
 public:
  // Without a `policy`, the scheduler uses the policy that the options name.
  Scheduler(const SchedulerOptions& options, size_t num_models, KvManager* kv, Residency* residency,
            const Clock* clock, SchedulerStats* stats,
            std::unique_ptr<QueuePolicy> policy = nullptr);

  // A tenant has this number from now on; see TenantAccounts::Open.
  void OpenTenant(int32_t tenant, const TenantLimits& limits) {
    state_.tenants.Open(tenant, limits);
  }
  // Adds a new sequence to the queue. REQUIRES: its tenant is open.
  void Enqueue(Sequence* sequence);
  // Removes a sequence for good and releases its slot and pages. REQUIRES: num_steps == 0.
  void Remove(Sequence* sequence);
  // Pauses or resumes a sequence.
  void SetPaused(Sequence* sequence, bool paused);
  // Releases the slot and the pages of a paused sequence and puts it back in the queue; its whole
  // pages stay in the prefix cache until they are evicted. REQUIRES: paused,
  // num_steps == 0.
  void Park(Sequence* sequence);
  // The caller has written KV of the tokens [0, num_computed) to the pages of a running sequence.
  // The KV of `holes`, and of the sequence's earlier holes, must be computed again. Whole pages
  // before the first hole are published at once: if KV is approximate, the caller has called
  // KvManager::MarkApproximate before.
  // REQUIRES: no step computes for the sequence; the holes ascend, do not overlap and lie between
  // the old and the new num_computed; the sequence's pages hold num_computed tokens; a token after
  // them is left to compute; the request generates and scores no prompt tokens.
  void TakeComputed(Sequence* sequence, int64_t num_computed, absl::Span<const TokenRange> holes);

  // Plans one step on scratch. The plan is empty when nothing can run.
  StepPlan Plan();
  // Applies the plan: preempts and admits sequences, takes pages, files waiting sequences, loads
  // needs. Drops entries of the plan for which the pool turns out to have too few pages.
  void Commit(StepPlan* plan);
  // Makes a plan and commits it. Plans again while a committed plan preempts but computes nothing.
  StepPlan Schedule();
  // The step of a committed plan was launched.
  void OnLaunched(const StepPlan& plan);
  // The step of the entry has retired.
  void OnRetired(const PlanEntry& entry);
  // The sequence has a new token, or its KV has advanced.
  void OnAdvanced(Sequence* sequence) {
    Recount(sequence);
    PredictEnd(sequence);
  }
  // The step of a committed plan took `step_us` on the device.
  void OnStepDone(const StepPlan& plan, int64_t step_us);

  // Files the sequences whose needs or prefixes have settled. Returns the needs that changed. The
  // caller ends the sequences whose need failed.
  std::vector<NeedChange> Wake();
  std::vector<Sequence*> WaitingFor(NeedId need) const { return queue_.WithNeed(need); }
  // The number of slabs that only running sequences may take: the argument of Residency::Want.
  int64_t NumReservedSlabs() const {
    return ReserveSlabs(state_.options, *kv_, state_.outstanding_slabs);
  }
  bool IsAlone() const { return state_.num_running == 0; }

  int64_t num_running() const { return state_.num_running; }
  // The number of sequences without a slot, and how many of them are paused.
  int64_t num_waiting() const { return queue_.size(); }
  int64_t num_paused() const { return queue_.num_paused(); }
  // All running or waiting sequences, in no particular order, in linear time. For tests.
  std::vector<Sequence*> Running() const;
  std::vector<Sequence*> Waiting() const { return queue_.All(); }
  const QueuePolicy& policy() const { return *policy_; }
  const TenantAccounts& tenants() const { return state_.tenants; }
  const CostModel& cost_model(int32_t model) const { return state_.models[model].cost; }
  // The predicted wait of a request that is queued now, before its first step (queue_delay.h). 0
  // while too few steps have run for a prediction. Takes a few nanoseconds for each running
  // sequence, because the engine publishes this value in every round.
  int64_t PredictQueueDelayUs() const;
  // The predicted time to compute `num_tokens` prompt tokens of a model while nothing else runs.
  double PredictPrefillUs(int32_t model, int64_t num_tokens) const;
  // CHECK-fails unless lists, the positions in them and the sums over sequences agree.
  void CheckInvariants() const;

 private:
  void StartWaiting(Sequence* sequence);
  void StopWaiting(Sequence* sequence);
  void Preempt(Sequence* sequence);
  void BackToQueue(Sequence* sequence);
  void TakeOffDevice(Sequence* sequence);
  // If the sequence blocks the queue as its model's refused sequence, unblocks the queue.
  void Forgive(const Sequence* sequence);
  // Gives a waiting sequence a slot and its prefix hit, and acquires its need. REQUIRES: the need
  // is ready.
  void Admit(Sequence* sequence);
  void CountAdmission(Sequence* sequence);
  bool Grow(const PlanEntry& entry);
  void DropEntry(const PlanEntry& entry);
  // Removes the entries whose sequence is null from the plan, and computes the plan's cost again.
  void Shrink(StepPlan* plan) const;
  void BringNeed(Sequence* sequence);
  // What the entry adds to the cost of a step. `is_new_need`: no earlier entry has its need.
  StepCost CostOf(const PlanEntry& entry, bool is_new_need) const;
  // Divides the time of a step among the tenants of its sequences.
  void ChargeTenants(const StepPlan& plan, double step_us);
  // Updates a sequence's share of the sums over running sequences.
  void Recount(Sequence* sequence);
  int64_t RoomTokens(const Sequence& sequence) const;
  RunningShare ShareOf(const Sequence& sequence) const;
  void AddShare(const Sequence& sequence, int sign);
  // Predicts the end of a running sequence, unless the last prediction still holds.
  void PredictEnd(Sequence* sequence);
  void ForgetEnd(Sequence* sequence);
  // `num_starting`: the number of waiting sequences that a free slot awaits; -1 leaves out ends_us.
  DelayShare DelayShareOf(int32_t model, int64_t num_starting) const;
  // The number of running sequences that must end before the pool has pages for all that waits and
  // for a further request; 0 if it has them now.
  int64_t NumEndsForPages() const;
  bool IsReady(const Sequence& sequence) const { return residency_->IsReady(sequence.need); }

  KvManager* const kv_;
  Residency* const residency_;
  const Clock* const clock_;
  SchedulerStats* const stats_;
  SchedulerState state_;
  const std::unique_ptr<QueuePolicy> policy_;
  WaitingQueue queue_;
  PlanScratch scratch_;
  int64_t num_arrived_ = 0;  // number of sequences that arrived since the last plan
};

}  // namespace tessera

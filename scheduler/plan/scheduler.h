// Decides what the next step computes: which model, which sequences, how many tokens of each. It
// knows four things: tokens to compute, pages, slots, and whether a sequence is held back.
// Everything about memory goes through KvManager's verbs and Residency, everything about time
// through CostModel. Plan works on scratch (planner.h); Commit makes what was planned true.
//
// The rules (scheduler/README.md argues them):
//  1. The model that has used the least device time steps next.
//  2. Every running sequence that has one token to compute gets it in every step of its model.
//  3. What is left of the token budget goes to prompts, oldest first, cut so that the predicted
//     step time stays bounded while streams run; then to admitting waiting sequences in the
//     policy's order.
//  4. A sequence is admitted only if its whole prompt fits beside what running prompts still need,
//     plus a watermark; none is admitted, of any model, before one ahead of it that was refused.
//     One that does not fit although nothing runs ends with an error.
//  5. When a running sequence cannot grow, the running sequence that would be served last is
//     preempted by recompute.
//  6. A waiting sequence whose need is not in the pool waits for that, and does not block those
//     after it unless the pool has no room for the need. Needs are brought ahead of their turn,
//     whether or not a slot is free.
//  7. A waiting sequence whose prefix is being computed right now waits for it.
//
// Owned by the engine core, engine thread only.
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
  // `policy`: null is the one that the options name.
  Scheduler(const SchedulerOptions& options, size_t num_models, KvManager* kv, Residency* residency,
            const Clock* clock, SchedulerStats* stats,
            std::unique_ptr<QueuePolicy> policy = nullptr);

  // Takes a new sequence into the queue.
  void Enqueue(Sequence* sequence);
  // Takes a sequence out for good and gives its slot and pages back. REQUIRES: num_steps == 0.
  void Remove(Sequence* sequence);
  // Holds a sequence back or lets it go on.
  void SetPaused(Sequence* sequence, bool paused);
  // Takes a paused sequence off the device: its pages become evictable. REQUIRES: paused,
  // num_steps == 0.
  void Park(Sequence* sequence);
  // The pages of a running sequence hold KV of its tokens [0, num_computed), but that of `holes`,
  // and of the holes that it has, must be computed again. REQUIRES: no step computes for it; holes
  // ascend, are apart and not below what it has computed; its pages reach; nothing of its prompt is
  // scored or embedded.
  void TakeComputed(Sequence* sequence, int64_t num_computed, absl::Span<const TokenRange> holes);

  // One step, on scratch; empty when nothing can run.
  StepPlan Plan();
  // Preempts, admits, takes pages, files those that wait, brings needs. Entries for which there
  // turned out to be no pages are dropped.
  void Commit(StepPlan* plan);
  // A plan that is committed. What was preempted for nothing makes room for another plan.
  StepPlan Schedule();
  // A committed plan's step was launched; an entry's step has retired.
  void OnLaunched(const StepPlan& plan);
  void OnRetired(const PlanEntry& entry);
  // A sequence has got a token, or its KV has advanced.
  void OnAdvanced(Sequence* sequence) { Recount(sequence); }
  // Tells the measured time of a step that Schedule planned.
  void OnStepDone(const StepPlan& plan, int64_t step_us);

  // Files the sequences whose needs or prefixes have settled. What cannot be brought is returned:
  // sequences that need it fail.
  std::vector<NeedChange> Wake();
  std::vector<Sequence*> WaitingFor(NeedId need) const { return queue_.WithNeed(need); }
  // Slabs that nobody but running sequences may take, and whether nothing runs: for Residency.
  int64_t NumReservedSlabs() const {
    return ReserveSlabs(state_.options, *kv_, state_.outstanding_slabs);
  }
  bool IsAlone() const { return state_.num_running == 0; }

  int64_t num_running() const { return state_.num_running; }
  int64_t num_waiting() const { return queue_.size(); }
  // In no order; linear. For tests and failures.
  std::vector<Sequence*> Running() const;
  std::vector<Sequence*> Waiting() const { return queue_.All(); }
  const QueuePolicy& policy() const { return *policy_; }
  const CostModel& cost_model(int32_t model) const { return state_.models[model].cost; }
  // Predicted wait of a request that would be queued now. Constant time: the engine tells it after
  // every step.
  int64_t PredictQueueDelayUs() const;
  // Predicted time to compute `num_tokens` prompt tokens of a model, alone.
  double PredictPrefillUs(int32_t model, int64_t num_tokens) const;
  // CHECK-fails unless lists, places in them and running sums agree.
  void CheckInvariants() const;

 private:
  void StartWaiting(Sequence* sequence);
  void StopWaiting(Sequence* sequence);
  void Preempt(Sequence* sequence);
  void BackToQueue(Sequence* sequence);
  void TakeOffDevice(Sequence* sequence);
  void Forgive(const Sequence* sequence);  // it no longer blocks the queue
  // Takes slot, hit and need of a waiting sequence. REQUIRES: its need is ready.
  void Admit(Sequence* sequence);
  void CountAdmission(Sequence* sequence);
  bool Grow(const PlanEntry& entry);
  void DropEntry(const PlanEntry& entry);
  // Removes the entries without a sequence from the plan and its cost.
  void Shrink(StepPlan* plan) const;
  void BringNeed(Sequence* sequence);
  // Brings a sequence's share of the sums up to date.
  void Recount(Sequence* sequence);
  int64_t RoomTokens(const Sequence& sequence) const;
  RunningShare ShareOf(const Sequence& sequence) const;
  void AddShare(const Sequence& sequence, int sign);
  bool IsReady(const Sequence& sequence) const { return residency_->IsReady(sequence.need); }

  KvManager* const kv_;
  Residency* const residency_;
  const Clock* const clock_;
  SchedulerStats* const stats_;
  const std::unique_ptr<QueuePolicy> policy_;
  SchedulerState state_;
  WaitingQueue queue_;
  PlanScratch scratch_;
  int64_t num_arrived_ = 0;  // since the last plan
  // Mean time between admissions while the queue was full, for the delay estimate.
  int64_t last_admission_us_ = 0;
  double admission_interval_us_ = 0.0;
};

}  // namespace tessera

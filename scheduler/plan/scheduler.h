// Decides what the next step computes: which model, which sequences, how many tokens of each. It
// knows four things: tokens to compute, pages, slots, and whether a sequence is held back.
// Everything about memory goes through KvManager's verbs, everything about time through CostModel.
//
// The rules (scheduler/README.md argues them):
//  1. The model that has used the least device time steps next.
//  2. Every running sequence that has one token to compute gets it in every step of its model.
//  3. What is left of the token budget goes to prompts, oldest first, cut so that the predicted
//  step time stays bounded
//     while streams run; then to admitting waiting sequences in the policy's order.
//  4. A sequence is admitted only if its whole prompt fits beside what running prompts still need,
//  plus a watermark; none is admitted, of any model, before one ahead of it that was refused.
//  5. When a running sequence cannot grow, the running sequence that would be served last is
//  preempted by recompute.
//  6. A waiting sequence whose adapter is not in the pool waits for that, and does not block those
//  behind it unless the pool has no room for the adapter.
//  7. A waiting sequence whose prefix is being computed right now waits for it.
//
// Owned by the engine core, engine thread only.
#pragma once

#include <memory>
#include <vector>

#include "kernels/base/clock.h"
#include "scheduler/plan/cost_model.h"
#include "scheduler/plan/queue_policy.h"
#include "scheduler/plan/scheduler_options.h"
#include "scheduler/plan/sequence.h"
#include "scheduler/residency/adapters/adapter_store.h"

namespace tessera {

struct PlanEntry {
  Sequence* sequence = nullptr;
  int64_t begin = 0;  // first token to compute
  int32_t num_tokens = 0;
  bool samples = false;  // the segment ends at the sequence's last token: a new token comes of it
  // Prompt logprobs: rows of tokens [target_begin, target_begin + num_targets) score the prompt
  // token after them.
  int64_t target_begin = 0;
  int32_t num_targets = 0;
};

struct StepPlan {
  int32_t model = -1;
  std::vector<PlanEntry> entries;
  StepCost cost;
  std::vector<AdapterId> adapters;  // the distinct ones of the entries
  double most_us = 0.0;             // prompts are cut to it; 0: no bound

  bool empty() const { return entries.empty(); }
};

class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, int32_t num_models, KvManager* kv, const Clock* clock,
            SchedulerStats* stats);
  // Before any request has an adapter.
  void set_adapters(AdapterStore* adapters) { adapters_ = adapters; }

  // Takes a new sequence into the queue.
  void Enqueue(Sequence* sequence);
  // Takes a sequence out for good and gives its slot and pages back. REQUIRES: num_inflight == 0.
  void Remove(Sequence* sequence);
  // Holds a sequence back or lets it go on.
  void SetPaused(Sequence* sequence, bool paused);
  // Takes a paused sequence off the device: its pages become evictable. REQUIRES: paused,
  // num_inflight == 0.
  void Park(Sequence* sequence);

  // Plans one step; empty when nothing can run. Admits and preempts on the way.
  StepPlan Schedule();
  // Tells the measured time of a step that Schedule planned.
  void OnStepDone(const StepPlan& plan, int64_t step_us);

  const std::vector<Sequence*>& running() const { return running_; }
  const std::vector<Sequence*>& waiting() const { return waiting_; }
  // Brings an adapter nearer to the pool, with room left for what runs.
  AdapterStore::Access BringAdapter(AdapterId id);
  // Predicted wait of a request that would be queued now. Costs nothing per waiting sequence: the
  // engine tells it after every step.
  int64_t PredictQueueDelayUs() const;
  // Predicted time to compute `num_tokens` prompt tokens of a model, alone.
  double PredictPrefillUs(int32_t model, int64_t num_tokens) const;
  // CHECK-fails unless lists, places in them and running sums agree.
  void CheckInvariants() const;
  const CostModel& cost_model(int32_t model) const { return models_[model].cost; }

 private:
  struct ModelState {
    CostModel cost;
    double used_us = 0.0;  // device time since all models were idle, for rule 1
    // The first in its queue, when it was refused for pages: nobody behind it is admitted,
    // whichever model it is for. Null once it is admitted, leaves or is held back.
    const Sequence* refused = nullptr;
    StepCost waiting;     // of the prompts that wait and are not paused
    bool active = false;  // at the last Schedule: had work, and some of it could run
  };

  std::vector<int32_t> ModelOrder();
  bool IsComputing(int32_t model) const;  // a launched step of the model has not retired
  StepPlan PlanModel(int32_t model);
  void PlanDecodes(int32_t model, StepPlan* plan);
  // How long a step with these streams may become by prompts beside them; 0: no bound.
  double MostStepUs(const StepPlan& streams) const;
  void PlanPrefills(int32_t model, StepPlan* plan);
  void PlanAdmissions(int32_t model, StepPlan* plan);
  bool IsBehindRefused(const Sequence& sequence, int64_t now_us) const;
  bool IsAwaiting(Sequence* sequence) const;
  void LearnFromCopy(const Sequence& copy, Sequence* sequence) const;
  // Whether the sequence's adapter is in the pool; else it is brought nearer, while *lookahead
  // lasts. *queue_blocked: it has no room, and nobody behind may take what becomes free.
  bool AdapterReady(Sequence* sequence, int* lookahead, bool* queue_blocked);
  bool TryAdmit(Sequence* sequence, StepPlan* plan, bool* queue_blocked);
  // Room for tokens [0, num_tokens), preempting others if needed; false if `sequence` itself had to
  // go.
  bool GrowOrPreempt(Sequence* sequence, int64_t num_tokens, const StepPlan& plan);
  void Preempt(Sequence* sequence);
  void BackToQueue(Sequence* sequence);
  void PushWaiting(Sequence* sequence);
  void PopWaiting(Sequence* sequence);
  void CountWaiting(const Sequence& sequence, int sign);
  void TakeOffDevice(Sequence* sequence);
  // Tokens of a prompt that may join the plan: within the budget and the step-time target.
  int64_t ChunkTokens(const StepPlan& plan, const Sequence& sequence, int64_t begin,
                      int64_t wanted) const;
  // The plan's cost with one more segment.
  StepCost CostWith(const StepPlan& plan, const Sequence& sequence, int64_t num_tokens,
                    int64_t context_length, int64_t logit_rows) const;
  void AddEntry(Sequence* sequence, int64_t num_tokens, StepPlan* plan);
  bool Runnable(const Sequence& sequence) const;
  int64_t PromptSlabs(int32_t model, int64_t num_tokens) const;
  int64_t PromptSlabsOutstanding() const;
  int64_t WatermarkSlabs() const;

  const SchedulerOptions options_;
  KvManager* const kv_;
  AdapterStore* adapters_ = nullptr;
  const Clock* const clock_;
  SchedulerStats* const stats_;
  const std::unique_ptr<QueuePolicy> policy_;
  int64_t num_arrived_ = 0;  // since the last plan
  int64_t num_admitted_ = 0;
  std::vector<ModelState> models_;
  std::vector<Sequence*> running_;   // in admission order
  std::vector<Sequence*> waiting_;   // unordered (the policy orders), each at its queue_index
  int64_t num_ready_ = 0;            // of the waiting ones, not paused
  std::vector<int32_t> free_slots_;  // lowest last
  // Mean time between admissions while the queue was full, for the delay estimate.
  int64_t last_admission_us_ = 0;
  double admission_interval_us_ = 0.0;
};

}  // namespace tessera

// The state of the scheduler between plans: the running sequences of each model, sums over these
// sequences, and the free slots. The planner only reads this state.
//
// Owned and changed by the scheduler; engine thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

#include "scheduler/plan/cost_model.h"
#include "scheduler/plan/output_lengths.h"
#include "scheduler/plan/queue_delay.h"
#include "scheduler/plan/scheduler_options.h"
#include "scheduler/plan/sequence.h"
#include "scheduler/plan/step_plan.h"
#include "scheduler/plan/tenant_accounts.h"

namespace tessera {

// Running sequences of one model in the order of their admission. Remove takes amortised O(1).
class RunningList final {
 public:
  void Add(Sequence* sequence);
  void Remove(Sequence* sequence);
  int64_t size() const { return size_; }

  template <class Visit>
  void ForEach(Visit visit) const {
    const size_t size = sequences_.size();
    for (size_t i = 0; i < size; ++i) {
      if (i + 2 * kPrefetchTurns < size) PrefetchSequence(sequences_[i + 2 * kPrefetchTurns]);
      if (i + kPrefetchTurns < size) PrefetchRequest(sequences_[i + kPrefetchTurns]);
      if (sequences_[i] != nullptr) visit(sequences_[i]);
    }
  }
  // Visits sequences until `visit` returns false.
  template <class Visit>
  void ForEachWhile(Visit visit) const {
    for (Sequence* s : sequences_) {
      if (s != nullptr && !visit(s)) return;
    }
  }

 private:
  static void PrefetchRequest(const Sequence* sequence) {
    if (sequence != nullptr) __builtin_prefetch(sequence->request);
  }

  std::vector<Sequence*> sequences_;  // null where a sequence was removed
  int64_t size_ = 0;
};

struct SchedulerState {
  struct Model {
    CostModel cost;
    ModelTurn turn;
    RunningList running;
    int64_t num_unpaused = 0;  // running sequences that are not paused
    int64_t num_inflight = 0;  // launched steps that have not retired
    bool has_windows = false;  // some KV group of the model has an attention window
    StepCost prompts;          // sum of RunningShare::prompt over the running sequences
    // For the predicted queue delay.
    int64_t num_tokens = 0;      // sum of RunningShare::num_tokens over the running sequences
    int64_t num_steps = 0;       // steps that have retired
    StepCost last_step;          // cost of the last step that was launched
    OutputLengths lengths;       // of the sequences that have ended
    PredictedEnds ends;          // of the running sequences
    double prompt_tokens = 0.0;  // mean of the recent admissions
    double cached_tokens = 0.0;  // mean prompt tokens of a recent admission in the prefix cache
  };
  using Slots = std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>>;

  explicit SchedulerState(const SchedulerOptions& its_options, size_t num_models)
      : options(its_options), models(num_models), tenants(its_options.max_num_seqs) {}

  const SchedulerOptions options;
  std::vector<Model> models;
  TenantAccounts tenants;
  int64_t num_running = 0;
  int64_t outstanding_slabs = 0;  // sum of RunningShare::outstanding_slabs of running sequences
  Slots free_slots;               // the lowest free slot is on top
};

}  // namespace tessera

// What the scheduler knows between plans: the running sequences by model, sums over them, free
// slots. The planner reads it, the scheduler alone changes it.
//
// Engine thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

#include "scheduler/plan/cost_model.h"
#include "scheduler/plan/scheduler_options.h"
#include "scheduler/plan/sequence.h"
#include "scheduler/plan/step_plan.h"

namespace tessera {

// Running sequences of one model in the order of their admission. Leaving is O(1) amortised.
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
  // Visits until one answers false.
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

  std::vector<Sequence*> sequences_;  // null where one has left
  int64_t size_ = 0;
};

struct SchedulerState {
  struct Model {
    CostModel cost;
    ModelTurn turn;
    RunningList running;
    int64_t num_unpaused = 0;  // of the running ones
    int64_t num_inflight = 0;  // launched steps
    bool has_windows = false;  // in some KV group
    StepCost prompts;          // to compute, of running sequences; sums over their steps
  };
  using Slots = std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>>;

  explicit SchedulerState(const SchedulerOptions& its_options, size_t num_models)
      : options(its_options), models(num_models) {}

  const SchedulerOptions options;
  std::vector<Model> models;
  int64_t num_running = 0;
  int64_t outstanding_slabs = 0;  // that running prompts still need
  Slots free_slots;               // the lowest is handed out first
};

}  // namespace tessera

// A plan lists the work of the next step, and the changes of the scheduler's state that the step
// requires. The planner makes a plan on scratch. Nothing changes before Scheduler::Commit, and a
// plan that is dropped leaves no trace.
//
// The engine core owns a plan until its step has retired; engine thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "scheduler/plan/cost_model.h"
#include "scheduler/plan/sequence.h"

namespace tessera {

// The tokens that the step computes for one sequence.
struct PlanEntry {
  Sequence* sequence = nullptr;
  // Tokens to compute, in ascending order. A sequence with holes may have more than one range.
  absl::InlinedVector<TokenRange, 1> ranges;
  bool admits = false;  // the sequence waits until Commit admits it
  // The last range ends at the sequence's last token, so the step samples a new token.
  bool samples = false;
  // For prompt logprobs: each logit row of the tokens [target_begin, target_begin + num_targets)
  // scores the prompt token after its token.
  int64_t target_begin = 0;
  int32_t num_targets = 0;

  int64_t begin() const { return ranges.front().begin; }
  int64_t end() const { return ranges.back().end; }
  int64_t num_tokens() const {
    int64_t num_tokens = 0;
    for (const TokenRange& range : ranges) num_tokens += range.size();
    return num_tokens;
  }
};

// Visits the entries in order, and prefetches their sequences into the CPU cache.
template <class Visit>
void ForEachEntry(const std::vector<PlanEntry>& entries, Visit visit) {
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i + kPrefetchTurns < entries.size()) {
      PrefetchSequence(entries[i + kPrefetchTurns].sequence);
    }
    visit(entries[i]);
  }
}

// The device time that a model has used, and the waiting sequence that blocks the queue.
struct ModelTurn {
  double used_us = 0.0;  // device time since the last moment at which all models were idle
  bool active = false;   // the model had something to run when the last plan was made
  // A waiting sequence of the model for which the pool has too few pages. Sequences of all models
  // after it in the queue's order are not admitted.
  const Sequence* refused = nullptr;
};

struct StepPlan {
  struct Wait {
    Sequence* sequence = nullptr;
    PageHash page;  // a page of the sequence's prefix that another sequence computes
  };

  int32_t model = -1;
  std::vector<PlanEntry> entries;
  StepCost cost;
  // The step runs these ops before its layers; their pages are held until the step has retired.
  std::vector<PageOp> page_ops;
  double most_us = 0.0;  // the target step time that prompt chunks are cut to; 0: no bound

  // Further changes that Commit makes.
  std::vector<Sequence*> preempted;
  std::vector<Wait> waits;       // sequences that will wait for a page of their prefix
  std::vector<Sequence*> wants;  // sequences whose needs are to be loaded, in the queue's order
  std::vector<ModelTurn> turns;  // [models]
  // Sequences that do not fit although nothing else runs: the engine ends them.
  std::vector<Sequence*> unfit;

  bool empty() const { return entries.empty(); }
};

}  // namespace tessera

// What the next step computes, and what must change for it. A plan is made on scratch: nothing has
// changed until Scheduler::Commit, and a plan that is dropped leaves no trace.
//
// Engine thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "scheduler/plan/cost_model.h"
#include "scheduler/plan/sequence.h"

namespace tessera {

struct PlanEntry {
  Sequence* sequence = nullptr;
  // Tokens to compute, ascending. More than one range when the sequence has holes.
  absl::InlinedVector<TokenRange, 1> ranges;
  bool admits = false;  // it waited until now
  bool samples =
      false;  // the last range ends at the sequence's last token: a new token comes of it
  // Prompt logprobs: rows of tokens [target_begin, target_begin + num_targets) score the prompt
  // token after them.
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

// Visits entries in their order, and fetches their sequences ahead.
template <class Visit>
void ForEachEntry(const std::vector<PlanEntry>& entries, Visit visit) {
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i + kPrefetchTurns < entries.size()) {
      PrefetchSequence(entries[i + kPrefetchTurns].sequence);
    }
    visit(entries[i]);
  }
}

// A model's share of the device, and who blocks the queue.
struct ModelTurn {
  double used_us = 0.0;               // device time since all models were idle
  bool active = false;                // it had something to run
  const Sequence* refused = nullptr;  // no pages for it: those after it in the queue wait
};

struct StepPlan {
  struct Wait {
    Sequence* sequence = nullptr;
    PageHash page;  // of its prefix, which another sequence computes
  };

  int32_t model = -1;
  std::vector<PlanEntry> entries;
  StepCost cost;
  std::vector<PageOp> page_ops;  // run first; the pages are held until the step has retired
  double most_us = 0.0;          // prompts are cut to it; 0: no bound

  // Changes that Commit makes besides.
  std::vector<Sequence*> preempted;
  std::vector<Wait> waits;
  std::vector<Sequence*> wants;  // whose needs are to be brought, in the queue's order
  std::vector<ModelTurn> turns;  // of all models
  // Sequences that do not fit although nothing else runs: the engine ends them.
  std::vector<Sequence*> unfit;

  bool empty() const { return entries.empty(); }
};

}  // namespace tessera

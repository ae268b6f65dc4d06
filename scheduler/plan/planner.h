// Makes one plan on scratch, by the rules of scheduler.h. The planner reads the scheduler's state,
// the waiting queue and the KV store. It changes none of them, except that it memoises the hashes
// of a prompt's pages in the sequence.
//
// The planner counts pages and does not take them. It counts free pages, cached pages, pages of
// idle needs, and pages that preemption would free. When models have pages of different sizes, the
// number of pages that preemption frees is an estimate; Commit drops the entries that then lack
// pages.
//
// Scheduler::Plan creates a planner for one plan; engine thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "scheduler/plan/queue.h"
#include "scheduler/plan/scheduler_state.h"
#include "scheduler/plan/slabs.h"
#include "scheduler/plan/step_plan.h"

namespace tessera {

// The planner's scratch. The scheduler keeps it from plan to plan, so planning allocates little.
struct PlanScratch {
  KvScratch kv;
  // [max_num_seqs]: 1 if the plan computes or preempts the sequence in the slot.
  std::vector<uint8_t> marks;
  absl::flat_hash_set<NeedId> needs;   // needs of the plan's entries
  absl::flat_hash_set<NeedId> wanted;  // needs of the sequences in StepPlan::wants
  // Heap of the sequences that may be preempted; its top has the largest key.
  std::vector<std::pair<QueueKey, Sequence*>> worst;
  std::vector<Sequence*> decodes;                     // sequences with one token to compute
  std::vector<std::pair<QueueKey, Sequence*>> keyed;  // `decodes` with their keys, for sorting
};

class Planner final {
 public:
  Planner(const SchedulerState& state, const WaitingQueue& queue, const QueuePolicy& policy,
          const KvManager& kv, const Residency& residency, int64_t now_us, PlanScratch* scratch);

  StepPlan Run();

 private:
  using Model = SchedulerState::Model;

  std::vector<int32_t> ModelOrder();
  void StartModel(int32_t model);
  void PlanModel(int32_t model);
  void PlanDecodes();
  void FreeSlotsForShares();
  // By tenant: sequences that take slots in this plan, less those that lose them.
  using SlotChanges = absl::flat_hash_map<int32_t, int64_t>;
  // Null: no tenant has more than its share of the slots, or a step computes for its sequences.
  Sequence* SlotVictim(const SlotChanges& changes) const;
  void PlanPrefills();
  bool PlanPrefill(Sequence* sequence);
  void PlanAdmissions(double limit, WaitingQueue::Cursor* cursor);
  bool IsPrompt(const Sequence& sequence) const;
  // The smallest share of a tenant with a running prompt; infinite without one.
  double LeastPromptShare() const;
  // Whether its tenant may have one more running sequence.
  bool MayRun(const Sequence& sequence) const;
  double MostStepUs() const;

  // ConsiderNeedy, ConsiderReady, ConsiderWaiting, TryAdmit and Refuse return false if the planner
  // must look at no further waiting sequence.
  bool ConsiderNeedy(Sequence* sequence, WaitingQueue::Cursor* cursor);
  bool ConsiderReady(Sequence* sequence);
  int64_t AwaitedPages();
  bool ConsiderWaiting(Sequence* sequence, WaitingQueue::Cursor* cursor);
  bool TryAdmit(Sequence* sequence);
  bool Refuse(Sequence* sequence);
  void LearnFromCopy(Sequence* sequence);
  bool IsAfterRefused(const Sequence& sequence) const;

  // Counts the pages that a running sequence lacks for tokens [0, num_tokens) as taken. Returns
  // false and changes nothing if too few pages are available.
  bool Take(const Sequence& sequence, int64_t num_tokens);
  bool TakeOrPreempt(Sequence* sequence, int64_t num_tokens);
  Sequence* NextVictim();
  void Preempt(Sequence* sequence);
  int64_t PagesBack(const Sequence& sequence) const;

  bool Runnable(const Sequence& sequence) const;
  // The number of prompt tokens from `begin` on, at most `wanted`, that the plan may add within
  // the token budget and the step-time target.
  int64_t ChunkTokens(const Sequence& sequence, int64_t begin, int64_t wanted) const;
  // Adds a segment to the plan's cost.
  void AddCost(const Sequence& sequence, int64_t num_tokens, int64_t context_length,
               int64_t logit_rows, StepCost* cost) const;
  void SortDecodes();
  // Pages that a running sequence lacks for tokens [0, num_tokens).
  int64_t PagesLacking(const Sequence& sequence, int64_t num_tokens) const {
    return num_tokens <= sequence.room_tokens ? 0 : kv_.PagesToGrow(sequence.kv, num_tokens);
  }
  void AddEntry(Sequence* sequence, int64_t first, int64_t num_tokens, bool admits);
  int64_t PromptSlabs(int64_t num_tokens) const;
  int64_t NumReservedSlabs() const { return ReserveSlabs(state_.options, kv_, outstanding_slabs_); }
  bool IsAlone() const { return num_running_ == 0; }

  const SchedulerState& state_;
  const WaitingQueue& queue_;
  const QueuePolicy& policy_;
  const KvManager& kv_;
  const Residency& residency_;
  const int64_t now_us_;
  PlanScratch* const scratch_;
  StepPlan plan_;

  // StartModel resets the members below for the model that the planner tries next.
  int32_t model_ = -1;
  int64_t available_pages_ = 0;
  int64_t outstanding_slabs_ = 0;
  int64_t num_running_ = 0;
  int64_t num_free_slots_ = 0;
  bool victims_ranked_ = false;
  bool has_tenants_ = false;  // several tenants with work divide the device
  bool makes_pages_ = false;  // the plan preempts to free pages
  // Sequences that the plan admits, by tenant; of tenants with a limit.
  absl::flat_hash_map<int32_t, int64_t> admitted_of_;
  int64_t lookahead_ = 0;        // number of further needs that the plan may bring to the pool
  int64_t num_needy_looks_ = 0;  // number of further sequences that it may search for such needs
  std::optional<int64_t> awaited_pages_;
  const Sequence* last_considered_ = nullptr;
  std::optional<PageHash> last_waits_for_;
};

// The part of the tokens [begin, end) whose logit rows score the next prompt token.
Range ScoredTokens(const Sequence& sequence, int64_t begin, int64_t end);

}  // namespace tessera

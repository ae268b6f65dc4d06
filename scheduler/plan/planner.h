// Makes one plan on scratch: reads the scheduler's state, the queue and the store, changes none of
// them (but memos: the names of a prompt's pages). The rules are those of scheduler.h.
//
// Pages are counted, not taken: free and cached ones, those of idle needs, and those that
// preemption would give back. With pages of several sizes the count of what others give back is an
// estimate; Commit drops what does not come true.
//
// A planner lives for one plan; engine thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "scheduler/plan/queue.h"
#include "scheduler/plan/scheduler_state.h"
#include "scheduler/plan/step_plan.h"

namespace tessera {

// Kept from plan to plan for its memory.
struct PlanScratch {
  KvScratch kv;
  std::vector<uint8_t> marks;                         // by slot: planned or preempted
  absl::flat_hash_set<NeedId> needs;                  // of the entries
  absl::flat_hash_set<NeedId> wanted;                 // of the plan's wants
  std::vector<std::pair<QueueKey, Sequence*>> worst;  // a heap: who is preempted next
  std::vector<Sequence*> decodes;
  std::vector<std::pair<QueueKey, Sequence*>> keyed;  // decodes that must be sorted
};

// Slabs that only running sequences may take: `outstanding_slabs`, which their prompts still need,
// and the watermark.
int64_t ReserveSlabs(const SchedulerOptions& options, const KvManager& kv,
                     int64_t outstanding_slabs);

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
  void PlanPrefills();
  void PlanAdmissions();
  double MostStepUs() const;

  // Answers whether the walk through the queue goes on.
  bool ConsiderNeedy(Sequence* sequence, WaitingQueue::Cursor* cursor);
  bool ConsiderReady(Sequence* sequence);
  int64_t AwaitedPages();
  bool ConsiderWaiting(Sequence* sequence, WaitingQueue::Cursor* cursor);
  bool TryAdmit(Sequence* sequence);
  bool Refuse(Sequence* sequence);
  void LearnFromCopy(Sequence* sequence);
  bool IsAfterRefused(const Sequence& sequence) const;

  // Counts pages for tokens [0, num_tokens) of a running sequence.
  bool Take(const Sequence& sequence, int64_t num_tokens);
  bool TakeOrPreempt(Sequence* sequence, int64_t num_tokens);
  Sequence* NextVictim();
  void Preempt(Sequence* sequence);
  int64_t PagesBack(const Sequence& sequence) const;

  bool Runnable(const Sequence& sequence) const;
  // Tokens of a prompt that may join the plan: within the budget and the step-time target.
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

  // Of the model that is being planned.
  int32_t model_ = -1;
  int64_t available_pages_ = 0;
  int64_t outstanding_slabs_ = 0;
  int64_t num_running_ = 0;
  int64_t num_free_slots_ = 0;
  bool victims_ranked_ = false;
  int64_t lookahead_ = 0;        // needs that may be asked for
  int64_t num_needy_looks_ = 0;  // sequences that may be looked at for it
  std::optional<int64_t> awaited_pages_;
  const Sequence* last_considered_ = nullptr;
  std::optional<PageHash> last_waits_for_;
};

// The prompt tokens [begin, end) of a segment whose rows score the token after them.
Range ScoredTokens(const Sequence& sequence, int64_t begin, int64_t end);
int64_t HeldSlabs(const KvState& state, const PageLayout& layout);

}  // namespace tessera

#include "scheduler/plan/scheduler.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

constexpr double kIntervalSmoothing = 0.1;

}  // namespace

void RunningList::Add(Sequence* sequence) {
  CHECK_EQ(sequence->running_index, -1);
  sequence->running_index = static_cast<int32_t>(sequences_.size());
  sequences_.push_back(sequence);
  ++size_;
}

void RunningList::Remove(Sequence* sequence) {
  const int32_t index = std::exchange(sequence->running_index, -1);
  CHECK(sequences_.at(index) == sequence);
  sequences_[index] = nullptr;
  --size_;
  if (static_cast<int64_t>(sequences_.size()) < 2 * size_ + 16) return;
  sequences_.erase(std::remove(sequences_.begin(), sequences_.end(), nullptr), sequences_.end());
  for (size_t i = 0; i < sequences_.size(); ++i) {
    sequences_[i]->running_index = static_cast<int32_t>(i);
  }
}

Scheduler::Scheduler(const SchedulerOptions& options, size_t num_models, KvManager* kv,
                     Residency* residency, const Clock* clock, SchedulerStats* stats,
                     std::unique_ptr<QueuePolicy> policy)
    : kv_(kv),
      residency_(residency),
      clock_(clock),
      stats_(stats),
      policy_(policy != nullptr ? std::move(policy) : NewQueuePolicy(options)),
      state_(options, num_models),
      queue_(policy_.get(), num_models, options.max_num_batched_tokens) {
  CHECK_GE(options.max_num_batched_tokens, options.max_num_seqs)
      << "each running stream needs a token in each step";
  for (size_t m = 0; m < num_models; ++m) {
    const std::vector<GroupLayout>& groups = kv->layout(static_cast<int32_t>(m)).groups;
    state_.models[m].has_windows =
        absl::c_any_of(groups, [](const GroupLayout& group) { return group.window > 0; });
  }
  for (int32_t slot = 0; slot < options.max_num_seqs; ++slot) state_.free_slots.push(slot);
}

void Scheduler::Enqueue(Sequence* sequence) {
  ++num_arrived_;
  StartWaiting(sequence);
}

void Scheduler::StartWaiting(Sequence* sequence) {
  queue_.Insert(sequence, IsReady(*sequence));
  residency_->AddWaiter(sequence->need);
}

void Scheduler::StopWaiting(Sequence* sequence) {
  queue_.Erase(sequence);
  residency_->DropWaiter(sequence->need);
}

void Scheduler::SetPaused(Sequence* sequence, bool paused) {
  if (sequence->paused == paused) return;
  sequence->paused = paused;
  if (sequence->place != QueuePlace::kNone) {
    queue_.SetPaused(sequence, paused, IsReady(*sequence));
  } else {
    state_.models[sequence->request->model].num_unpaused += paused ? -1 : 1;
    // If a step still computes for the sequence, the engine core parks it when that step retires.
    if (paused && sequence->num_steps == 0) Park(sequence);
  }
  Forgive(sequence);
}

void Scheduler::Forgive(const Sequence* sequence) {
  const Sequence*& refused = state_.models[sequence->request->model].turn.refused;
  if (refused == sequence) refused = nullptr;
}

void Scheduler::TakeOffDevice(Sequence* sequence) {
  CHECK_EQ(sequence->num_steps, 0);
  SchedulerState::Model& model = state_.models[sequence->request->model];
  AddShare(*sequence, -1);
  sequence->share = {};
  kv_->Release(&sequence->kv);
  residency_->Release(sequence->need);
  state_.free_slots.push(std::exchange(sequence->slot, -1));
  sequence->num_computed = 0;
  sequence->room_tokens = 0;
  sequence->holes.clear();
  sequence->holes_launched = 0;
  model.running.Remove(sequence);
  model.num_unpaused -= sequence->paused ? 0 : 1;
  --state_.num_running;
}

void Scheduler::Remove(Sequence* sequence) {
  if (sequence->slot >= 0) {
    TakeOffDevice(sequence);
    return;
  }
  if (sequence->place == QueuePlace::kNone) return;
  Forgive(sequence);
  StopWaiting(sequence);
}

void Scheduler::Park(Sequence* sequence) {
  if (sequence->slot >= 0) BackToQueue(sequence);
}

void Scheduler::Preempt(Sequence* sequence) {
  ++sequence->num_preemptions;
  stats_->preemptions.Add();
  BackToQueue(sequence);
}

void Scheduler::BackToQueue(Sequence* sequence) {
  TakeOffDevice(sequence);
  sequence->state = SequenceState::kWaiting;
  StartWaiting(sequence);
}

void Scheduler::TakeComputed(Sequence* sequence, int64_t num_computed,
                             absl::Span<const TokenRange> holes) {
  CHECK(sequence->slot >= 0 && sequence->num_steps == 0);
  CHECK(sequence->request->prompt_logprobs < 0 &&
        sequence->request->kind == RequestKind::kGenerate);
  CHECK_GE(num_computed, sequence->num_computed);
  CHECK_LT(num_computed, sequence->num_tokens());
  sequence->room_tokens = RoomTokens(*sequence);
  CHECK_LE(num_computed, sequence->room_tokens);
  int64_t end = sequence->num_computed;
  for (const TokenRange& hole : holes) {
    CHECK(hole.begin >= end && hole.begin < hole.end && hole.end <= num_computed);
    end = hole.end;
  }
  sequence->num_computed = num_computed;
  sequence->holes.insert(sequence->holes.end(), holes.begin(), holes.end());
  sequence->holes_launched = 0;
  kv_->Advance(&sequence->kv, sequence->tokens, sequence->num_final());
  Recount(sequence);
}

StepPlan Scheduler::Plan() {
  return Planner(state_, queue_, *policy_, *kv_, *residency_, clock_->NowUs(), &scratch_).Run();
}

StepPlan Scheduler::Schedule() {
  for (;;) {
    StepPlan plan = Plan();
    const bool gave_back = !plan.preempted.empty();
    Commit(&plan);
    if (!plan.empty() || !gave_back) return plan;
  }
}

void Scheduler::Commit(StepPlan* plan) {
  for (size_t m = 0; m < state_.models.size(); ++m) state_.models[m].turn = plan->turns[m];
  for (Sequence* s : plan->preempted) Preempt(s);
  // Hits are taken before any room is made, so that no eviction takes the hit of an entry.
  int64_t num_admitted = 0;
  for (const PlanEntry& entry : plan->entries) {
    if (!entry.admits) continue;
    Admit(entry.sequence);
    ++num_admitted;
  }
  bool is_whole = true;
  for (PlanEntry& entry : plan->entries) {
    if (Grow(entry)) continue;
    DropEntry(entry);
    entry.sequence = nullptr;
    is_whole = false;
  }
  if (!is_whole) Shrink(plan);
  for (const PlanEntry& entry : plan->entries) {
    if (entry.admits) CountAdmission(entry.sequence);
    policy_->OnServed(*entry.sequence, entry.num_tokens());
  }
  for (const StepPlan::Wait& wait : plan->waits) {
    if (kv_->WatchAnnounced(wait.sequence->request->model, wait.page)) {
      queue_.AwaitPrefix(wait.sequence, wait.page);
    }
  }
  for (Sequence* s : plan->wants) BringNeed(s);
  if (!plan->empty()) plan->page_ops = kv_->TakePageOps(plan->model);
  policy_->OnPlanned(std::exchange(num_arrived_, 0), num_admitted);
}

void Scheduler::Admit(Sequence* s) {
  StopWaiting(s);
  // The need is held first, so that making room for the sequence's tokens cannot evict it.
  residency_->Acquire(s->need);
  kv_->Admit(&s->kv, s->known_tokens());
  s->num_computed = s->kv.num_tokens;
  s->room_tokens = s->kv.num_tokens;
  s->slot = state_.free_slots.top();
  state_.free_slots.pop();
  s->state = SequenceState::kRunning;
  s->TakePrompt();
  SchedulerState::Model& model = state_.models[s->request->model];
  model.running.Add(s);
  ++model.num_unpaused;
  ++state_.num_running;
  Recount(s);
}

void Scheduler::CountAdmission(Sequence* s) {
  if (s->num_preemptions == 0 && s->counts_in_queue) {
    s->cached_prompt_tokens = s->num_computed;
    stats_->prompt_tokens.Add(s->num_prompt);
    stats_->cached_prompt_tokens.Add(s->num_computed);
  }
  const int64_t now_us = clock_->NowUs();
  if (last_admission_us_ > 0 && queue_.size() > 0) {
    const double interval = static_cast<double>(now_us - last_admission_us_);
    admission_interval_us_ += kIntervalSmoothing * (interval - admission_interval_us_);
  }
  last_admission_us_ = now_us;
}

bool Scheduler::Grow(const PlanEntry& entry) {
  Sequence* const s = entry.sequence;
  if (entry.end() <= s->room_tokens) return true;
  const int64_t num_pages = kv_->PagesToGrow(s->kv, entry.end());
  if (!residency_->MakeRoom(s->request->model, num_pages, num_pages)) return false;
  CHECK(kv_->Grow(&s->kv, entry.end()));
  s->room_tokens = RoomTokens(*s);
  Recount(s);
  return true;
}

// The pages that the planner counted on did not come free as whole pages. A running sequence stays
// as it is and is planned again. A sequence that was admitted goes back to the queue and blocks the
// sequences after it.
void Scheduler::DropEntry(const PlanEntry& entry) {
  if (!entry.admits) return;
  BackToQueue(entry.sequence);
  state_.models[entry.sequence->request->model].turn.refused = entry.sequence;
}

void Scheduler::Shrink(StepPlan* plan) const {
  std::vector<PlanEntry>& entries = plan->entries;
  entries.erase(std::remove_if(entries.begin(), entries.end(),
                               [](const PlanEntry& entry) { return entry.sequence == nullptr; }),
                entries.end());
  plan->cost = {};
  NeedId last_need = kNoNeed;  // entries with the same need are adjacent
  for (const PlanEntry& entry : entries) {
    int64_t logit_rows = entry.num_targets + (entry.samples ? 1 : 0);
    const NeedId need = entry.sequence->need;
    for (const TokenRange& range : entry.ranges) {
      plan->cost.AddSegment(range.size(), range.end, std::exchange(logit_rows, 0));
      if (need == kNoNeed) continue;
      plan->cost.AddAdapter(range.size(), residency_->slabs(need), need != last_need);
      last_need = need;
    }
  }
}

void Scheduler::BringNeed(Sequence* s) {
  if (s->place != QueuePlace::kNeedy && s->place != QueuePlace::kReady) return;
  const bool alone = IsAlone();
  const NeedState state = residency_->Want(s->need, alone ? 0 : NumReservedSlabs(), alone);
  if (state == NeedState::kReady) queue_.WakeNeed(s->need, /*ready=*/true);
  if (state == NeedState::kLoading) queue_.AwaitNeed(s);
  if (state == NeedState::kNoRoom) state_.models[s->request->model].turn.refused = s;
}

std::vector<NeedChange> Scheduler::Wake() {
  const auto is_ready = [this](const Sequence& s) { return IsReady(s); };
  for (const auto& [page, model] : kv_->TakeSettled()) queue_.WakePrefix(model, page, is_ready);
  std::vector<NeedChange> changes = residency_->TakeChanges();
  for (const NeedChange& change : changes) {
    queue_.WakeNeed(change.id, residency_->IsReady(change.id));
  }
  return changes;
}

void Scheduler::OnLaunched(const StepPlan& plan) {
  ++state_.models[plan.model].num_inflight;
  ForEachEntry(plan.entries, [this](const PlanEntry& entry) {
    Sequence* const s = entry.sequence;
    for (const TokenRange& range : entry.ranges) s->Launched(range);
    ++s->num_steps;
    if (entry.samples) ++s->num_pending;
    Recount(s);
  });
}

void Scheduler::OnRetired(const PlanEntry& entry) {
  Sequence* const s = entry.sequence;
  for (const TokenRange& range : entry.ranges) s->Retired(range);
  --s->num_steps;
  if (entry.samples) --s->num_pending;
}

void Scheduler::OnStepDone(const StepPlan& plan, int64_t step_us) {
  SchedulerState::Model& model = state_.models[plan.model];
  --model.num_inflight;
  model.turn.used_us += static_cast<double>(step_us);
  model.cost.Observe(plan.cost, static_cast<double>(step_us));
  double error = 0.0;
  for (const SchedulerState::Model& m : state_.models) {
    error = std::max(error, m.cost.relative_error());
  }
  stats_->cost_model_error.Set(error);
  const PageLayout& layout = kv_->layout(plan.model);
  residency_->SetRecomputeUs(
      plan.model, PredictPrefillUs(plan.model, layout.page_tokens()) / layout.slabs_per_page);
}

int64_t Scheduler::RoomTokens(const Sequence& s) const {
  const int64_t page_tokens = kv_->layout(s.request->model).page_tokens();
  return static_cast<int64_t>(s.kv.groups[0].pages.size()) * page_tokens;
}

RunningShare Scheduler::ShareOf(const Sequence& s) const {
  RunningShare share;
  const int32_t model = s.request->model;
  const int64_t step_tokens = state_.options.max_num_batched_tokens;
  // In a model without windows, a sequence whose pages hold all its tokens needs no more slabs.
  if (state_.models[model].has_windows || s.num_tokens() > s.room_tokens) {
    const int64_t needed = kv_->SlabsFor(model, s.num_tokens(), step_tokens);
    share.outstanding_slabs = std::max<int64_t>(0, needed - HeldSlabs(s.kv, kv_->layout(model)));
  }
  const int64_t num_tokens = s.num_to_compute();
  if (num_tokens > 1 || !s.holes.empty()) share.prompt = PrefillCost(num_tokens, step_tokens);
  return share;
}

void Scheduler::AddShare(const Sequence& s, int sign) {
  if (s.share.prompt.num_tokens > 0) {
    StepCost& prompts = state_.models[s.request->model].prompts;
    sign > 0 ? prompts += s.share.prompt : prompts -= s.share.prompt;
  }
  state_.outstanding_slabs += sign * s.share.outstanding_slabs;
}

void Scheduler::Recount(Sequence* s) {
  if (s->running_index < 0) return;
  AddShare(*s, -1);
  s->share = ShareOf(*s);
  AddShare(*s, 1);
}

double Scheduler::PredictPrefillUs(int32_t model, int64_t num_tokens) const {
  const CostModel& cost = state_.models[model].cost;
  if (!cost.fitted()) return 0.0;
  const StepCost steps = PrefillCost(num_tokens, state_.options.max_num_batched_tokens);
  return cost.PredictUs(steps, steps.num_segments);
}

int64_t Scheduler::PredictQueueDelayUs() const {
  double us = 0.0;
  for (size_t m = 0; m < state_.models.size(); ++m) {
    const SchedulerState::Model& model = state_.models[m];
    if (!model.cost.fitted()) continue;
    StepCost steps = queue_.cost(static_cast<int32_t>(m));
    steps += model.prompts;
    if (steps.num_segments > 0) us += model.cost.PredictUs(steps, steps.num_segments);
  }
  // Sequences in excess of the free slots wait until running sequences finish.
  const int64_t without_slot =
      queue_.num_active() + 1 - static_cast<int64_t>(state_.free_slots.size());
  if (without_slot > 0) {
    us = std::max(us, static_cast<double>(without_slot) * admission_interval_us_);
  }
  return static_cast<int64_t>(us);
}

std::vector<Sequence*> Scheduler::Running() const {
  std::vector<Sequence*> running;
  for (const SchedulerState::Model& model : state_.models) {
    model.running.ForEach([&](Sequence* s) { running.push_back(s); });
  }
  return running;
}

void Scheduler::CheckInvariants() const {
  CHECK_EQ(state_.num_running + static_cast<int64_t>(state_.free_slots.size()),
           state_.options.max_num_seqs);
  int64_t num_running = 0;
  int64_t outstanding_slabs = 0;
  for (size_t m = 0; m < state_.models.size(); ++m) {
    const SchedulerState::Model& model = state_.models[m];
    int64_t num_unpaused = 0;
    StepCost prompts;
    model.running.ForEach([&](const Sequence* s) {
      CHECK(s->place == QueuePlace::kNone && s->slot >= 0);
      CHECK_EQ(s->request->model, static_cast<int32_t>(m));
      CHECK_EQ(s->room_tokens, RoomTokens(*s)) << s->request->id;
      ++num_running;
      num_unpaused += s->paused ? 0 : 1;
      const RunningShare share = ShareOf(*s);
      CHECK_EQ(share.outstanding_slabs, s->share.outstanding_slabs) << s->request->id;
      CHECK(share.prompt == s->share.prompt) << s->request->id;
      prompts += share.prompt;
      outstanding_slabs += share.outstanding_slabs;
    });
    CHECK_EQ(num_unpaused, model.num_unpaused) << "model " << m;
    CHECK(prompts == model.prompts) << "model " << m;
    const Sequence* refused = model.turn.refused;
    CHECK(refused == nullptr || (refused->place != QueuePlace::kNone && !refused->paused));
  }
  CHECK_EQ(num_running, state_.num_running);
  CHECK_EQ(outstanding_slabs, state_.outstanding_slabs);
  queue_.CheckInvariants();
}

}  // namespace tessera

#include "scheduler/plan/scheduler.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "absl/algorithm/container.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

// The weight of a new admission in the means over recent admissions.
constexpr double kAdmissionSmoothing = 0.1;

StepCost operator*(const StepCost& cost, double factor) {
  const auto scaled = [factor](int64_t value) {
    return static_cast<int64_t>(static_cast<double>(value) * factor);
  };
  return {scaled(cost.num_tokens),       scaled(cost.num_segments),   scaled(cost.kv_read_tokens),
          scaled(cost.attention_pairs),  scaled(cost.num_logit_rows), scaled(cost.adapter_slabs),
          scaled(cost.adapter_slab_rows)};
}

// The share of a model's prompt tokens that admissions do not find in the prefix cache.
double FreshShare(const SchedulerState::Model& model) {
  return model.prompt_tokens > 0.0 ? 1.0 - model.cached_tokens / model.prompt_tokens : 1.0;
}

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
      state_(options, num_models),
      policy_(policy != nullptr ? std::move(policy) : NewQueuePolicy(options, &state_.tenants)),
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
  if (sequence->request->kind == RequestKind::kGenerate) {
    sequence->expected_tokens = state_.models[sequence->request->model].lengths.Expect(
        sequence->request->stopping.max_tokens, 0);
  }
  StartWaiting(sequence);
}

void Scheduler::StartWaiting(Sequence* sequence) {
  queue_.Insert(sequence, IsReady(*sequence));
  if (!sequence->paused) state_.tenants.CountWaiting(sequence->tenant, 1);
  residency_->AddWaiter(sequence->need);
}

void Scheduler::StopWaiting(Sequence* sequence) {
  if (sequence->place != QueuePlace::kPaused) state_.tenants.CountWaiting(sequence->tenant, -1);
  queue_.Erase(sequence);
  residency_->DropWaiter(sequence->need);
}

void Scheduler::SetPaused(Sequence* sequence, bool paused) {
  if (sequence->paused == paused) return;
  sequence->paused = paused;
  if (sequence->place != QueuePlace::kNone) {
    queue_.SetPaused(sequence, paused, IsReady(*sequence));
    state_.tenants.CountWaiting(sequence->tenant, paused ? -1 : 1);
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
  ForgetEnd(sequence);
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
  state_.tenants.CountRunning(sequence->tenant, -1);
}

void Scheduler::Remove(Sequence* sequence) {
  const int64_t num_generated = sequence->num_known() - sequence->num_prompt;
  if (num_generated > 0) {
    state_.models[sequence->request->model].lengths.Observe(sequence->request->stopping.max_tokens,
                                                            num_generated);
  }
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
  state_.tenants.CountRunning(s->tenant, 1);
  Recount(s);
  PredictEnd(s);
}

void Scheduler::CountAdmission(Sequence* s) {
  if (s->num_preemptions == 0 && s->counts_in_queue) {
    s->cached_prompt_tokens = s->num_computed;
    stats_->prompt_tokens.Add(s->num_prompt);
    stats_->cached_prompt_tokens.Add(s->num_computed);
    SchedulerState::Model& model = state_.models[s->request->model];
    const double weight = model.prompt_tokens > 0.0 ? kAdmissionSmoothing : 1.0;
    model.prompt_tokens += weight * (static_cast<double>(s->num_prompt) - model.prompt_tokens);
    model.cached_tokens += weight * (static_cast<double>(s->num_computed) - model.cached_tokens);
  }
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
    const NeedId need = entry.sequence->need;
    plan->cost += CostOf(entry, need != last_need);
    last_need = need;
  }
}

StepCost Scheduler::CostOf(const PlanEntry& entry, bool is_new_need) const {
  StepCost cost;
  int64_t logit_rows = entry.num_targets + (entry.samples ? 1 : 0);
  for (const TokenRange& range : entry.ranges) {
    cost.AddSegment(range.size(), range.end, std::exchange(logit_rows, 0));
  }
  const NeedId need = entry.sequence->need;
  if (need != kNoNeed) cost.AddAdapter(cost.num_tokens, residency_->slabs(need), is_new_need);
  return cost;
}

// The sequences that need an adapter divide the cost of reading it. While the cost model is not
// fitted, tokens have one price.
void Scheduler::ChargeTenants(const StepPlan& plan, double step_us) {
  const CostModel& cost = state_.models[plan.model].cost;
  std::vector<double> prices;
  prices.reserve(plan.entries.size());
  double sum = 0.0;
  for (auto entry = plan.entries.begin(); entry != plan.entries.end();) {
    const NeedId need = entry->sequence->need;
    const auto end = std::find_if(entry, plan.entries.end(), [need](const PlanEntry& other) {
      return other.sequence->need != need;
    });
    StepCost need_cost;
    if (need != kNoNeed) need_cost.adapter_slabs = residency_->slabs(need);
    const double need_us = cost.PredictUs(need_cost, 0) / static_cast<double>(end - entry);
    for (; entry != end; ++entry) {
      const StepCost own = CostOf(*entry, /*is_new_need=*/false);
      prices.push_back(cost.fitted() ? need_us + cost.PredictUs(own, 0)
                                     : static_cast<double>(own.num_tokens));
      sum += prices.back();
    }
  }
  if (sum <= 0.0) return;
  for (size_t i = 0; i < prices.size(); ++i) {
    state_.tenants.Charge(plan.entries[i].sequence->tenant, step_us * prices[i] / sum);
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
  state_.models[plan.model].last_step = plan.cost;
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
  ++model.num_steps;
  model.turn.used_us += static_cast<double>(step_us);
  if (policy_->DividesByTenants()) ChargeTenants(plan, static_cast<double>(step_us));
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
  share.num_tokens = s.num_tokens();
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
  state_.models[s.request->model].num_tokens += sign * s.share.num_tokens;
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

// In each step of its model, a running sequence whose prompt is computed gets one token.
void Scheduler::PredictEnd(Sequence* s) {
  if (s->running_index < 0) return;
  SchedulerState::Model& model = state_.models[s->request->model];
  int64_t num_left = 1;
  if (s->expected_tokens > 0) {
    if (s->num_generated() >= s->expected_tokens) {
      s->expected_tokens =
          model.lengths.Expect(s->request->stopping.max_tokens, s->num_generated());
    }
    num_left = std::max<int64_t>(1, s->expected_tokens - s->num_generated());
  }
  const int64_t num_prompt_steps =
      CeilDiv<int64_t>(s->num_to_compute(), state_.options.max_num_batched_tokens);
  const int64_t end_step = model.num_steps + num_left + std::max<int64_t>(0, num_prompt_steps - 1);
  if (s->end_step >= 0 && std::abs(end_step - s->end_step) <= 1 + num_left / 8) return;
  ForgetEnd(s);
  s->end_step = end_step;
  model.ends.Add(end_step);
}

void Scheduler::ForgetEnd(Sequence* s) {
  if (s->end_step < 0) return;
  state_.models[s->request->model].ends.Remove(std::exchange(s->end_step, -1));
}

DelayShare Scheduler::DelayShareOf(int32_t m, int64_t num_starting) const {
  const SchedulerState::Model& model = state_.models[m];
  DelayShare share;
  if (!model.cost.fitted()) return share;
  const int64_t num_streams = model.num_unpaused;
  StepCost step;
  if (num_streams > 0) {
    const double last_tokens =
        static_cast<double>(std::max<int64_t>(1, model.last_step.num_tokens));
    step.num_tokens = step.num_segments = step.num_logit_rows = num_streams;
    step.kv_read_tokens = step.attention_pairs = model.num_tokens;
    step.adapter_slabs = model.last_step.adapter_slabs;
    step.adapter_slab_rows =
        (model.last_step * (static_cast<double>(num_streams) / last_tokens)).adapter_slab_rows;
  }
  share.has_streams = num_streams > 0;
  share.step_us = model.cost.PredictUs(step);
  StepCost prompts = queue_.cost(m) * FreshShare(model);
  prompts += model.prompts;
  if (prompts.num_tokens > 0) {
    share.prompts_us = model.cost.PredictUs(prompts, 0);
    share.num_steps =
        CeilDiv<int64_t>(prompts.num_tokens,
                         std::max<int64_t>(1, state_.options.max_num_batched_tokens - num_streams));
  }
  if (state_.options.target_step_us > 0) {
    share.most_step_us = std::max(static_cast<double>(state_.options.target_step_us),
                                  state_.options.target_step_ratio * share.step_us);
  }
  if (num_starting < 0) return share;
  share.ends_us.reserve(model.ends.steps().size());
  for (const int64_t end : model.ends.steps()) {
    share.ends_us.push_back(static_cast<double>(std::max<int64_t>(1, end - model.num_steps)) *
                            share.step_us);
  }
  if (queue_.num_active(m) > 0) {
    share.life_us = share.step_us * static_cast<double>(queue_.expected_tokens(m)) /
                    static_cast<double>(queue_.num_active(m));
  } else if (!share.ends_us.empty()) {
    share.life_us = share.ends_us.back();
  }
  const auto place = std::upper_bound(share.ends_us.begin(), share.ends_us.end(), share.life_us);
  share.ends_us.insert(place, static_cast<size_t>(num_starting), share.life_us);
  return share;
}

int64_t Scheduler::NumEndsForPages() const {
  if (state_.num_running == 0) return 0;
  double needed_slabs = 0.0;
  double most_slabs = 0.0;  // the need of the further request, whose model is not known
  for (size_t m = 0; m < state_.models.size(); ++m) {
    const auto id = static_cast<int32_t>(m);
    const double fresh = FreshShare(state_.models[m]);
    const int64_t num_waiting = queue_.num_active(id);
    const double num_tokens = num_waiting > 0 ? static_cast<double>(queue_.cost(id).num_tokens) /
                                                    static_cast<double>(num_waiting)
                                              : state_.models[m].prompt_tokens;
    const auto slabs = static_cast<double>(
        kv_->SlabsFor(id, std::max<int64_t>(1, static_cast<int64_t>(num_tokens * fresh)),
                      state_.options.max_num_batched_tokens));
    needed_slabs += slabs * static_cast<double>(num_waiting);
    most_slabs = std::max(most_slabs, slabs);
  }
  const KvUsage usage = kv_->usage();
  const double lacking = needed_slabs + most_slabs + static_cast<double>(NumReservedSlabs()) -
                         static_cast<double>(usage.free_slabs + usage.cached_slabs);
  if (lacking <= 0.0) return 0;
  const double held =
      std::max(1.0, static_cast<double>(usage.kv_slabs) / static_cast<double>(state_.num_running));
  return static_cast<int64_t>(std::ceil(lacking / held));
}

int64_t Scheduler::PredictQueueDelayUs() const {
  // Sequences in excess of the free slots wait until other sequences end. Those are the running
  // sequences and, if the pool has pages for them, the waiting sequences that get the free slots.
  const auto num_free = static_cast<int64_t>(state_.free_slots.size());
  const int64_t num_waiting = queue_.num_active();
  const int64_t for_pages = NumEndsForPages();
  const int64_t num_ends = std::max(num_waiting + 1 - num_free, for_pages);
  const int64_t num_starting = for_pages > 0 ? 0 : std::min(num_free, num_waiting);
  std::vector<DelayShare> models;
  models.reserve(state_.models.size());
  double in_flight_us = 0.0;
  for (size_t m = 0; m < state_.models.size(); ++m) {
    const SchedulerState::Model& model = state_.models[m];
    const auto id = static_cast<int32_t>(m);
    const int64_t starting =
        num_starting == 0 ? 0 : num_starting * queue_.num_active(id) / num_waiting;
    models.push_back(DelayShareOf(id, num_ends > 0 ? starting : -1));
    if (model.num_inflight > 0 && model.cost.fitted()) {
      in_flight_us += model.cost.PredictUs(model.last_step);
    }
  }
  // On average, half of the step in flight is left.
  return std::llround(PredictDelayUs(models, num_ends) + in_flight_us / 2);
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
    int64_t num_tokens = 0;
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
      num_tokens += share.num_tokens;
      outstanding_slabs += share.outstanding_slabs;
    });
    CHECK_EQ(num_unpaused, model.num_unpaused) << "model " << m;
    CHECK(prompts == model.prompts) << "model " << m;
    CHECK_EQ(num_tokens, model.num_tokens) << "model " << m;
    CHECK_EQ(model.ends.steps().size(), static_cast<size_t>(model.running.size()));
    const Sequence* refused = model.turn.refused;
    CHECK(refused == nullptr || (refused->place != QueuePlace::kNone && !refused->paused));
  }
  CHECK_EQ(num_running, state_.num_running);
  CHECK_EQ(outstanding_slabs, state_.outstanding_slabs);
  state_.tenants.CheckInvariants();
  queue_.CheckInvariants();
}

}  // namespace tessera

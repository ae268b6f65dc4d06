#include "scheduler/plan/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

// A prompt chunk beside running streams is never cut below this: progress matters more than the
// target.
constexpr int64_t kMinChunkTokens = 16;
// Waiting for a prefix that is being computed pays off from this many tokens on.
constexpr int64_t kMinPendingGain = 16;
constexpr double kIntervalSmoothing = 0.1;
// Waiting sequences, in their order, whose adapters are brought to the pool ahead of their turn.
constexpr int kAdapterLookahead = 32;

int64_t HeldSlabs(const KvState& state, const PageLayout& layout) {
  int64_t num_pages = 0;
  for (const KvGroupState& group : state.groups) {
    num_pages += static_cast<int64_t>(group.pages.size()) - group.first_live_page;
  }
  return num_pages * layout.slabs_per_page;
}

// The prompt tokens [begin, end) of a segment whose rows score the token after them.
Range ScoredTokens(const Sequence& s, int64_t begin, int64_t end) {
  if (s.request->prompt_logprobs < 0 || s.index != 0) return {};
  // After a preemption the prompt is computed again; what was scored is not scored twice.
  const int64_t first = std::max(begin, s.num_scored);
  const int64_t last = std::min(end, s.num_prompt - 1);
  return {static_cast<int32_t>(first), static_cast<int32_t>(std::max<int64_t>(0, last - first))};
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, int32_t num_models, KvManager* kv,
                     const Clock* clock, SchedulerStats* stats)
    : options_(options),
      kv_(kv),
      clock_(clock),
      stats_(stats),
      policy_(options.queue_policy == QueuePolicyKind::kEarlyAbort
                  ? NewEarlyAbortPolicy(options.early_abort_us)
                  : NewPriorityPolicy(options.ageing_us)),
      models_(static_cast<size_t>(num_models)) {
  CHECK_GE(options_.max_num_batched_tokens, options_.max_num_seqs)
      << "each running stream needs a token in each step";
  for (int32_t slot = options_.max_num_seqs - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

void Scheduler::Enqueue(Sequence* sequence) {
  ++num_arrived_;
  PushWaiting(sequence);
}

// Its tokens stay as they are while it waits, so what was added is what is taken away.
void Scheduler::CountWaiting(const Sequence& sequence, int sign) {
  const StepCost cost = PrefillCost(sequence.num_tokens(), options_.max_num_batched_tokens);
  StepCost& waiting = models_[sequence.request->model].waiting;
  sign > 0 ? waiting += cost : waiting -= cost;
  num_ready_ += sign;
}

void Scheduler::SetPaused(Sequence* sequence, bool paused) {
  if (sequence->paused == paused) return;
  sequence->paused = paused;
  if (sequence->queue_index >= 0) CountWaiting(*sequence, paused ? -1 : 1);
  // While a step still computes for it, its owner parks it when that has retired.
  if (paused && sequence->num_inflight == 0) Park(sequence);
  const Sequence*& refused = models_[sequence->request->model].refused;
  if (refused == sequence) refused = nullptr;
}

void Scheduler::PushWaiting(Sequence* sequence) {
  CHECK_EQ(sequence->queue_index, -1);
  if (!sequence->paused) CountWaiting(*sequence, 1);
  sequence->queue_index = static_cast<int32_t>(waiting_.size());
  waiting_.push_back(sequence);
}

// The last one takes its place: many may leave at once.
void Scheduler::PopWaiting(Sequence* sequence) {
  const Sequence*& refused = models_[sequence->request->model].refused;
  if (refused == sequence) refused = nullptr;
  const int32_t index = std::exchange(sequence->queue_index, -1);
  CHECK(waiting_.at(index) == sequence);
  waiting_[index] = waiting_.back();
  if (waiting_[index] != sequence) waiting_[index]->queue_index = index;
  waiting_.pop_back();
  if (!sequence->paused) CountWaiting(*sequence, -1);
}

void Scheduler::TakeOffDevice(Sequence* sequence) {
  CHECK_EQ(sequence->num_inflight, 0);
  kv_->Release(&sequence->kv);
  if (const AdapterId adapter = sequence->request->adapter.id; adapter != kNoAdapter) {
    adapters_->Release(adapter);
  }
  free_slots_.push_back(sequence->slot);
  std::sort(free_slots_.begin(), free_slots_.end(), std::greater<>());
  sequence->slot = -1;
  sequence->num_computed = 0;
  running_.erase(std::find(running_.begin(), running_.end(), sequence));
}

void Scheduler::Remove(Sequence* sequence) {
  if (sequence->slot >= 0) {
    TakeOffDevice(sequence);
    return;
  }
  if (sequence->queue_index >= 0) PopWaiting(sequence);
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
  PushWaiting(sequence);
}

// A sequence whose next token is still being sampled may run ahead only if its logits do not depend
// on that token.
bool Scheduler::Runnable(const Sequence& sequence) const {
  if (sequence.state != SequenceState::kRunning || sequence.paused) return false;
  if (sequence.num_to_compute() <= 0) return false;
  if (sequence.num_pending == 0) return true;
  return !sequence.has_penalties() &&
         sequence.num_generated() < sequence.request->stopping.max_tokens;
}

std::vector<int32_t> Scheduler::ModelOrder() {
  std::vector<bool> has_work(models_.size(), false);
  for (const Sequence* s : running_) {
    if (!s->paused) has_work[s->request->model] = true;
  }
  for (const Sequence* s : waiting_) {
    if (!s->paused) has_work[s->request->model] = true;
  }
  double least_used = -1.0;
  for (size_t m = 0; m < models_.size(); ++m) {
    if (!has_work[m] || !models_[m].active) continue;
    least_used = least_used < 0 ? models_[m].used_us : std::min(least_used, models_[m].used_us);
  }
  // Nobody was busy: what was used before counts no more.
  if (least_used < 0) {
    for (ModelState& state : models_) state.used_us = 0.0;
  }
  std::vector<int32_t> order;
  for (size_t m = 0; m < models_.size(); ++m) {
    ModelState& state = models_[m];
    // A model that was idle does not get credit for it.
    if (has_work[m] && !state.active) state.used_us = std::max(state.used_us, least_used);
    state.active = has_work[m];
    if (has_work[m]) order.push_back(static_cast<int32_t>(m));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return models_[a].used_us < models_[b].used_us; });
  return order;
}

bool Scheduler::IsComputing(int32_t model) const {
  return std::any_of(running_.begin(), running_.end(), [model](const Sequence* s) {
    return s->request->model == model && s->num_inflight > 0;
  });
}

StepPlan Scheduler::Schedule() {
  StepPlan plan;
  for (const int32_t model : ModelOrder()) {
    plan = PlanModel(model);
    if (!plan.empty()) break;
    // It waits for pages or for others: that is no more reason for credit than being idle.
    models_[model].active = IsComputing(model);
  }
  policy_->OnPlanned(std::exchange(num_arrived_, 0), std::exchange(num_admitted_, 0));
  return plan;
}

StepPlan Scheduler::PlanModel(int32_t model) {
  StepPlan plan;
  plan.model = model;
  PlanDecodes(model, &plan);
  plan.most_us = MostStepUs(plan);
  PlanPrefills(model, &plan);
  PlanAdmissions(model, &plan);
  // Rows that share an adapter lie side by side, so that its weights are read once.
  const auto by_adapter = [](const PlanEntry& a, const PlanEntry& b) {
    return a.sequence->request->adapter.id < b.sequence->request->adapter.id;
  };
  if (!std::is_sorted(plan.entries.begin(), plan.entries.end(), by_adapter)) {
    std::stable_sort(plan.entries.begin(), plan.entries.end(), by_adapter);
  }
  return plan;
}

void Scheduler::PlanDecodes(int32_t model, StepPlan* plan) {
  std::vector<Sequence*> decodes;
  for (Sequence* s : running_) {
    if (s->request->model == model && Runnable(*s) && s->num_to_compute() == 1)
      decodes.push_back(s);
  }
  const int64_t now_us = clock_->NowUs();
  std::stable_sort(decodes.begin(), decodes.end(), [&](const Sequence* a, const Sequence* b) {
    return policy_->Key(*a, now_us) < policy_->Key(*b, now_us);
  });
  for (Sequence* s : decodes) {
    if (s->state != SequenceState::kRunning) continue;  // preempted for one before it
    if (GrowOrPreempt(s, s->num_scheduled() + 1, *plan)) AddEntry(s, 1, plan);
  }
}

double Scheduler::MostStepUs(const StepPlan& streams) const {
  const CostModel& cost = models_[streams.model].cost;
  if (streams.empty() || options_.target_step_us <= 0 || !cost.fitted()) return 0.0;
  return std::max(static_cast<double>(options_.target_step_us),
                  options_.target_step_ratio * cost.PredictUs(streams.cost));
}

void Scheduler::PlanPrefills(int32_t model, StepPlan* plan) {
  const std::vector<Sequence*> candidates = running_;  // preemption changes running_
  for (Sequence* s : candidates) {
    if (s->state != SequenceState::kRunning || s->request->model != model) continue;
    if (!Runnable(*s) || s->num_to_compute() <= 1) continue;
    const int64_t chunk = ChunkTokens(*plan, *s, s->num_scheduled(), s->num_to_compute());
    if (chunk == 0) return;
    const int64_t end = s->num_scheduled() + chunk;
    // When the plan is empty nobody can give pages back by finishing, so somebody has to go.
    if (kv_->Grow(&s->kv, end) || (plan->empty() && GrowOrPreempt(s, end, *plan))) {
      AddEntry(s, chunk, plan);
    }
  }
}

void Scheduler::PlanAdmissions(int32_t model, StepPlan* plan) {
  if (free_slots_.empty() || waiting_.empty()) return;
  if (plan->cost.num_tokens >= options_.max_num_batched_tokens) return;
  const int64_t now_us = clock_->NowUs();
  std::vector<std::pair<QueueKey, Sequence*>> heap;
  for (Sequence* s : waiting_) {
    if (s->request->model == model && !s->paused && !IsAwaiting(s))
      heap.emplace_back(policy_->Key(*s, now_us), s);
  }
  const auto later = [](const auto& a, const auto& b) { return b.first < a.first; };
  std::make_heap(heap.begin(), heap.end(), later);
  bool queue_blocked = false;
  int lookahead = kAdapterLookahead;
  const Sequence* last = nullptr;
  while (!heap.empty() && !queue_blocked && !free_slots_.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    Sequence* s = heap.back().second;
    heap.pop_back();
    if (IsBehindRefused(*s, now_us)) return;
    if (!AdapterReady(s, &lookahead, &queue_blocked)) continue;
    if (ChunkTokens(*plan, *s, 0, 1) == 0) return;
    // The copies of a request come one after the other.
    if (last != nullptr && last->request == s->request) LearnFromCopy(*last, s);
    last = s;
    if (!s->awaited.has_value()) TryAdmit(s, plan, &queue_blocked);
  }
}

AdapterStore::Access Scheduler::BringAdapter(AdapterId id) {
  const bool alone = running_.empty();
  return adapters_->Want(id, alone ? 0 : PromptSlabsOutstanding() + WatermarkSlabs(), alone);
}

bool Scheduler::AdapterReady(Sequence* s, int* lookahead, bool* queue_blocked) {
  const AdapterId id = s->request->adapter.id;
  if (id == kNoAdapter) return true;
  s->state = SequenceState::kWaiting;
  if (adapters_->IsReady(id)) return true;
  if (--*lookahead < 0) return false;
  const AdapterStore::Access access = BringAdapter(id);
  const Sequence*& refused = models_[s->request->model].refused;
  if (access == AdapterStore::Access::kNoRoom) {
    refused = s;
    *queue_blocked = true;
    return false;
  }
  if (refused == s) refused = nullptr;
  if (access == AdapterStore::Access::kLoading) s->state = SequenceState::kLoading;
  return access == AdapterStore::Access::kReady;
}

bool Scheduler::IsAwaiting(Sequence* s) const {
  if (s->awaited.has_value() && !kv_->Announced(s->request->model, *s->awaited)) s->awaited.reset();
  return s->awaited.has_value();
}

// What was found out about the prompt of a request need not be found out again for its copies: the
// names of its pages, and which of them to wait for.
void Scheduler::LearnFromCopy(const Sequence& copy, Sequence* s) const {
  if (!copy.kv.cacheable || !s->kv.cacheable) return;
  if (copy.tokens.empty() && s->tokens.empty()) s->awaited = copy.awaited;
  if (s->awaited.has_value()) return;
  const size_t num_names = std::min<size_t>(
      copy.kv.hashes.size(), s->num_prompt / kv_->layout(s->request->model).page_tokens());
  if (s->kv.hashes.size() >= num_names) return;
  s->kv.hashes.assign(copy.kv.hashes.begin(), copy.kv.hashes.begin() + num_names);
}

bool Scheduler::IsBehindRefused(const Sequence& s, int64_t now_us) const {
  const QueueKey key = policy_->Key(s, now_us);
  return std::any_of(models_.begin(), models_.end(), [&](const ModelState& m) {
    return m.refused != nullptr && policy_->Key(*m.refused, now_us) < key;
  });
}

bool Scheduler::TryAdmit(Sequence* s, StepPlan* plan, bool* queue_blocked) {
  const KvMatch match = kv_->Match(&s->kv, s->known_tokens());
  const int64_t num_tokens = s->num_tokens();
  const int64_t page_tokens = kv_->layout(plan->model).page_tokens();
  if (match.pending_tokens >= match.hit_tokens + kMinPendingGain) {
    if (models_[plan->model].refused == s) models_[plan->model].refused = nullptr;
    // Once this page is there, less than the gain is left to wait for.
    const int64_t page = (match.pending_tokens - kMinPendingGain) / page_tokens;
    s->awaited = s->kv.hashes.at(page);
    return false;
  }
  const int64_t chunk = ChunkTokens(*plan, *s, match.hit_tokens, num_tokens - match.hit_tokens);
  if (chunk == 0) {
    *queue_blocked = true;
    return false;
  }
  // With nothing else on the device, whatever fits may start.
  int64_t reserve = 0;
  if (!running_.empty()) {
    const int64_t rest_of_prompt =
        PromptSlabs(plan->model, num_tokens) - PromptSlabs(plan->model, match.hit_tokens + chunk);
    reserve = std::max<int64_t>(0, rest_of_prompt) + PromptSlabsOutstanding() + WatermarkSlabs();
  }
  // Held first: making room for its tokens must not cost it its adapter.
  const AdapterId adapter = s->request->adapter.id;
  if (adapter != kNoAdapter) adapters_->Acquire(adapter);
  if (!kv_->Admit(&s->kv, s->known_tokens(), chunk, reserve)) {
    if (adapter != kNoAdapter) adapters_->Release(adapter);
    models_[plan->model].refused = s;
    *queue_blocked = true;
    return false;
  }
  if (adapter != kNoAdapter) adapters_->CountUse(adapter);
  s->num_computed = s->kv.num_tokens;
  if (s->num_preemptions == 0 && s->first_step_us == 0) {
    s->cached_prompt_tokens = s->num_computed;
    stats_->prompt_tokens.Add(s->num_prompt);
    stats_->cached_prompt_tokens.Add(s->num_computed);
  }
  s->slot = free_slots_.back();
  free_slots_.pop_back();
  s->state = SequenceState::kRunning;
  PopWaiting(s);
  s->TakePrompt();
  running_.push_back(s);
  ++num_admitted_;

  const int64_t now_us = clock_->NowUs();
  if (last_admission_us_ > 0 && !waiting_.empty()) {
    const double interval = static_cast<double>(now_us - last_admission_us_);
    admission_interval_us_ += kIntervalSmoothing * (interval - admission_interval_us_);
  }
  last_admission_us_ = now_us;
  AddEntry(s, std::min(chunk, s->num_to_compute()), plan);
  return true;
}

bool Scheduler::GrowOrPreempt(Sequence* sequence, int64_t num_tokens, const StepPlan& plan) {
  const int64_t now_us = clock_->NowUs();
  const auto planned = [&plan](const Sequence* s) {
    return std::any_of(plan.entries.begin(), plan.entries.end(),
                       [s](const PlanEntry& e) { return e.sequence == s; });
  };
  while (!kv_->Grow(&sequence->kv, num_tokens)) {
    Sequence* victim = nullptr;
    for (Sequence* s : running_) {
      if (s->num_inflight > 0 || planned(s)) continue;
      if (victim == nullptr || policy_->Key(*victim, now_us) < policy_->Key(*s, now_us)) victim = s;
    }
    if (victim == nullptr) return false;  // all others are in flight: their pages come back soon
    Preempt(victim);
    if (victim == sequence) return false;
  }
  return true;
}

int64_t Scheduler::ChunkTokens(const StepPlan& plan, const Sequence& sequence, int64_t begin,
                               int64_t wanted) const {
  const int64_t budget = options_.max_num_batched_tokens - plan.cost.num_tokens;
  int64_t chunk = std::min(wanted, budget);
  if (plan.most_us == 0.0) return chunk;
  const CostModel& cost = models_[plan.model].cost;
  const auto fits = [&](int64_t tokens) {
    const int64_t end = begin + tokens;
    const StepCost total =
        CostWith(plan, sequence, tokens, end, ScoredTokens(sequence, begin, end).count + 1);
    return cost.PredictUs(total) <= plan.most_us;
  };
  if (chunk <= 0 || fits(chunk)) return std::max<int64_t>(chunk, 0);
  int64_t low = 0;
  int64_t high = chunk;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (fits(middle) ? low : high) = middle;
  }
  // One prompt always makes progress; further ones wait for a step with room.
  const bool has_prompt = plan.cost.num_tokens > plan.cost.num_segments;
  if (has_prompt) return low < kMinChunkTokens ? 0 : low;
  return std::min(chunk, std::max(low, kMinChunkTokens));
}

void Scheduler::AddEntry(Sequence* sequence, int64_t num_tokens, StepPlan* plan) {
  PlanEntry entry;
  entry.sequence = sequence;
  entry.begin = sequence->num_scheduled();
  entry.num_tokens = static_cast<int32_t>(num_tokens);
  const int64_t end = entry.begin + num_tokens;
  const Request& request = *sequence->request;
  entry.samples = request.kind == RequestKind::kGenerate && end == sequence->num_tokens();
  const Range scored = ScoredTokens(*sequence, entry.begin, end);
  entry.target_begin = scored.begin;
  entry.num_targets = scored.count;
  plan->cost =
      CostWith(*plan, *sequence, num_tokens, end, entry.num_targets + (entry.samples ? 1 : 0));
  const AdapterId adapter = request.adapter.id;
  if (adapter != kNoAdapter && !absl::c_linear_search(plan->adapters, adapter)) {
    plan->adapters.push_back(adapter);
  }
  plan->entries.push_back(entry);
}

StepCost Scheduler::CostWith(const StepPlan& plan, const Sequence& sequence, int64_t num_tokens,
                             int64_t context_length, int64_t logit_rows) const {
  StepCost cost = plan.cost;
  cost.AddSegment(num_tokens, context_length, logit_rows);
  const AdapterId adapter = sequence.request->adapter.id;
  if (adapter != kNoAdapter) {
    cost.AddAdapter(num_tokens, adapters_->slabs(adapter),
                    !absl::c_linear_search(plan.adapters, adapter));
  }
  return cost;
}

int64_t Scheduler::PromptSlabs(int32_t model, int64_t num_tokens) const {
  return kv_->SlabsFor(model, num_tokens, options_.max_num_batched_tokens);
}

int64_t Scheduler::PromptSlabsOutstanding() const {
  int64_t slabs = 0;
  for (const Sequence* s : running_) {
    const int32_t model = s->request->model;
    const int64_t needed =
        PromptSlabs(model, s->num_tokens()) - HeldSlabs(s->kv, kv_->layout(model));
    slabs += std::max<int64_t>(0, needed);
  }
  return slabs;
}

int64_t Scheduler::WatermarkSlabs() const {
  return static_cast<int64_t>(options_.watermark * static_cast<double>(kv_->usage().total_slabs));
}

void Scheduler::OnStepDone(const StepPlan& plan, int64_t step_us) {
  ModelState& state = models_[plan.model];
  state.used_us += static_cast<double>(step_us);
  state.cost.Observe(plan.cost, static_cast<double>(step_us));
  double error = 0.0;
  for (const ModelState& m : models_) error = std::max(error, m.cost.relative_error());
  stats_->cost_model_error.Set(error);
}

double Scheduler::PredictPrefillUs(int32_t model, int64_t num_tokens) const {
  const CostModel& cost = models_[model].cost;
  if (!cost.fitted()) return 0.0;
  const StepCost steps = PrefillCost(num_tokens, options_.max_num_batched_tokens);
  return cost.PredictUs(steps, steps.num_segments);
}

int64_t Scheduler::PredictQueueDelayUs() const {
  double us = 0.0;
  for (const ModelState& m : models_) {
    if (m.cost.fitted()) us += m.cost.PredictUs(m.waiting, m.waiting.num_segments);
  }
  for (const Sequence* s : running_) {
    if (s->num_to_compute() > 1) us += PredictPrefillUs(s->request->model, s->num_to_compute());
  }
  // Beyond the free slots, sequences wait for others to finish.
  const int64_t without_slot = num_ready_ + 1 - static_cast<int64_t>(free_slots_.size());
  if (without_slot > 0) {
    us = std::max(us, static_cast<double>(without_slot) * admission_interval_us_);
  }
  return static_cast<int64_t>(us);
}

void Scheduler::CheckInvariants() const {
  CHECK_EQ(static_cast<int32_t>(running_.size() + free_slots_.size()), options_.max_num_seqs);
  for (const Sequence* s : running_) CHECK(s->queue_index == -1 && !s->awaited.has_value());
  std::vector<StepCost> waiting(models_.size());
  int64_t num_ready = 0;
  for (size_t i = 0; i < waiting_.size(); ++i) {
    const Sequence& s = *waiting_[i];
    CHECK_EQ(s.queue_index, static_cast<int32_t>(i));
    if (s.paused) continue;
    ++num_ready;
    waiting[s.request->model] += PrefillCost(s.num_tokens(), options_.max_num_batched_tokens);
  }
  CHECK_EQ(num_ready, num_ready_);
  for (size_t m = 0; m < models_.size(); ++m) {
    CHECK(waiting[m] == models_[m].waiting) << "model " << m;
    const Sequence* refused = models_[m].refused;
    CHECK(refused == nullptr || std::count(waiting_.begin(), waiting_.end(), refused) == 1);
    CHECK(refused == nullptr || !refused->paused);
  }
}

}  // namespace tessera

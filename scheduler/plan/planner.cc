#include "scheduler/plan/planner.h"

#include <algorithm>
#include <limits>

#include "kernels/base/log.h"

namespace tessera {
namespace {

// The first prompt chunk of a step is never cut below this number of tokens, even if the step then
// exceeds its target time: the prompt must make progress.
constexpr int64_t kMinChunkTokens = 16;
// A sequence waits for a prefix that another sequence computes if this saves at least so many
// tokens.
constexpr int64_t kMinAnnouncedGain = 16;
// A plan brings needs of waiting sequences to the pool, in the queue's order, until so many
// distinct needs of a model are loading. The plan brings one need even if so many needs are loading
// already.
constexpr int64_t kNeedLookahead = 32;
// The number of waiting sequences in which a plan searches for needs to load. It exceeds
// kNeedLookahead because many sequences may share a need.
constexpr int64_t kMaxNeedyLooks = 8 * kNeedLookahead;
// The number of waiting sequences for which a plan may free slots of tenants that have more than
// their share.
constexpr int kMaxSlotLooks = 8;
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

}  // namespace

Range ScoredTokens(const Sequence& s, int64_t begin, int64_t end) {
  if (s.request->prompt_logprobs < 0 || s.index != 0) return {};
  // After a preemption the prompt is computed again, but tokens that have a logprob are not scored
  // again.
  const int64_t first = std::max(begin, s.num_scored);
  const int64_t last = std::min(end, s.num_prompt - 1);
  return {static_cast<int32_t>(first), static_cast<int32_t>(std::max<int64_t>(0, last - first))};
}

Planner::Planner(const SchedulerState& state, const WaitingQueue& queue, const QueuePolicy& policy,
                 const KvManager& kv, const Residency& residency, int64_t now_us,
                 PlanScratch* scratch)
    : state_(state),
      queue_(queue),
      policy_(policy),
      kv_(kv),
      residency_(residency),
      now_us_(now_us),
      scratch_(scratch) {
  for (const Model& model : state_.models) plan_.turns.push_back(model.turn);
}

StepPlan Planner::Run() {
  for (const int32_t model : ModelOrder()) {
    PlanModel(model);
    // A plan that only preempts ends here: Scheduler::Schedule commits it and plans again.
    if (!plan_.entries.empty() || !plan_.preempted.empty()) break;
    // The model has work but can compute nothing now. Without a step in flight it counts as idle,
    // so it earns no credit for this time.
    plan_.turns[model].active = state_.models[model].num_inflight > 0;
  }
  return std::move(plan_);
}

std::vector<int32_t> Planner::ModelOrder() {
  std::vector<ModelTurn>& turns = plan_.turns;
  const auto has_work = [this](size_t m) {
    return state_.models[m].num_unpaused > 0 || queue_.num_active(static_cast<int32_t>(m)) > 0;
  };
  double least_used = -1.0;
  for (size_t m = 0; m < turns.size(); ++m) {
    if (!has_work(m) || !turns[m].active) continue;
    least_used = least_used < 0 ? turns[m].used_us : std::min(least_used, turns[m].used_us);
  }
  // All models were idle: the count of used device time starts at zero again.
  if (least_used < 0) {
    for (ModelTurn& turn : turns) turn.used_us = 0.0;
  }
  std::vector<int32_t> order;
  for (size_t m = 0; m < turns.size(); ++m) {
    ModelTurn& turn = turns[m];
    // A model that was idle earns no credit for that time.
    if (has_work(m) && !turn.active) turn.used_us = std::max(turn.used_us, least_used);
    turn.active = has_work(m);
    if (turn.active) order.push_back(static_cast<int32_t>(m));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return turns[a].used_us < turns[b].used_us; });
  return order;
}

void Planner::StartModel(int32_t model) {
  model_ = model;
  plan_.model = model;
  available_pages_ = residency_.AvailablePages(model);
  outstanding_slabs_ = state_.outstanding_slabs;
  num_running_ = state_.num_running;
  num_free_slots_ = static_cast<int64_t>(state_.free_slots.size());
  victims_ranked_ = false;
  has_tenants_ = policy_.DividesByTenants();
  makes_pages_ = false;
  admitted_of_.clear();
  awaited_pages_.reset();
  lookahead_ = std::max<int64_t>(1, kNeedLookahead - queue_.num_loading_needs(model));
  num_needy_looks_ = kMaxNeedyLooks;
  last_considered_ = nullptr;
  last_waits_for_.reset();
  scratch_->kv.Clear();
  scratch_->marks.assign(state_.options.max_num_seqs, 0);
  scratch_->needs.clear();
  scratch_->wanted.clear();
}

void Planner::PlanModel(int32_t model) {
  StartModel(model);
  if (has_tenants_ && num_free_slots_ == 0) FreeSlotsForShares();
  PlanDecodes();
  plan_.most_us = MostStepUs();
  const bool has_waiting = queue_.num_active(model_) > 0;
  std::optional<WaitingQueue::Cursor> cursor;
  if (has_waiting) cursor.emplace(queue_, model_, now_us_);
  // The prompt of a tenant that has been served less comes before those that run.
  if (has_waiting && has_tenants_) PlanAdmissions(LeastPromptShare(), &*cursor);
  PlanPrefills();
  if (has_waiting) PlanAdmissions(std::numeric_limits<double>::infinity(), &*cursor);
  // Entries with the same need are adjacent, so that the step reads the need's weights once.
  const auto by_need = [](const PlanEntry& a, const PlanEntry& b) {
    return a.sequence->need < b.sequence->need;
  };
  if (!std::is_sorted(plan_.entries.begin(), plan_.entries.end(), by_need)) {
    std::stable_sort(plan_.entries.begin(), plan_.entries.end(), by_need);
  }
}

void Planner::PlanDecodes() {
  std::vector<Sequence*>& decodes = scratch_->decodes;
  decodes.clear();
  QueueKey last;
  bool sorted = true;
  state_.models[model_].running.ForEach([&](Sequence* s) {
    if (!Runnable(*s) || s->num_to_compute() != 1 || !s->holes.empty()) return;
    const QueueKey key = policy_.Key(*s, now_us_);
    sorted = sorted && (decodes.empty() || last < key);
    last = key;
    decodes.push_back(s);
  });
  if (!sorted) SortDecodes();
  plan_.entries.reserve(decodes.size() + 8);
  for (size_t i = 0; i < decodes.size(); ++i) {
    if (i + kPrefetchTurns < decodes.size()) PrefetchSequence(decodes[i + kPrefetchTurns]);
    Sequence* const s = decodes[i];
    if (scratch_->marks[s->slot] != 0) continue;  // preempted for an earlier sequence of this loop
    if (TakeOrPreempt(s, s->num_scheduled() + 1)) AddEntry(s, s->num_scheduled(), 1, false);
  }
}

void Planner::SortDecodes() {
  auto& keyed = scratch_->keyed;
  keyed.clear();
  for (Sequence* const s : scratch_->decodes) keyed.emplace_back(policy_.Key(*s, now_us_), s);
  std::sort(keyed.begin(), keyed.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < keyed.size(); ++i) scratch_->decodes[i] = keyed[i].second;
}

double Planner::MostStepUs() const {
  const SchedulerOptions& options = state_.options;
  const CostModel& cost = state_.models[model_].cost;
  if (plan_.empty() || options.target_step_us <= 0 || !cost.fitted()) return 0.0;
  return std::max(static_cast<double>(options.target_step_us),
                  options.target_step_ratio * cost.PredictUs(plan_.cost));
}

// Whether the sequence has more to compute than the token that it has sampled last.
bool Planner::IsPrompt(const Sequence& s) const {
  return Runnable(s) && (s.num_to_compute() > 1 || !s.holes.empty());
}

double Planner::LeastPromptShare() const {
  double least = std::numeric_limits<double>::infinity();
  if (state_.models[model_].prompts.num_tokens == 0) return least;
  state_.models[model_].running.ForEach([&](const Sequence* s) {
    if (scratch_->marks[s->slot] != 0 || !IsPrompt(*s)) return;
    least = std::min(least, state_.tenants.used_us(s->tenant));
  });
  return least;
}

void Planner::PlanPrefills() {
  if (state_.models[model_].prompts.num_tokens == 0) return;
  if (!has_tenants_) {
    state_.models[model_].running.ForEachWhile([this](Sequence* s) { return PlanPrefill(s); });
    return;
  }
  std::vector<Sequence*> prompts;
  state_.models[model_].running.ForEach([&](Sequence* s) {
    if (IsPrompt(*s)) prompts.push_back(s);
  });
  std::stable_sort(prompts.begin(), prompts.end(), [this](const Sequence* a, const Sequence* b) {
    return state_.tenants.used_us(a->tenant) < state_.tenants.used_us(b->tenant);
  });
  for (Sequence* s : prompts) {
    if (!PlanPrefill(s)) return;
  }
}

// Returns false if the plan has no room for further prompts.
bool Planner::PlanPrefill(Sequence* s) {
  if (scratch_->marks[s->slot] != 0 || !IsPrompt(*s)) return true;
  const int64_t first = s->NextToCompute();
  const int64_t chunk = ChunkTokens(*s, first, s->num_to_compute());
  if (chunk == 0) return false;
  const int64_t end = s->num_scheduled() + std::max<int64_t>(0, chunk - s->num_hole_tokens());
  // With an empty plan no running sequence would finish and free pages, so one is preempted.
  if (Take(*s, end) || (plan_.empty() && TakeOrPreempt(s, end))) {
    AddEntry(s, first, chunk, false);
  }
  return true;
}

// A sequence of a tenant that has less than its share of the slots takes the slot of the worst
// sequence of the tenant that exceeds its share most, if the sequence can be admitted then.
void Planner::FreeSlotsForShares() {
  if (queue_.num_active(model_) == 0) return;
  WaitingQueue::Cursor cursor(queue_, model_, now_us_);
  const PageLayout& layout = kv_.layout(model_);
  SlotChanges changes;
  int64_t needed_slabs = NumReservedSlabs();
  for (int i = 0; i < kMaxSlotLooks; ++i) {
    Sequence* const s = cursor.Next();
    if (s == nullptr) return;
    const int64_t num_gained = changes[s->tenant];
    const int64_t num_running = state_.tenants.num_running(s->tenant) + num_gained;
    if (num_gained >= state_.tenants.room_to_run(s->tenant) ||
        state_.tenants.IsOverShare(s->tenant, num_running + 1)) {
      cursor.SkipTenant(s->tenant);
      continue;
    }
    if (!policy_.MayEnter(*s) || !residency_.IsReady(s->need)) continue;
    const KvMatch match = kv_.Match(&s->kv, s->known_tokens(), &scratch_->kv);
    if (match.announced_tokens >= match.hit_tokens + kMinAnnouncedGain) continue;
    Sequence* const victim = SlotVictim(changes);
    if (victim == nullptr) return;
    needed_slabs += PromptSlabs(s->num_tokens());
    const int64_t needed_pages = CeilDiv<int64_t>(needed_slabs, layout.slabs_per_page);
    if (needed_pages > available_pages_ + PagesBack(*victim)) return;
    Preempt(victim);
    ++num_free_slots_;
    ++changes[s->tenant];
    --changes[victim->tenant];
  }
}

Sequence* Planner::SlotVictim(const SlotChanges& changes) const {
  Sequence* worst = nullptr;
  QueueKey worst_key;
  for (const Model& model : state_.models) {
    model.running.ForEach([&](Sequence* s) {
      if (s->num_steps > 0 || scratch_->marks[s->slot] != 0) return;
      const auto change = changes.find(s->tenant);
      const int64_t num_running =
          state_.tenants.num_running(s->tenant) + (change == changes.end() ? 0 : change->second);
      if (!state_.tenants.IsOverShare(s->tenant, num_running)) return;
      QueueKey key = policy_.Key(*s, now_us_);
      key.share = static_cast<double>(num_running) / state_.tenants.weight(s->tenant);
      if (worst != nullptr && key < worst_key) return;
      worst = s;
      worst_key = key;
    });
  }
  return worst;
}

// Admits sequences whose key has a share below `limit`.
void Planner::PlanAdmissions(double limit, WaitingQueue::Cursor* cursor) {
  // A plan that preempts for pages admits no sequence: the freed pages are for running sequences.
  if (makes_pages_) return;
  const bool has_room =
      num_free_slots_ > 0 && plan_.cost.num_tokens < state_.options.max_num_batched_tokens;
  if (!has_room) cursor->SkipReady();
  while (cursor->NextShare() < limit) {
    if (!ConsiderWaiting(cursor->Next(), cursor)) return;
  }
}

bool Planner::ConsiderWaiting(Sequence* s, WaitingQueue::Cursor* cursor) {
  if (IsAfterRefused(*s)) return false;
  if (!policy_.MayEnter(*s) || !MayRun(*s)) {
    cursor->SkipTenant(s->tenant);
    return true;
  }
  if (!residency_.IsReady(s->need)) return ConsiderNeedy(s, cursor);
  if (num_free_slots_ == 0 || ChunkTokens(*s, 0, 1) == 0) {
    cursor->SkipReady();
    return true;
  }
  const size_t num_entries = plan_.entries.size();
  const bool goes_on = ConsiderReady(s);
  if (has_tenants_ && plan_.entries.size() > num_entries) {
    // What the whole prompt will cost counts at once, so that one plan serves several tenants.
    const StepCost prompt = PrefillCost(s->num_tokens() - plan_.entries.back().begin(),
                                        state_.options.max_num_batched_tokens);
    cursor->Charge(s->tenant, state_.models[model_].cost.PredictUs(prompt, 0) /
                                  state_.tenants.weight(s->tenant));
  }
  return goes_on;
}

bool Planner::MayRun(const Sequence& s) const {
  const auto admitted = admitted_of_.find(s.tenant);
  const int64_t num_admitted = admitted == admitted_of_.end() ? 0 : admitted->second;
  return num_admitted < state_.tenants.room_to_run(s.tenant);
}

// A need is brought even if no slot is free, because loading takes longer than waiting for a slot.
bool Planner::ConsiderNeedy(Sequence* s, WaitingQueue::Cursor* cursor) {
  if (num_needy_looks_-- == 0) {
    cursor->SkipNeedy();
    return true;
  }
  const Sequence*& refused = plan_.turns[model_].refused;
  if (scratch_->wanted.contains(s->need)) {
    if (refused == s) refused = nullptr;
    plan_.wants.push_back(s);
    return true;
  }
  if (lookahead_ == 0) {
    cursor->SkipNeedy();
    return true;
  }
  --lookahead_;
  const int64_t num_pages = residency_.PagesToPlace(s->need);
  if (num_pages > 0 && !IsAlone() && !kv_.adapters_apart()) {
    const int64_t num_reserved =
        CeilDiv<int64_t>(NumReservedSlabs(), kv_.layout(model_).slabs_per_page);
    if (num_pages + num_reserved > available_pages_) {
      refused = s;
      return false;
    }
    // While no slot is free, this need must not evict idle needs of other waiting sequences:
    // those sequences would load them again.
    if (num_free_slots_ == 0 && num_pages + num_reserved + AwaitedPages() > available_pages_) {
      return false;
    }
    available_pages_ -= num_pages;
  }
  if (refused == s) refused = nullptr;
  scratch_->wanted.insert(s->need);
  plan_.wants.push_back(s);
  return true;
}

int64_t Planner::AwaitedPages() {
  if (!awaited_pages_.has_value()) awaited_pages_ = residency_.AwaitedPages(model_);
  return *awaited_pages_;
}

bool Planner::ConsiderReady(Sequence* s) {
  // The queue's order keeps the copies of a request adjacent.
  const bool is_copy = last_considered_ != nullptr && last_considered_->request == s->request;
  if (!is_copy) last_waits_for_.reset();
  if (is_copy) LearnFromCopy(s);
  last_considered_ = s;
  if (last_waits_for_.has_value()) {
    plan_.waits.push_back({s, *last_waits_for_});
    return true;
  }
  return TryAdmit(s);
}

// Copies of a request have one prompt. A copy therefore takes the page hashes of the previous copy
// and waits for the same page instead of looking the prompt up again.
void Planner::LearnFromCopy(Sequence* s) {
  const Sequence& copy = *last_considered_;
  const bool alike = copy.kv.cacheable && s->kv.cacheable;
  if (!alike || !s->tokens.empty() || !copy.tokens.empty()) last_waits_for_.reset();
  if (!alike || last_waits_for_.has_value()) return;
  const int64_t max_names = s->num_prompt / kv_.layout(model_).page_tokens();
  const auto learn = [max_names](const std::vector<PageHash>& known, std::vector<PageHash>* names) {
    const size_t num_names = std::min<size_t>(known.size(), max_names);
    if (names->size() >= num_names) return;
    names->assign(known.begin(), known.begin() + num_names);
  };
  learn(copy.kv.hashes, &s->kv.hashes);
  for (size_t i = 0; i < copy.kv.accepted.size(); ++i) {
    learn(copy.kv.accepted[i].hashes, &s->kv.accepted[i].hashes);
  }
}

bool Planner::IsAfterRefused(const Sequence& s) const {
  const QueueKey key = policy_.Key(s, now_us_);
  return std::any_of(plan_.turns.begin(), plan_.turns.end(), [&](const ModelTurn& turn) {
    return turn.refused != nullptr && policy_.MayEnter(*turn.refused) && MayRun(*turn.refused) &&
           policy_.Key(*turn.refused, now_us_) < key;
  });
}

bool Planner::TryAdmit(Sequence* s) {
  const KvMatch match = kv_.Match(&s->kv, s->known_tokens(), &scratch_->kv);
  const PageLayout& layout = kv_.layout(model_);
  const int64_t num_tokens = s->num_tokens();
  const Sequence*& refused = plan_.turns[model_].refused;
  if (match.announced_tokens >= match.hit_tokens + kMinAnnouncedGain) {
    if (refused == s) refused = nullptr;
    // After this page is published, waiting further would save fewer than kMinAnnouncedGain tokens.
    const int64_t page = (match.announced_tokens - kMinAnnouncedGain) / layout.page_tokens();
    last_waits_for_ = kv_.AnnouncedName(s->kv, match, page, &scratch_->kv);
    plan_.waits.push_back({s, *last_waits_for_});
    return true;
  }
  const int64_t chunk = ChunkTokens(*s, match.hit_tokens, num_tokens - match.hit_tokens);
  if (chunk == 0) return false;
  const int64_t end = match.hit_tokens + chunk;
  const int64_t num_new =
      (CeilDiv<int64_t>(end, layout.page_tokens()) - match.hit_tokens / layout.page_tokens()) *
      layout.num_groups();
  const int64_t rest = std::max<int64_t>(0, PromptSlabs(num_tokens) - PromptSlabs(end));
  // If nothing else runs, the sequence may start when its first chunk fits.
  const int64_t reserve = IsAlone() ? 0 : rest + NumReservedSlabs();
  const int64_t num_idle =
      scratch_->needs.contains(s->need) ? 0 : residency_.IdlePages(s->need, model_);
  const int64_t num_taken = match.evictable_pages + num_new + num_idle;
  const bool fits =
      num_taken + CeilDiv<int64_t>(reserve, layout.slabs_per_page) <= available_pages_;
  // AvailablePages does not count idle needs in smaller pages. If nothing else runs, Commit tries
  // to free them for this sequence.
  if (!fits && !(IsAlone() && residency_.HasIdleNeeds(s->need))) return Refuse(s);
  if (refused == s) refused = nullptr;
  kv_.Foresee(&s->kv, s->known_tokens(), match, &scratch_->kv);
  available_pages_ -= num_taken;
  outstanding_slabs_ += rest;
  --num_free_slots_;
  ++num_running_;
  if (state_.tenants.room_to_run(s->tenant) != kNoLimit) ++admitted_of_[s->tenant];
  AddEntry(s, match.hit_tokens, chunk, true);
  return true;
}

bool Planner::Refuse(Sequence* s) {
  if (!IsAlone() || residency_.IsPlacing()) {
    plan_.turns[model_].refused = s;
    return false;
  }
  // Nothing runs that could free pages, so the sequence would block the queue for ever.
  plan_.unfit.push_back(s);
  return true;
}

bool Planner::Take(const Sequence& s, int64_t num_tokens) {
  const int64_t num_pages = PagesLacking(s, num_tokens);
  if (num_pages == 0) return true;
  if (num_pages > available_pages_) return false;
  available_pages_ -= num_pages;
  const int64_t slabs = num_pages * kv_.layout(model_).slabs_per_page;
  outstanding_slabs_ -= std::min(slabs, s.share.outstanding_slabs);
  return true;
}

bool Planner::TakeOrPreempt(Sequence* sequence, int64_t num_tokens) {
  while (!Take(*sequence, num_tokens)) {
    Sequence* const victim = NextVictim();
    // Without a victim, every other sequence is in flight or planned. The pages of these sequences
    // become free later.
    if (victim == nullptr) return false;
    if (victim == sequence && num_running_ == 1) {
      // AvailablePages does not count idle needs in smaller pages; Commit tries to free them.
      if (residency_.HasIdleNeeds()) return true;
      // A need that is being copied will be idle soon and can be evicted then.
      if (residency_.IsPlacing()) return false;
      if (plan_.preempted.empty()) {
        // After preempting itself, the sequence would lack the same pages again.
        plan_.unfit.push_back(sequence);
        return false;
      }
    }
    makes_pages_ = true;
    Preempt(victim);
    if (victim == sequence) return false;
  }
  return true;
}

// The running sequence, of any model, with the largest key; if several tenants have work, that of
// the tenant with the most running sequences for its weight. Sequences that a step in flight or
// this plan computes are left out. Null: there is none.
Sequence* Planner::NextVictim() {
  auto& worst = scratch_->worst;
  const auto better = [](const auto& a, const auto& b) { return a.first < b.first; };
  if (!victims_ranked_) {
    worst.clear();
    for (const Model& model : state_.models) {
      model.running.ForEach([&](Sequence* s) {
        if (s->num_steps > 0) return;
        QueueKey key = policy_.Key(*s, now_us_);
        if (has_tenants_) key.share = state_.tenants.load(s->tenant);
        worst.emplace_back(key, s);
      });
    }
    std::make_heap(worst.begin(), worst.end(), better);
    victims_ranked_ = true;
  }
  while (!worst.empty()) {
    std::pop_heap(worst.begin(), worst.end(), better);
    Sequence* const s = worst.back().second;
    worst.pop_back();
    if (scratch_->marks[s->slot] == 0) return s;
  }
  return nullptr;
}

void Planner::Preempt(Sequence* s) {
  scratch_->marks[s->slot] = 1;
  plan_.preempted.push_back(s);
  available_pages_ += PagesBack(*s);
  outstanding_slabs_ -= s->share.outstanding_slabs;
  --num_running_;
}

int64_t Planner::PagesBack(const Sequence& s) const {
  const int64_t slabs = kv_.ExclusivePages(s.kv) * kv_.layout(s.request->model).slabs_per_page;
  return slabs / kv_.layout(model_).slabs_per_page;
}

// A sequence whose last token is still being sampled may run ahead only if it has no penalties
// (they depend on that token's id) and that token does not reach max_tokens.
bool Planner::Runnable(const Sequence& s) const {
  if (s.state != SequenceState::kRunning || s.paused) return false;
  if (s.num_to_compute() <= 0) return false;
  if (s.num_pending == 0) return true;
  return !s.has_penalties() && s.num_generated() < s.request->stopping.max_tokens;
}

int64_t Planner::ChunkTokens(const Sequence& s, int64_t begin, int64_t wanted) const {
  const int64_t budget = state_.options.max_num_batched_tokens - plan_.cost.num_tokens;
  const int64_t chunk = std::min(wanted, budget);
  if (plan_.most_us == 0.0) return chunk;
  const CostModel& cost = state_.models[model_].cost;
  const auto fits = [&](int64_t tokens) {
    const int64_t end = begin + tokens;
    StepCost total = plan_.cost;
    AddCost(s, tokens, end, ScoredTokens(s, begin, end).count + 1, &total);
    return cost.PredictUs(total) <= plan_.most_us;
  };
  if (chunk <= 0 || fits(chunk)) return std::max<int64_t>(chunk, 0);
  int64_t low = 0;
  int64_t high = chunk;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (fits(middle) ? low : high) = middle;
  }
  // The first prompt of a step gets at least kMinChunkTokens; a further prompt gets none if fewer
  // than that fit the target.
  const bool has_prompt = plan_.cost.num_tokens > plan_.cost.num_segments;
  if (has_prompt) return low < kMinChunkTokens ? 0 : low;
  return std::min(chunk, std::max(low, kMinChunkTokens));
}

void Planner::AddEntry(Sequence* s, int64_t first, int64_t num_tokens, bool admits) {
  PlanEntry entry;
  entry.sequence = s;
  entry.admits = admits;
  if (admits) {
    entry.ranges.push_back({first, first + num_tokens});
  } else {
    scratch_->marks[s->slot] = 1;
    s->NextRanges(num_tokens, &entry.ranges);
  }
  const Request& request = *s->request;
  entry.samples = request.kind == RequestKind::kGenerate && entry.end() == s->num_tokens();
  const Range scored = ScoredTokens(*s, entry.begin(), entry.end());
  entry.target_begin = scored.begin;
  entry.num_targets = scored.count;
  int64_t logit_rows = entry.num_targets + (entry.samples ? 1 : 0);
  for (const TokenRange& range : entry.ranges) {
    AddCost(*s, range.size(), range.end, std::exchange(logit_rows, 0), &plan_.cost);
    if (s->need != kNoNeed) scratch_->needs.insert(s->need);
  }
  plan_.entries.push_back(std::move(entry));
}

void Planner::AddCost(const Sequence& s, int64_t num_tokens, int64_t context_length,
                      int64_t logit_rows, StepCost* cost) const {
  cost->AddSegment(num_tokens, context_length, logit_rows);
  if (s.need == kNoNeed) return;
  cost->AddAdapter(num_tokens, residency_.slabs(s.need), !scratch_->needs.contains(s.need));
}

int64_t Planner::PromptSlabs(int64_t num_tokens) const {
  return kv_.SlabsFor(model_, num_tokens, state_.options.max_num_batched_tokens);
}

}  // namespace tessera

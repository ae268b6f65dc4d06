#include "scheduler/plan/queue.h"

#include <algorithm>
#include <limits>

#include "kernels/base/log.h"

namespace tessera {

WaitingQueue::WaitingQueue(const QueuePolicy* policy, size_t num_models, int64_t step_tokens)
    : policy_(policy), step_tokens_(step_tokens), models_(num_models) {}

void WaitingQueue::Insert(Sequence* sequence, bool ready) {
  CHECK(sequence->place == QueuePlace::kNone);
  ++num_waiting_;
  if (sequence->need != kNoNeed) by_need_[sequence->need].insert(sequence);
  if (sequence->paused) {
    File(sequence, QueuePlace::kPaused);
    return;
  }
  Count(*sequence, 1);
  File(sequence, ready ? QueuePlace::kReady : QueuePlace::kNeedy);
}

void WaitingQueue::Erase(Sequence* sequence) {
  if (sequence->place != QueuePlace::kPaused) Count(*sequence, -1);
  Unfile(sequence);
  --num_waiting_;
  if (sequence->need == kNoNeed) return;
  const auto it = by_need_.find(sequence->need);
  it->second.erase(sequence);
  if (it->second.empty()) by_need_.erase(it);
}

void WaitingQueue::SetPaused(Sequence* sequence, bool paused, bool ready) {
  if (paused == (sequence->place == QueuePlace::kPaused)) return;
  Unfile(sequence);
  Count(*sequence, paused ? -1 : 1);
  const QueuePlace place = ready ? QueuePlace::kReady : QueuePlace::kNeedy;
  File(sequence, paused ? QueuePlace::kPaused : place);
}

void WaitingQueue::AwaitNeed(Sequence* sequence) {
  Unfile(sequence);
  File(sequence, QueuePlace::kLoading);
}

void WaitingQueue::AwaitPrefix(Sequence* sequence, const PageHash& page) {
  Unfile(sequence);
  sequence->awaited = page;
  File(sequence, QueuePlace::kPrefix);
}

void WaitingQueue::WakeNeed(NeedId need, bool ready) {
  const auto it = by_need_.find(need);
  if (it == by_need_.end()) return;
  const QueuePlace place = ready ? QueuePlace::kReady : QueuePlace::kNeedy;
  for (Sequence* s : it->second) {
    if (s->place == place || s->place == QueuePlace::kPaused || s->place == QueuePlace::kPrefix) {
      continue;
    }
    Unfile(s);
    File(s, place);
  }
}

void WaitingQueue::WakePrefix(int32_t model, const PageHash& page,
                              const std::function<bool(const Sequence&)>& is_ready) {
  const auto it = by_prefix_.find({page, model});
  if (it == by_prefix_.end()) return;
  const absl::flat_hash_set<Sequence*> waiting = it->second;
  for (Sequence* s : waiting) {
    Unfile(s);
    File(s, is_ready(*s) ? QueuePlace::kReady : QueuePlace::kNeedy);
  }
}

std::vector<Sequence*> WaitingQueue::WithNeed(NeedId need) const {
  const auto it = by_need_.find(need);
  if (it == by_need_.end()) return {};
  std::vector<Sequence*> sequences(it->second.begin(), it->second.end());
  std::sort(sequences.begin(), sequences.end(), [](const Sequence* a, const Sequence* b) {
    return std::tie(a->request->id, a->index) < std::tie(b->request->id, b->index);
  });
  return sequences;
}

int64_t WaitingQueue::num_loading_needs(int32_t model) const {
  return static_cast<int64_t>(models_[model].loading.size());
}

void WaitingQueue::File(Sequence* sequence, QueuePlace place) {
  Model& model = models_[sequence->request->model];
  sequence->place = place;
  const bool loading = place == QueuePlace::kLoading || place == QueuePlace::kPrefix;
  sequence->state = loading ? SequenceState::kLoading : SequenceState::kWaiting;
  switch (place) {
    case QueuePlace::kReady:
    case QueuePlace::kNeedy:
      model.lanes[KeyOf(*sequence, place == QueuePlace::kNeedy)].insert(ItemOf(sequence));
      return;
    case QueuePlace::kLoading:
      ++model.loading[sequence->need];
      return;
    case QueuePlace::kPrefix:
      by_prefix_[{sequence->awaited, sequence->request->model}].insert(sequence);
      return;
    case QueuePlace::kPaused:
      paused_.insert(sequence);
      return;
    case QueuePlace::kNone:
      CHECK(false);
  }
}

void WaitingQueue::Unfile(Sequence* sequence) {
  Model& model = models_[sequence->request->model];
  const QueuePlace place = std::exchange(sequence->place, QueuePlace::kNone);
  switch (place) {
    case QueuePlace::kReady:
    case QueuePlace::kNeedy: {
      const auto lane = model.lanes.find(KeyOf(*sequence, place == QueuePlace::kNeedy));
      CHECK_EQ(lane->second.erase(ItemOf(sequence)), 1u);
      if (lane->second.empty()) model.lanes.erase(lane);
      return;
    }
    case QueuePlace::kLoading: {
      const auto loading = model.loading.find(sequence->need);
      if (--loading->second == 0) model.loading.erase(loading);
      return;
    }
    case QueuePlace::kPrefix: {
      const auto waiting = by_prefix_.find({sequence->awaited, sequence->request->model});
      waiting->second.erase(sequence);
      if (waiting->second.empty()) by_prefix_.erase(waiting);
      return;
    }
    case QueuePlace::kPaused:
      paused_.erase(sequence);
      return;
    case QueuePlace::kNone:
      CHECK(false) << "request " << sequence->request->id << " does not wait";
  }
}

// The number of tokens that a waiting sequence is predicted to generate still.
int64_t ExpectedTokens(const Sequence& sequence) {
  return std::max<int64_t>(0, sequence.expected_tokens - sequence.num_generated());
}

// Adds (`sign` 1) or removes (-1) a sequence. Its tokens do not change while it waits, so the same
// cost is removed as was added.
void WaitingQueue::Count(const Sequence& sequence, int sign) {
  const StepCost cost = PrefillCost(sequence.num_tokens(), step_tokens_);
  Model& model = models_[sequence.request->model];
  sign > 0 ? model.cost += cost : model.cost -= cost;
  model.expected_tokens += sign * ExpectedTokens(sequence);
  model.num_active += sign;
  num_active_ += sign;
}

std::vector<Sequence*> WaitingQueue::All() const {
  std::vector<Sequence*> all(paused_.begin(), paused_.end());
  for (const Model& model : models_) {
    for (const auto& [key, lane] : model.lanes) {
      for (const Item& item : lane) all.push_back(item.sequence);
    }
  }
  for (const auto& [need, sequences] : by_need_) {
    for (Sequence* s : sequences) {
      if (s->place == QueuePlace::kLoading) all.push_back(s);
    }
  }
  for (const auto& [name, sequences] : by_prefix_) {
    all.insert(all.end(), sequences.begin(), sequences.end());
  }
  return all;
}

void WaitingQueue::CheckInvariants() const {
  std::vector<StepCost> costs(models_.size());
  std::vector<int64_t> num_active(models_.size(), 0);
  std::vector<int64_t> expected_tokens(models_.size(), 0);
  const std::vector<Sequence*> all = All();
  CHECK_EQ(static_cast<int64_t>(all.size()), num_waiting_);
  for (const Sequence* s : all) {
    CHECK(s->place != QueuePlace::kNone);
    CHECK_EQ(s->paused, s->place == QueuePlace::kPaused);
    CHECK(s->running_index < 0);
    if (s->paused) continue;
    costs[s->request->model] += PrefillCost(s->num_tokens(), step_tokens_);
    expected_tokens[s->request->model] += ExpectedTokens(*s);
    ++num_active[s->request->model];
  }
  int64_t sum = 0;
  for (size_t m = 0; m < models_.size(); ++m) {
    CHECK(costs[m] == models_[m].cost) << "model " << m;
    CHECK_EQ(num_active[m], models_[m].num_active) << "model " << m;
    CHECK_EQ(expected_tokens[m], models_[m].expected_tokens) << "model " << m;
    sum += num_active[m];
    for (const auto& [key, lane] : models_[m].lanes) CHECK(!lane.empty());
  }
  CHECK_EQ(sum, num_active_);
}

// Orders the heap of spans: the span with the smallest key is on top.
constexpr auto kWorse = [](const auto& a, const auto& b) { return b.best < a.best; };

WaitingQueue::Cursor::Cursor(const WaitingQueue& queue, int32_t model, int64_t now_us)
    : policy_(*queue.policy_), now_us_(now_us) {
  const auto& lanes = queue.models_[model].lanes;
  heap_.reserve(lanes.size());
  const int64_t split_us = policy_.SplitUs(now_us);
  for (const auto& [key, lane] : lanes) {
    const auto split = lane.lower_bound(Item{split_us, 0, 0, nullptr});
    AddSpan(key, lane.begin(), split);
    AddSpan(key, split, lane.end());
  }
  std::make_heap(heap_.begin(), heap_.end(), kWorse);
}

void WaitingQueue::Cursor::AddSpan(const LaneKey& key, Lane::const_iterator first,
                                   Lane::const_iterator end) {
  if (first == end) return;
  Span span{key, first, std::prev(end), false, {}};
  Pick(&span);
  heap_.push_back(span);
}

// Selects the end of the span that has the smaller key.
void WaitingQueue::Cursor::Pick(Span* span) const {
  span->best = policy_.Key(*span->first->sequence, now_us_);
  span->from_back = false;
  if (span->first != span->last) {
    const QueueKey back = policy_.Key(*span->last->sequence, now_us_);
    if (back < span->best) {
      span->best = back;
      span->from_back = true;
    }
  }
  if (charged_.empty()) return;
  const auto charged = charged_.find(span->key.tenant);
  if (charged != charged_.end()) span->best.share += charged->second;
}

double WaitingQueue::Cursor::NextShare() const {
  return heap_.empty() ? std::numeric_limits<double>::infinity() : heap_.front().best.share;
}

void WaitingQueue::Cursor::Charge(int32_t tenant, double share) {
  charged_[tenant] += share;
  for (Span& span : heap_) {
    if (span.key.tenant == tenant) Pick(&span);
  }
  std::make_heap(heap_.begin(), heap_.end(), kWorse);
}

Sequence* WaitingQueue::Cursor::Next() {
  if (heap_.empty()) return nullptr;
  std::pop_heap(heap_.begin(), heap_.end(), kWorse);
  Span& span = heap_.back();
  Sequence* const next = (span.from_back ? span.last : span.first)->sequence;
  if (span.first == span.last) {
    heap_.pop_back();
    return next;
  }
  span.from_back ? --span.last : ++span.first;
  Pick(&span);
  std::push_heap(heap_.begin(), heap_.end(), kWorse);
  return next;
}

template <class Skip>
void WaitingQueue::Cursor::SkipIf(Skip skip) {
  heap_.erase(std::remove_if(heap_.begin(), heap_.end(), skip), heap_.end());
  std::make_heap(heap_.begin(), heap_.end(), kWorse);
}

void WaitingQueue::Cursor::SkipTenant(int32_t tenant) {
  SkipIf([tenant](const Span& span) { return span.key.tenant == tenant; });
}

void WaitingQueue::Cursor::SkipReady() {
  SkipIf([](const Span& span) { return !span.key.needy; });
}

void WaitingQueue::Cursor::SkipNeedy() {
  SkipIf([](const Span& span) { return span.key.needy; });
}

}  // namespace tessera

// Compares the queue of waiting sequences with a naive model: a list sorted by the policy's keys.
#include "scheduler/plan/queue.h"
#include "tests/lib/sanitizers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <random>

namespace tessera {
namespace {

constexpr int kVerbs = testing::kSanitized ? 4'000 : 40'000;
constexpr int32_t kModels = 2;
constexpr int32_t kTenants = 3;
constexpr NeedId kNeeds = 4;
constexpr int64_t kStepTokens = 16;
constexpr int64_t kAgeingUs = 400;
constexpr int64_t kSloUs = 501'000;  // 1,000 us above early abort's margin of 500,000 us

PageHash Page(int number) { return {1, static_cast<uint64_t>(number)}; }

class RandomQueueTest : public ::testing::TestWithParam<QueuePolicyKind> {
 protected:
  RandomQueueTest() : random_(7 + static_cast<int>(GetParam())) {
    SchedulerOptions options;
    options.queue_policy = GetParam();
    options.ageing_us = kAgeingUs;
    options.early_abort_us = kSloUs;
    for (int32_t tenant = 0; tenant < kTenants; ++tenant) {
      accounts_.Open(tenant, {1 + tenant, 0});
      accounts_.CountRunning(tenant, 1);
    }
    policy_ = NewQueuePolicy(options, &accounts_);
    queue_ = std::make_unique<WaitingQueue>(policy_.get(), kModels, kStepTokens);
  }

  int Pick(int bound) { return static_cast<int>(random_() % static_cast<uint32_t>(bound)); }
  bool IsReady(const Sequence& s) const { return s.need == kNoNeed || ready_.at(s.need); }
  std::vector<Sequence*> In(QueuePlace place) const {
    std::vector<Sequence*> found;
    for (const auto& [s, at] : places_) {
      if (at == place) found.push_back(s);
    }
    return found;
  }
  Sequence* Any(const std::vector<Sequence*>& from) {
    return from.empty() ? nullptr : from[Pick(static_cast<int>(from.size()))];
  }

  void Submit() {
    Request& request = requests_.emplace_back();
    request.id = ++next_id_;
    request.model = Pick(kModels);
    request.priority = static_cast<Priority>(Pick(kNumPriorities));
    request.arrival_us = now_us_;
    request.prompt.assign(1 + Pick(50), 1);
    const int32_t tenant = Pick(kTenants);
    const NeedId need = Pick(2) == 0 ? kNoNeed : Pick(kNeeds);
    const int32_t num_copies = 1 + Pick(3);
    for (int32_t index = 0; index < num_copies; ++index) {
      Sequence& s = sequences_.emplace_back();
      s.request = &request;
      s.index = index;
      s.num_prompt = static_cast<int64_t>(request.prompt.size());
      s.tenant = tenant;
      s.need = need;
      Insert(&s);
    }
  }
  void Insert(Sequence* s) {
    queue_->Insert(s, IsReady(*s));
    const QueuePlace place = IsReady(*s) ? QueuePlace::kReady : QueuePlace::kNeedy;
    places_[s] = s->paused ? QueuePlace::kPaused : place;
  }
  void Leave() {
    if (places_.empty()) return;
    Sequence* const s = std::next(places_.begin(), Pick(static_cast<int>(places_.size())))->first;
    queue_->Erase(s);
    places_.erase(s);
    away_.push_back(s);
  }
  // A preempted sequence returns to the queue with its old arrival time and more tokens.
  void ComeBack() {
    if (away_.empty()) return;
    Sequence* const s = away_.back();
    away_.pop_back();
    s->TakePrompt();
    for (int i = Pick(20); i > 0; --i) s->TakeToken(2);
    s->paused = Pick(4) == 0;
    Insert(s);
  }
  void Pause() {
    if (places_.empty()) return;
    Sequence* const s = std::next(places_.begin(), Pick(static_cast<int>(places_.size())))->first;
    s->paused = !s->paused;
    queue_->SetPaused(s, s->paused, IsReady(*s));
    const QueuePlace place = IsReady(*s) ? QueuePlace::kReady : QueuePlace::kNeedy;
    places_[s] = s->paused ? QueuePlace::kPaused : place;
  }
  void Await() {
    if (Sequence* const s = Any(In(QueuePlace::kNeedy)); s != nullptr) {
      queue_->AwaitNeed(s);
      places_[s] = QueuePlace::kLoading;
    }
    if (Sequence* const s = Any(In(QueuePlace::kReady)); s != nullptr && Pick(2) == 0) {
      queue_->AwaitPrefix(s, Page(Pick(3)));
      places_[s] = QueuePlace::kPrefix;
    }
  }
  void WakeNeed() {
    const NeedId need = Pick(kNeeds);
    const bool ready = Pick(2) == 0;
    ready_[need] = ready;
    queue_->WakeNeed(need, ready);
    for (auto& [s, place] : places_) {
      if (s->need != need || place == QueuePlace::kPaused || place == QueuePlace::kPrefix) continue;
      place = ready ? QueuePlace::kReady : QueuePlace::kNeedy;
    }
  }
  void WakePrefix() {
    const int32_t model = Pick(kModels);
    const PageHash page = Page(Pick(3));
    queue_->WakePrefix(model, page, [this](const Sequence& s) { return IsReady(s); });
    for (auto& [s, place] : places_) {
      if (place != QueuePlace::kPrefix || s->request->model != model) continue;
      if (s->awaited != page) continue;
      place = IsReady(*s) ? QueuePlace::kReady : QueuePlace::kNeedy;
    }
  }
  void Turn() {
    now_us_ += Pick(40);
    const int verb = Pick(16);
    if (verb < 4 && places_.size() < 60) Submit();
    if (verb >= 4 && verb < 7) Leave();
    if (verb == 7) ComeBack();
    if (verb == 8) Pause();
    if (verb >= 9 && verb < 12) Await();
    if (verb == 12) WakeNeed();
    if (verb == 13) WakePrefix();
    // Numbers of arrivals and admissions can reverse the order of early abort.
    if (verb == 14) {
      policy_->OnPlanned(Pick(8), Pick(8));
      accounts_.Charge(Pick(kTenants), Pick(100));
    }
    if (verb == 15) now_us_ += Pick(300);
  }

  // The sequences that the cursor should show, in its order.
  std::vector<Sequence*> Order(int32_t model) const {
    std::vector<Sequence*> order;
    for (const auto& [s, place] : places_) {
      const bool filed = place == QueuePlace::kReady || place == QueuePlace::kNeedy;
      if (filed && s->request->model == model) order.push_back(s);
    }
    std::sort(order.begin(), order.end(), [this](const Sequence* a, const Sequence* b) {
      return policy_->Key(*a, now_us_) < policy_->Key(*b, now_us_);
    });
    return order;
  }
  void CheckOrder(int32_t model) {
    WaitingQueue::Cursor cursor(*queue_, model, now_us_);
    std::vector<Sequence*> expected = Order(model);
    const auto skip = [&](auto is_skipped) {
      expected.erase(std::remove_if(expected.begin(), expected.end(), is_skipped), expected.end());
    };
    std::map<int32_t, double> charged;
    const auto key = [&](const Sequence* s) {
      QueueKey key = policy_->Key(*s, now_us_);
      key.share += charged[s->tenant];
      return key;
    };
    while (!expected.empty()) {
      ASSERT_EQ(cursor.NextShare(), key(expected.front()).share);
      ASSERT_EQ(cursor.Next(), expected.front()) << "now " << now_us_;
      expected.erase(expected.begin());
      const int32_t tenant = Pick(kTenants);
      switch (Pick(24)) {
        case 0:
          cursor.SkipTenant(tenant);
          skip([tenant](const Sequence* s) { return s->tenant == tenant; });
          break;
        case 1:
          cursor.SkipReady();
          skip([this](Sequence* s) { return places_.at(s) == QueuePlace::kReady; });
          break;
        case 2:
          cursor.SkipNeedy();
          skip([this](Sequence* s) { return places_.at(s) == QueuePlace::kNeedy; });
          break;
        case 3:
          cursor.Charge(tenant, 40.0);
          charged[tenant] += 40.0;
          std::sort(expected.begin(), expected.end(),
                    [&](const Sequence* a, const Sequence* b) { return key(a) < key(b); });
          break;
        default:
          break;
      }
    }
    ASSERT_EQ(cursor.NextShare(), std::numeric_limits<double>::infinity());
    ASSERT_EQ(cursor.Next(), nullptr);
  }
  void CheckSums() const {
    ASSERT_EQ(queue_->size(), static_cast<int64_t>(places_.size()));
    std::vector<StepCost> costs(kModels);
    std::vector<int64_t> num_active(kModels, 0);
    std::vector<std::map<NeedId, int>> loading(kModels);
    for (const auto& [s, place] : places_) {
      ASSERT_EQ(s->place, place) << "request " << s->request->id;
      const bool loads = place == QueuePlace::kLoading || place == QueuePlace::kPrefix;
      ASSERT_EQ(s->state, loads ? SequenceState::kLoading : SequenceState::kWaiting);
      if (place == QueuePlace::kPaused) continue;
      costs[s->request->model] += PrefillCost(s->num_tokens(), kStepTokens);
      ++num_active[s->request->model];
      if (place == QueuePlace::kLoading) ++loading[s->request->model][s->need];
    }
    int64_t sum = 0;
    for (int32_t m = 0; m < kModels; ++m) {
      ASSERT_EQ(queue_->cost(m), costs[m]);
      ASSERT_EQ(queue_->num_active(m), num_active[m]);
      ASSERT_EQ(queue_->num_loading_needs(m), static_cast<int64_t>(loading[m].size()));
      sum += num_active[m];
    }
    ASSERT_EQ(queue_->num_active(), sum);
  }
  void CheckNeeds() const {
    for (NeedId need = 0; need < kNeeds; ++need) {
      std::vector<Sequence*> expected;
      for (const auto& [s, place] : places_) {
        if (s->need == need) expected.push_back(s);
      }
      std::sort(expected.begin(), expected.end(), [](const Sequence* a, const Sequence* b) {
        return std::tie(a->request->id, a->index) < std::tie(b->request->id, b->index);
      });
      ASSERT_EQ(queue_->WithNeed(need), expected);
    }
    std::vector<Sequence*> all = queue_->All();
    std::sort(all.begin(), all.end(), std::less<>());
    std::vector<Sequence*> expected;
    for (const auto& [s, place] : places_) expected.push_back(s);
    ASSERT_EQ(all, expected);
  }

  std::mt19937 random_;
  TenantAccounts accounts_{/*num_slots=*/8};
  std::unique_ptr<QueuePolicy> policy_;
  std::unique_ptr<WaitingQueue> queue_;
  std::deque<Request> requests_;
  std::deque<Sequence> sequences_;
  std::map<Sequence*, QueuePlace, std::less<>> places_;  // places of the waiting sequences
  std::vector<Sequence*> away_;                          // admitted sequences, by admission
  std::map<NeedId, bool> ready_ = {{0, true}, {1, false}, {2, false}, {3, true}};
  uint64_t next_id_ = 0;
  int64_t now_us_ = 1;
};

TEST_P(RandomQueueTest, ShowsWhatWaitsInTheOrderOfTheKeys) {
  for (int i = 0; i < kVerbs && !HasFatalFailure(); ++i) {
    Turn();
    queue_->CheckInvariants();
    CheckSums();
    if (i % 8 == 0) CheckNeeds();
    if (i % 4 == 0) CheckOrder(Pick(kModels));
  }
  EXPECT_GT(next_id_, uint64_t{kVerbs} / 20);
}

INSTANTIATE_TEST_SUITE_P(Policies, RandomQueueTest,
                         ::testing::Values(QueuePolicyKind::kPriority,
                                           QueuePolicyKind::kEarlyAbort));

// Without overload, early abort serves requests by arrival, but late requests last. The first
// request to serve is then in the middle of its lane.
TEST(WaitingQueueTest, TheFirstThatIsNotLateIsFoundAmongTheLate) {
  const std::unique_ptr<QueuePolicy> policy = NewEarlyAbortPolicy(kSloUs);
  policy->OnPlanned(/*num_arrived=*/1, /*num_admitted=*/9);
  WaitingQueue queue(policy.get(), 1, kStepTokens);
  std::vector<Request> requests(4);
  std::vector<Sequence> sequences(4);
  for (size_t i = 0; i < 4; ++i) {
    requests[i].id = i + 1;
    requests[i].arrival_us = static_cast<int64_t>(i) * 500;
    requests[i].prompt = {1};
    sequences[i].request = &requests[i];
    queue.Insert(&sequences[i], /*ready=*/true);
  }
  WaitingQueue::Cursor cursor(queue, 0, /*now_us=*/1'700);
  std::vector<uint64_t> ids;
  while (const Sequence* s = cursor.Next()) ids.push_back(s->request->id);
  EXPECT_EQ(ids, std::vector<uint64_t>({3, 4, 1, 2}));
}

}  // namespace
}  // namespace tessera

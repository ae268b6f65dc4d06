#include "scheduler/plan/queue_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "scheduler/plan/queue.h"

namespace tessera {
namespace {

constexpr int64_t kSloUs = 6'000'000;

class QueuePolicyTest : public ::testing::Test {
 protected:
  // Makes waiting requests with these arrival times; ids count from 1.
  void Arrive(const std::vector<int64_t>& arrivals_us) {
    requests_.resize(arrivals_us.size());
    sequences_.resize(arrivals_us.size());
    for (size_t i = 0; i < arrivals_us.size(); ++i) {
      requests_[i].id = i + 1;
      requests_[i].arrival_us = arrivals_us[i];
      sequences_[i].request = &requests_[i];
    }
  }
  std::vector<uint64_t> Order(const QueuePolicy& policy, int64_t now_us) const {
    std::vector<const Sequence*> order;
    for (const Sequence& s : sequences_) order.push_back(&s);
    std::sort(order.begin(), order.end(), [&](const Sequence* a, const Sequence* b) {
      return policy.Key(*a, now_us) < policy.Key(*b, now_us);
    });
    std::vector<uint64_t> ids;
    for (const Sequence* s : order) ids.push_back(s->request->id);
    return ids;
  }
  // The order in which the queue's cursor shows the requests.
  std::vector<uint64_t> WalkOrder(const QueuePolicy& policy, int64_t now_us) {
    WaitingQueue queue(&policy, /*num_models=*/1, /*step_tokens=*/16);
    for (Sequence& s : sequences_) queue.Insert(&s, /*ready=*/true);
    std::vector<uint64_t> ids;
    WaitingQueue::Cursor cursor(queue, /*model=*/0, now_us);
    while (const Sequence* s = cursor.Next()) ids.push_back(s->request->id);
    for (Sequence& s : sequences_) queue.Erase(&s);
    return ids;
  }

  std::vector<Request> requests_;
  std::vector<Sequence> sequences_;
};

using Ids = std::vector<uint64_t>;

TEST_F(QueuePolicyTest, PriorityGainsByWaiting) {
  Arrive({100, 200, 300});
  requests_[0].priority = Priority::kLow;
  requests_[1].priority = Priority::kNormal;
  requests_[2].priority = Priority::kHigh;
  const auto policy = NewPriorityPolicy(/*ageing_us=*/1000);
  EXPECT_EQ(Order(*policy, 400), Ids({3, 2, 1}));
  EXPECT_EQ(Order(*policy, 5000), Ids({1, 2, 3}));
}

TEST_F(QueuePolicyTest, EarlyAbortServesTheNewestFirstUnderOverload) {
  Arrive({100, 200, 300});
  const auto policy = NewEarlyAbortPolicy(kSloUs);
  policy->OnPlanned(/*num_arrived=*/1, /*num_admitted=*/4);
  EXPECT_EQ(Order(*policy, 400), Ids({1, 2, 3}));
  policy->OnPlanned(9, 1);
  EXPECT_EQ(Order(*policy, 400), Ids({3, 2, 1}));
  policy->OnPlanned(0, 0);  // a plan without arrivals and admissions changes nothing
  EXPECT_EQ(Order(*policy, 400), Ids({3, 2, 1}));
  policy->OnPlanned(0, 9);
  EXPECT_EQ(Order(*policy, 400), Ids({1, 2, 3}));
}

// The policy assumes overload when as many requests arrive as are admitted, and at the start.
TEST_F(QueuePolicyTest, EarlyAbortServesTheNewestFirstWhenAsManyComeAsGo) {
  Arrive({100, 200, 300});
  const auto policy = NewEarlyAbortPolicy(kSloUs);
  EXPECT_EQ(Order(*policy, 400), Ids({3, 2, 1}));
  policy->OnPlanned(4, 4);
  EXPECT_EQ(Order(*policy, 400), Ids({3, 2, 1}));
}

TEST_F(QueuePolicyTest, EarlyAbortServesTheLateLast) {
  Arrive({0, 100, 5'000'000, 5'000'100});
  const auto policy = NewEarlyAbortPolicy(kSloUs);
  policy->OnPlanned(9, 1);
  EXPECT_EQ(Order(*policy, 5'500'099), Ids({4, 3, 2, 1}));
  EXPECT_EQ(Order(*policy, 5'600'000), Ids({4, 3, 1, 2}));
}

// The times cover every number of late requests, from none to all.
TEST_F(QueuePolicyTest, TheQueueWalksInTheOrderOfTheKeys) {
  Arrive({0, 100, 200, 300, 400});
  const auto early_abort = NewEarlyAbortPolicy(kSloUs);
  const auto priority = NewPriorityPolicy(/*ageing_us=*/150);
  requests_[1].priority = Priority::kLow;
  requests_[3].priority = Priority::kHigh;
  for (const bool is_overload : {true, false}) {
    early_abort->OnPlanned(is_overload ? 9 : 0, is_overload ? 0 : 9);
    for (int64_t since_us = 0; since_us <= 500; since_us += 50) {
      const int64_t now_us = kSloUs - 500'000 + since_us;
      EXPECT_EQ(WalkOrder(*early_abort, now_us), Order(*early_abort, now_us)) << since_us;
      EXPECT_EQ(WalkOrder(*priority, since_us), Order(*priority, since_us)) << since_us;
    }
  }
}

TEST_F(QueuePolicyTest, EarlyAbortRefusesAtTheDoorWhatWouldComeTooLate) {
  const auto policy = NewEarlyAbortPolicy(kSloUs);
  EXPECT_TRUE(policy->MayQueue(5'499'999).ok());
  const absl::Status refused = policy->MayQueue(5'500'000);
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_NE(refused.message().find("--early-abort-ms"), absl::string_view::npos);
  EXPECT_TRUE(NewPriorityPolicy(1000)->MayQueue(1'000'000'000).ok());
}

}  // namespace
}  // namespace tessera

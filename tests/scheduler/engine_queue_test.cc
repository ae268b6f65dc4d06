// Tests of admission while many requests wait: the order of admission, needs that are loaded before
// their sequences can run, tenants' limits, and the cost of a plan.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/lib/core_stack.h"
#include "tests/lib/gate_policy.h"
#include "tests/lib/sanitizers.h"

namespace tessera::testing {
namespace {

constexpr int kMany = kSanitized ? 10'000 : 100'000;

class EngineQueueTest : public ::testing::Test {
 protected:
  // Starts a model with pages of 4 tokens. `num_slabs` excludes the null page.
  void Start(int64_t num_slabs, int32_t max_num_seqs, const std::vector<int32_t>& adapter_pages) {
    stack_.models = {FakeModel("a", {0}, 4, 64)};
    stack_.num_slabs = num_slabs + 1;
    stack_.options.max_num_seqs = max_num_seqs;
    stack_.options.max_num_batched_tokens = 32;
    stack_.options.watermark = 0.0;
    stack_.adapter_pages = adapter_pages;
    auto policy = std::make_unique<GatePolicy>();
    policy_ = policy.get();
    stack_.policy = std::move(policy);
    stack_.Start();
  }
  // Submits a request. `adapter` < 0 selects the base model.
  uint64_t Submit(int adapter, int length, int64_t max_tokens, const std::string& tenant = "") {
    RequestOutput* const out = &outputs_.emplace_back();
    auto request = stack_.NewRequest(FakePrompt(++num_prompts_, length), max_tokens, out);
    request->tenant = tenant;
    if (adapter >= 0) request->adapter = stack_.adapters->resolved(adapter);
    return stack_.Submit(std::move(request));
  }
  bool IsFinished(uint64_t id) { return outputs_[id - 1][0].finished; }
  bool IsRunning(uint64_t id) { return stack_.Running(id) != nullptr; }
  void Rounds(int num_rounds) {
    for (int i = 0; i < num_rounds; ++i) stack_.Round();
  }
  Sequence* Waiting(uint64_t id) const {
    for (Sequence* s : stack_.core->scheduler().Waiting()) {
      if (s->request->id == id) return s;
    }
    return nullptr;
  }
  int64_t AdapterSlabs() const { return stack_.kv->usage().adapter_slabs; }
  // The number of distinct needs (adapters that waiting sequences need in the pool) that a plan
  // made now would ask to load.
  size_t NumWanted() {
    std::set<NeedId> needs;
    for (const Sequence* s : stack_.core->Foresee().wants) needs.insert(s->need);
    return needs.size();
  }

  std::deque<RequestOutput> outputs_;  // the output of id i is element i - 1; outlives the stack
  int num_prompts_ = 0;
  GatePolicy* policy_ = nullptr;  // owned by the core
  CoreStack stack_;
};

std::vector<int32_t> Adapters(int count, int32_t num_pages) {
  return std::vector<int32_t>(count, num_pages);
}

TEST_F(EngineQueueTest, NeedsAreBroughtWhileNoSlotIsFree) {
  Start(300, 2, Adapters(40, 1));
  const uint64_t stream = Submit(-1, 4, 50);
  Submit(-1, 4, 50);
  Rounds(1);
  for (int i = 0; i < 40; ++i) Submit(i, 4, 1);
  EXPECT_EQ(NumWanted(), 32u) << "no more ahead of their turn";
  for (int i = 0; i < 12; ++i) {
    Rounds(1);
    stack_.FinishLoads();
  }
  EXPECT_TRUE(IsRunning(stream));
  EXPECT_EQ(stack_.core->scheduler().num_waiting(), 40);
  EXPECT_EQ(AdapterSlabs(), 40);
  stack_.RunAll();
}

// Adapters that are read but not yet copied count as loading, which bounds the number of loads.
TEST_F(EngineQueueTest, NoMoreThanAFewAreOnTheirWay) {
  Start(300, 2, Adapters(60, 1));
  Submit(-1, 4, 50);
  Submit(-1, 4, 50);
  Rounds(1);
  for (int i = 0; i < 60; ++i) Submit(i, 4, 1);
  size_t most_wanted = 0;
  constexpr int kRounds = 8;
  for (int i = 0; i < kRounds; ++i) {
    Rounds(1);
    while (stack_.loader->is_reading()) {
      stack_.loader->FinishRead(stack_.adapters->Image(stack_.loader->next_read()));
    }
    most_wanted = std::max(most_wanted, NumWanted());
  }
  EXPECT_LE(most_wanted, 32u);
  // The loader reads 8 adapters in a round. While 32 adapters load, a plan asks for one more.
  EXPECT_GE(AdapterSlabs(), 32);
  EXPECT_LE(AdapterSlabs(), 32 + kRounds - 4);
  EXPECT_EQ(NumWanted(), 1u);
  stack_.RunAll();
}

TEST_F(EngineQueueTest, TheBaseModelOvertakesWhatWaitsForNeeds) {
  Start(300, 2, Adapters(40, 1));
  const uint64_t stream = Submit(-1, 4, 50);
  Submit(-1, 4, 50);
  Rounds(1);
  std::vector<uint64_t> needy;
  for (int i = 0; i < 40; ++i) needy.push_back(Submit(i, 4, 1));
  const uint64_t base = Submit(-1, 4, 20);
  Rounds(2);
  EXPECT_FALSE(IsRunning(base));
  stack_.core->Cancel(stream, -1, CancelReason::kClient);
  Rounds(1);
  EXPECT_TRUE(IsRunning(base));
  for (const uint64_t id : needy) EXPECT_NE(Waiting(id), nullptr);
  stack_.RunAll();
}

TEST_F(EngineQueueTest, ANeedWithoutRoomBlocksThoseAfterIt) {
  Start(16, 3, {9});
  const uint64_t stream = Submit(-1, 30, 4);  // needs 9 pages at its end
  Rounds(1);
  const uint64_t needy = Submit(0, 4, 1);
  const uint64_t base = Submit(-1, 4, 1);
  policy_->Close("b");
  const uint64_t ahead = Submit(-1, 4, 1, "b");
  Rounds(1);
  EXPECT_TRUE(IsFinished(base)) << "until the need is read nobody knows its size";
  ASSERT_TRUE(stack_.loader->is_reading());
  stack_.loader->FinishRead(stack_.adapters->Image(stack_.adapters->id(0)));
  policy_->Open("b");
  Rounds(1);
  EXPECT_TRUE(IsRunning(stream));
  EXPECT_FALSE(stack_.loader->is_copying());
  EXPECT_FALSE(IsRunning(ahead) || IsFinished(ahead)) << "it came after the need";
  stack_.core->Cancel(stream, -1, CancelReason::kClient);
  Rounds(1);
  EXPECT_TRUE(stack_.loader->is_copying());
  EXPECT_TRUE(IsFinished(ahead)) << "the need is on its way";
  stack_.RunAll();
  EXPECT_TRUE(IsFinished(needy));
}

TEST_F(EngineQueueTest, WhoMayNotEnterKeepsItsPlaceAndBlocksNobodyElse) {
  Start(64, 2, {});
  policy_->Close("a");
  std::vector<uint64_t> closed, open;
  for (int i = 0; i < 4; ++i) {
    closed.push_back(Submit(-1, 4, 2, "a"));
    open.push_back(Submit(-1, 4, 2, "b"));
  }
  while (stack_.Round()) {
  }
  for (const uint64_t id : open) EXPECT_TRUE(IsFinished(id));
  for (const uint64_t id : closed) {
    ASSERT_NE(Waiting(id), nullptr);
    EXPECT_EQ(Waiting(id)->place, QueuePlace::kReady);
  }
  const uint64_t late = Submit(-1, 4, 2, "b");
  policy_->Open("a");
  Rounds(1);
  EXPECT_TRUE(IsRunning(closed[0]) && IsRunning(closed[1]));
  EXPECT_NE(Waiting(late), nullptr) << "those of the other tenant came before it";
  stack_.RunAll();
}

// A request that does not fit blocks the queue. Once its tenant has reached its limit, the request
// no longer blocks other tenants.
TEST_F(EngineQueueTest, WhoWasRefusedAndMayNotEnterBlocksNobodyElse) {
  Start(16, 3, {});
  const uint64_t stream = Submit(-1, 20, 40);
  Rounds(1);
  const uint64_t large = Submit(-1, 60, 2, "a");
  const uint64_t other = Submit(-1, 4, 1, "b");
  Rounds(2);
  EXPECT_NE(Waiting(large), nullptr);
  EXPECT_NE(Waiting(other), nullptr) << "no overtaking by size";
  policy_->Close("a");
  Rounds(1);
  EXPECT_TRUE(IsFinished(other));
  EXPECT_TRUE(IsRunning(stream));
  policy_->Open("a");
  stack_.RunAll();
  EXPECT_TRUE(IsFinished(large));
}

TEST_F(EngineQueueTest, TheNeedsOfWhoMayNotEnterAreNotBrought) {
  Start(64, 3, {2, 3});
  policy_->Close("a");
  const uint64_t closed = Submit(0, 4, 1, "a");
  const uint64_t open = Submit(1, 4, 1, "b");
  while (stack_.Round() || stack_.FinishLoads()) {
  }
  EXPECT_TRUE(IsFinished(open));
  EXPECT_NE(Waiting(closed), nullptr);
  EXPECT_EQ(AdapterSlabs(), 3);
  policy_->Open("a");
  stack_.RunAll();
  EXPECT_TRUE(IsFinished(closed));
}

class ManyWaitTest : public EngineQueueTest {
 protected:
  // Fills all slots with streams and adds kMany waiting requests.
  void Saturate(int num_adapters) {
    Start(300, 2, Adapters(num_adapters, 1));
    Submit(-1, 4, 50);
    Submit(-1, 4, 50);
    stack_.driver->RunOnce();
    for (int i = 0; i < kMany; ++i) {
      Submit(num_adapters == 0 ? -1 : i % num_adapters, 4, 1, absl::StrCat(i % 10));
    }
    policy_->TakeNumKeys();
  }
  int64_t KeysOfAPlan() {
    policy_->TakeNumKeys();
    stack_.core->Foresee();
    return policy_->TakeNumKeys();
  }
};

TEST_F(ManyWaitTest, APlanWithoutAFreeSlotLooksAtEachTenantOnce) {
  Saturate(0);
  EXPECT_LE(KeysOfAPlan(), 60);
}

TEST_F(ManyWaitTest, APlanWithAFreeSlotLooksAtWhatItAdmits) {
  Saturate(0);
  stack_.core->Cancel(1, -1, CancelReason::kClient);
  EXPECT_LE(KeysOfAPlan(), 60);
  EXPECT_EQ(stack_.core->Foresee().entries.size(), 2u);
}

TEST_F(ManyWaitTest, APlanDoesNotLookAtAllThatNeedSomething) {
  Saturate(16);  // 8 adapters are read at a time, so plans ask for the others again and again
  for (int i = 0; i < 5; ++i) {
    EXPECT_LE(KeysOfAPlan(), 2000) << "round " << i;
    stack_.driver->RunOnce();
  }
  EXPECT_EQ(stack_.core->scheduler().num_waiting(), kMany);
}

TEST_F(ManyWaitTest, WhoMayNotEnterIsSkippedAtOnce) {
  Saturate(0);
  stack_.core->Cancel(1, -1, CancelReason::kClient);
  for (int tenant = 0; tenant < 9; ++tenant) policy_->Close(absl::StrCat(tenant));
  EXPECT_LE(KeysOfAPlan(), 200);
  EXPECT_EQ(stack_.core->Foresee().entries.size(), 2u);
}

}  // namespace
}  // namespace tessera::testing

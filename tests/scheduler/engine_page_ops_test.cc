// Tests of page ops and of adapters that the loader writes while steps are in flight. A request
// gets the text that it gets alone, whatever happens to its pages.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>

#include "tests/lib/core_stack.h"
#include "tests/lib/put_kv.h"
#include "tests/lib/sanitizers.h"

namespace tessera::testing {
namespace {

constexpr int kRandomRounds = kSanitized ? 3000 : 30000;

class EnginePageOpsTest : public ::testing::Test {
 protected:
  // Starts a model with pages of 4 tokens and two steps in flight. `num_slabs` excludes the null
  // page.
  void Start(int64_t num_slabs, const std::vector<int32_t>& adapter_pages) {
    stack_.models = {FakeModel("a", {0}, 4, 64)};
    stack_.num_slabs = num_slabs + 1;
    stack_.depth = 2;
    stack_.adapter_pages = adapter_pages;
    stack_.Start();
  }
  void Load(size_t adapter) {
    stack_.core->LoadAdapter(stack_.adapters->id(adapter), /*pin=*/false,
                             {[](const absl::Status&) {}, nullptr});
  }
  uint64_t SubmitWithAdapter(size_t adapter, std::vector<TokenId> prompt, int64_t max_tokens,
                             RequestOutput* out) {
    auto request = stack_.NewRequest(std::move(prompt), max_tokens, out);
    request->adapter = stack_.adapters->resolved(adapter);
    return stack_.Submit(std::move(request));
  }
  std::vector<TokenId> Expected(std::vector<TokenId> prompt, int64_t num_tokens) const {
    return ExpectedTokens(stack_.models[0], std::move(prompt), num_tokens);
  }
  std::vector<TokenId> ExpectedWithAdapter(size_t adapter, std::vector<TokenId> prompt,
                                           int64_t num_tokens) const {
    return ExpectedTokens(stack_.models[0], std::move(prompt), num_tokens,
                          stack_.adapters->Variant(adapter));
  }

  CoreStack stack_;
};

TEST_F(EnginePageOpsTest, AnAdapterMakesAnotherTextAndItsPrefixesAreItsOwn) {
  Start(64, {2, 1});
  EXPECT_NE(ExpectedWithAdapter(0, FakePrompt(1, 9), 6), Expected(FakePrompt(1, 9), 6));
  EXPECT_NE(ExpectedWithAdapter(0, FakePrompt(1, 9), 6),
            ExpectedWithAdapter(1, FakePrompt(1, 9), 6));
  for (int round = 0; round < 2; ++round) {
    RequestOutput base, first, second;
    stack_.Submit(FakePrompt(1, 9), 6, &base);
    SubmitWithAdapter(0, FakePrompt(1, 9), 6, &first);
    SubmitWithAdapter(1, FakePrompt(1, 9), 6, &second);
    stack_.RunAll();
    EXPECT_EQ(base[0].tokens, Expected(FakePrompt(1, 9), 6));
    EXPECT_EQ(first[0].tokens, ExpectedWithAdapter(0, FakePrompt(1, 9), 6));
    EXPECT_EQ(second[0].tokens, ExpectedWithAdapter(1, FakePrompt(1, 9), 6));
  }
  EXPECT_GT(stack_.stats->cached_prompt_tokens.value(), 0);
}

TEST_F(EnginePageOpsTest, AReadThatFailsEndsWhatWaitsForItAndIsTriedAgain) {
  Start(64, {2});
  RequestOutput failed, base, again;
  SubmitWithAdapter(0, FakePrompt(1, 9), 6, &failed);
  stack_.Submit(FakePrompt(2, 9), 6, &base);
  stack_.Round();
  ASSERT_TRUE(stack_.loader->is_reading());
  stack_.loader->FinishRead(absl::FailedPreconditionError("its files changed"));
  stack_.Round();
  EXPECT_TRUE(failed[0].finished);
  EXPECT_EQ(failed[0].reason, FinishReason::kError);
  EXPECT_EQ(failed[0].status.message(), "its files changed");
  SubmitWithAdapter(0, FakePrompt(1, 9), 6, &again);
  stack_.RunAll();
  EXPECT_EQ(base[0].tokens, Expected(FakePrompt(2, 9), 6));
  EXPECT_EQ(again[0].tokens, ExpectedWithAdapter(0, FakePrompt(1, 9), 6));
}

// A launched step copies a page that no sequence holds any more. An adapter that waits for room
// would fit only if it got that page.
TEST_F(EnginePageOpsTest, TheSourceOfALaunchedCopyIsNotGivenToTheLoader) {
  Start(6, {3});
  RequestOutput out;
  const uint64_t id = stack_.Submit(FakePrompt(1, 9), 3, &out);
  stack_.Round();  // launches the prompt
  Load(0);
  stack_.Round();  // launches the first token and retires the prompt, which has two whole pages
  ASSERT_TRUE(stack_.loader->is_reading());
  stack_.loader->FinishRead(stack_.adapters->Image(stack_.adapters->id(0)));
  Sequence* s = stack_.Running(id);
  ASSERT_NE(s, nullptr);
  const PageId source = s->kv.groups[0].pages[0];
  ASSERT_TRUE(stack_.kv->EnsureWritable(&s->kv, 0, 4));
  EXPECT_NE(s->kv.groups[0].pages[0], source);
  EXPECT_EQ(stack_.kv->usage().free_slabs, 2);

  stack_.Round();  // launches the last token with the copy, then looks for room for the adapter
  EXPECT_EQ(stack_.core->kv().usage().adapter_slabs, 0);
  stack_.FinishLoads();  // a loader that got the page would write it before the step runs
  stack_.RunAll();
  EXPECT_EQ(out[0].tokens, Expected(FakePrompt(1, 9), 3));

  RequestOutput with_adapter;
  SubmitWithAdapter(0, FakePrompt(2, 5), 4, &with_adapter);
  stack_.RunAll();
  EXPECT_EQ(with_adapter[0].tokens, ExpectedWithAdapter(0, FakePrompt(2, 5), 4));
}

// A sequence is paused while a step of other sequences makes the copy into its page. If the adapter
// loader got the page, the copy would overwrite the adapter.
TEST_F(EnginePageOpsTest, TheDestinationOfALaunchedCopyIsNotGivenToTheLoader) {
  Start(9, {3});
  stack_.loader->set_writes_at_once(true);
  RequestOutput paused, other;
  const uint64_t id = stack_.Submit(FakePrompt(1, 9), 6, &paused);
  stack_.Submit(FakePrompt(2, 6), 6, &other);
  stack_.Round();
  Load(0);
  stack_.Round();
  stack_.loader->FinishRead(stack_.adapters->Image(stack_.adapters->id(0)));
  Sequence* s = stack_.Running(id);
  ASSERT_NE(s, nullptr);
  ASSERT_TRUE(stack_.kv->EnsureWritable(&s->kv, 0, 8));
  stack_.core->Throttle(id, true);
  ASSERT_NE(stack_.Running(id), nullptr) << "a step computes for it";
  stack_.Round();  // launches the other request's token with the copy, retires the paused request's
  EXPECT_EQ(stack_.Running(id), nullptr);
  stack_.Round();  // looks for room for the adapter before the copy has run
  stack_.core->Throttle(id, false);
  RequestOutput with_adapter;
  SubmitWithAdapter(0, FakePrompt(3, 5), 4, &with_adapter);
  stack_.RunAll();
  EXPECT_EQ(paused[0].tokens, Expected(FakePrompt(1, 9), 6));
  EXPECT_EQ(other[0].tokens, Expected(FakePrompt(2, 6), 6));
  EXPECT_EQ(with_adapter[0].tokens, ExpectedWithAdapter(0, FakePrompt(3, 5), 4));
}

struct Live {
  std::vector<TokenId> prompt;
  int adapter = -1;
  RequestOutput out;
};

class RandomPageOpsTest : public ::testing::TestWithParam<int> {
 protected:
  RandomPageOpsTest() : random_(11 + GetParam()) {
    stack_.models = {FakeModel("a", {0, 10}, 4, 64)};
    stack_.num_slabs = 61;
    stack_.depth = GetParam();
    stack_.adapter_pages = {1, 3, 4, 9, 2};
    stack_.options.max_num_seqs = 6;
    stack_.options.max_num_batched_tokens = 16;
    stack_.options.adapter_host_bytes = 700;
    stack_.Start();
    stack_.core->set_plan_observer([](const StepPlan& plan) { CheckHolesOf(plan); });
  }

  int Pick(int bound) { return static_cast<int>(random_() % static_cast<uint32_t>(bound)); }

  void Submit() {
    auto live = std::make_unique<Live>();
    live->prompt = FakePrompt(Pick(3), 1 + Pick(40));
    live->adapter = Pick(7) - 2;
    auto request = stack_.NewRequest(live->prompt, 1 + Pick(20), &live->out);
    if (live->adapter >= 0) request->adapter = stack_.adapters->resolved(live->adapter);
    live_[stack_.Submit(std::move(request))] = std::move(live);
  }
  // Replaces pages of a random running sequence by copies.
  void CopyPages() {
    const std::vector<Sequence*>& running = stack_.core->scheduler().Running();
    if (running.empty()) return;
    KvState* kv = &running[Pick(static_cast<int>(running.size()))]->kv;
    const int begin = Pick(static_cast<int>(kv->num_tokens) + 1);
    const int end = begin + Pick(static_cast<int>(kv->num_tokens) - begin + 1);
    num_copied_ += stack_.kv->EnsureWritable(kv, begin, end) ? 1 : 0;
  }
  // Puts KV with holes into the pages of a random running sequence.
  void PutKvInto() {
    const std::vector<Sequence*>& running = stack_.core->scheduler().Running();
    if (running.empty()) return;
    Sequence* const s = running[Pick(static_cast<int>(running.size()))];
    if (!TakesKv(*s)) return;
    const int64_t first = s->num_computed;
    const int64_t num_computed = first + 1 + Pick(static_cast<int>(s->num_tokens() - first - 1));
    std::vector<TokenRange> holes;
    for (int64_t at = first + Pick(6); at < num_computed;) {
      holes.push_back({at, std::min<int64_t>(num_computed, at + 1 + Pick(6))});
      at = holes.back().end + Pick(6);
    }
    const int adapter = live_.at(s->request->id)->adapter;
    const uint64_t hash = adapter < 0 ? 0 : HashOfBytes(stack_.adapters->Variant(adapter).adapter);
    if (PutKv({stack_.core.get(), stack_.kv, stack_.runner}, s, num_computed, holes, hash)) {
      num_holes_ += static_cast<int>(holes.size());
    }
  }
  // Checks that an entry's ranges ascend and that it samples only if it computes the last hole.
  static void CheckHolesOf(const StepPlan& plan) {
    for (const PlanEntry& entry : plan.entries) {
      const Sequence& s = *entry.sequence;
      ASSERT_EQ(entry.begin(), s.NextToCompute());
      ASSERT_TRUE(!entry.samples || entry.num_tokens() == s.num_to_compute());
      for (size_t r = 1; r < entry.ranges.size(); ++r) {
        ASSERT_GE(entry.ranges[r].begin, entry.ranges[r - 1].end);
      }
    }
  }
  // Checks that waiting sequences have no holes. `had_holes` are the requests that had holes before
  // the round.
  void CheckDropped(const std::vector<uint64_t>& had_holes) {
    for (const Sequence* s : stack_.core->scheduler().Waiting()) {
      ASSERT_TRUE(s->holes.empty());
      num_dropped_ += std::count(had_holes.begin(), had_holes.end(), s->request->id);
    }
  }
  std::vector<uint64_t> WithHoles() const {
    std::vector<uint64_t> ids;
    for (const Sequence* s : stack_.core->scheduler().Running()) {
      if (!s->holes.empty()) ids.push_back(s->request->id);
    }
    return ids;
  }
  void Disturb() {
    const auto it = std::next(live_.begin(), Pick(static_cast<int>(live_.size())));
    const int verb = Pick(8);
    if (verb == 0) stack_.core->Cancel(it->first, -1, CancelReason::kClient);
    if (verb > 0) stack_.core->Throttle(it->first, verb < 4);
  }
  void TurnLoader() {
    FakeAdapterLoader* loader = stack_.loader;
    loader->set_writes_at_once(Pick(2) == 0);
    if (loader->is_reading() && Pick(10) == 0) {
      loader->FinishRead(absl::UnavailableError("the disk is gone"));
    } else if (loader->is_reading()) {
      loader->FinishRead(stack_.adapters->Image(loader->next_read()));
    }
    if (loader->is_copying() && Pick(2) == 0) loader->FinishCopy();
  }
  void CheckFinished() {
    for (auto it = live_.begin(); it != live_.end();) {
      Live& live = *it->second;
      const SequenceOutput& output = live.out[0];
      if (!output.finished) {
        ++it;
        continue;
      }
      FakeVariant variant;
      if (live.adapter >= 0) variant = stack_.adapters->Variant(live.adapter);
      ASSERT_EQ(output.tokens, ExpectedTokens(stack_.models[0], live.prompt,
                                              static_cast<int64_t>(output.tokens.size()), variant))
          << "request " << it->first;
      ++num_checked_;
      it = live_.erase(it);
    }
  }

  std::mt19937 random_;
  std::map<uint64_t, std::unique_ptr<Live>> live_;  // outlives the stack, which writes to it
  CoreStack stack_;
  int num_copied_ = 0;
  int num_holes_ = 0;
  int64_t num_dropped_ = 0;  // sequences that had holes and then lost their slot
  int num_checked_ = 0;
};

TEST_P(RandomPageOpsTest, EveryRequestGetsTheTokensItGetsAlone) {
  for (int round = 0; round < kRandomRounds && !HasFailure(); ++round) {
    if (live_.size() < 10 && Pick(3) == 0) Submit();
    if (Pick(3) == 0) CopyPages();
    if (Pick(4) == 0) {
      while (stack_.core->num_inflight() > 0) stack_.driver->RetireOldest();
      PutKvInto();
    }
    const std::vector<uint64_t> had_holes = WithHoles();
    if (!had_holes.empty() && Pick(20) == 0) stack_.core->Throttle(had_holes[0], true);
    if (!live_.empty() && Pick(10) == 0) Disturb();
    if (Pick(2) == 0) TurnLoader();
    if (round % 100 == 0) {
      for (auto& [id, live] : live_) stack_.core->Throttle(id, false);
    }
    stack_.Round();
    CheckDropped(had_holes);
    CheckFinished();
  }
  for (auto& [id, live] : live_) stack_.core->Throttle(id, false);
  stack_.RunAll();
  CheckFinished();
  EXPECT_TRUE(live_.empty());
  EXPECT_GT(num_checked_, kRandomRounds / 50);
  EXPECT_GT(num_copied_, kRandomRounds / 20);
  EXPECT_GT(num_holes_, kRandomRounds / 50);
  EXPECT_GT(num_dropped_, 0);
  // Compilers evaluate arguments in different orders, so the drawn operations differ. The fewer
  // rounds under a sanitizer may have no preemption.
  if (!kSanitized) {
    EXPECT_GT(stack_.stats->preemptions.value(), 0);
  }
  EXPECT_GT(stack_.stats->adapter_evictions.value(), 0);
  EXPECT_GT(stack_.stats->cached_prompt_tokens.value(), 0);
}

INSTANTIATE_TEST_SUITE_P(Depth, RandomPageOpsTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace tessera::testing

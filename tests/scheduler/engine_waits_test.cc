// Tests of sequences that wait for a need or for room: each is woken as soon as it may run, and
// blocks only the sequences that the rules say.
#include <gtest/gtest.h>

#include <memory>

#include "tests/lib/core_stack.h"

namespace tessera::testing {
namespace {

class EngineWaitsTest : public ::testing::Test {
 protected:
  // Starts a model with pages of 4 tokens. `num_slabs` excludes the null page.
  void Start(int64_t num_slabs, const std::vector<int32_t>& adapter_pages) {
    stack_.models = {FakeModel("a", {0}, 4, 64)};
    stack_.num_slabs = num_slabs + 1;
    stack_.adapter_pages = adapter_pages;
    stack_.Start();
  }
  void Load(size_t adapter, bool pin) {
    stack_.core->LoadAdapter(stack_.adapters->id(adapter), pin,
                             {[](const absl::Status&) {}, nullptr});
  }
  // Runs rounds and loads until nothing is left to do.
  void Settle() {
    while (stack_.Round() || stack_.FinishLoads()) {
    }
  }
  uint64_t SubmitWithAdapter(size_t adapter, std::vector<TokenId> prompt, int64_t max_tokens,
                             RequestOutput* out, Priority priority = Priority::kNormal) {
    auto request = stack_.NewRequest(std::move(prompt), max_tokens, out);
    request->adapter = stack_.adapters->resolved(adapter);
    request->priority = priority;
    return stack_.Submit(std::move(request));
  }

  CoreStack stack_;
};

TEST_F(EngineWaitsTest, WhatCannotEverFitFailsAsSoonAsTheLastOneThatRanHasEnded) {
  Start(12, {4, 9});
  Load(0, /*pin=*/true);
  Settle();
  RequestOutput runs, waits;
  stack_.Submit(FakePrompt(1, 9), 6, &runs);
  stack_.Round();
  SubmitWithAdapter(1, FakePrompt(2, 5), 2, &waits);
  stack_.Round();
  stack_.FinishLoads();
  while (stack_.core->scheduler().num_running() > 0) stack_.Round();
  ASSERT_TRUE(runs[0].finished);
  EXPECT_FALSE(waits[0].finished);
  // The engine launches steps until nothing is left to do without another message.
  while (stack_.driver->LaunchStep()) {
  }
  EXPECT_TRUE(waits[0].finished);
}

TEST_F(EngineWaitsTest, AnAdapterThatIsPinnedAfterAllIsThereForWhoeverAwaitedItsLeaving) {
  Start(30, {2});
  RequestOutput runs, waits;
  SubmitWithAdapter(0, FakePrompt(1, 9), 20, &runs);
  stack_.Round();
  stack_.FinishLoads();
  stack_.Round();
  stack_.FinishLoads();
  stack_.Round();
  ASSERT_EQ(stack_.core->scheduler().num_running(), 1);
  stack_.core->UnloadAdapter(stack_.adapters->id(0), /*unpin=*/true);
  SubmitWithAdapter(0, FakePrompt(2, 9), 3, &waits);
  stack_.Round();
  Load(0, /*pin=*/true);
  stack_.RunAll();
  EXPECT_TRUE(waits[0].finished);
}

// Neither adapter image fits the bound of host memory. The image of the pinned adapter and that of
// the adapter that waits for room stay all the same.
TEST_F(EngineWaitsTest, MakingRoomForAnAdapterDoesNotCostItItsImage) {
  stack_.options.adapter_host_bytes = 100;
  Start(10, {4, 8});
  Load(0, /*pin=*/true);
  Settle();
  RequestOutput runs, waits;
  SubmitWithAdapter(1, FakePrompt(2, 5), 2, &waits);
  stack_.Submit(FakePrompt(1, 9), 6, &runs);
  stack_.Round();
  stack_.FinishLoads();
  stack_.Round();
  stack_.core->UnpinAdapter(stack_.adapters->id(0));
  stack_.RunAll();
  EXPECT_EQ(waits[0].reason, FinishReason::kLength);
}

// The adapter of a request has no room, so the request blocks a small request after it. After that
// the large request ends, and its pages become free. A new request of higher priority starts the
// load of the same adapter; the refused request must not block others from then on.
TEST_F(EngineWaitsTest, OneThatWasRefusedForItsAdapterBlocksNobodyOnceThatLoads) {
  Start(16, {8});
  RequestOutput large, refused, small, ahead;
  const uint64_t large_id = stack_.Submit(FakePrompt(1, 40), 20, &large);
  stack_.Round();
  SubmitWithAdapter(0, FakePrompt(2, 5), 2, &refused);
  stack_.Round();
  ASSERT_TRUE(stack_.loader->is_reading());
  stack_.loader->FinishRead(stack_.adapters->Image(stack_.adapters->id(0)));
  stack_.Submit(FakePrompt(3, 5), 30, &small);
  stack_.Round();
  ASSERT_FALSE(stack_.loader->is_copying());
  ASSERT_EQ(stack_.core->scheduler().num_running(), 1);
  SubmitWithAdapter(0, FakePrompt(4, 5), 2, &ahead, Priority::kHigh);
  stack_.core->Cancel(large_id, -1, CancelReason::kClient);
  stack_.Round();
  EXPECT_TRUE(stack_.loader->is_copying());
  EXPECT_EQ(stack_.core->scheduler().num_running(), 1);
  stack_.RunAll();
  EXPECT_EQ(refused[0].tokens.size(), 2u);
}

TEST_F(EngineWaitsTest, WhatDoesNotFitBesideItsAdapterEndsAndHoldsUpNobody) {
  Start(10, {6});
  RequestOutput prompt, text, next;
  SubmitWithAdapter(0, FakePrompt(1, 20), 2, &prompt);
  SubmitWithAdapter(0, FakePrompt(2, 5), 30, &text);
  stack_.Submit(FakePrompt(3, 30), 4, &next);
  stack_.RunAll();
  for (RequestOutput* out : {&prompt, &text}) {
    EXPECT_EQ((*out)[0].reason, FinishReason::kError);
    EXPECT_TRUE(absl::IsResourceExhausted((*out)[0].status)) << (*out)[0].status;
  }
  EXPECT_EQ(text[0].tokens,
            ExpectedTokens(stack_.models[0], FakePrompt(2, 5), 12, stack_.adapters->Variant(0)));
  EXPECT_EQ(next[0].reason, FinishReason::kLength);
}

TEST_F(EngineWaitsTest, WhatCannotGrowThoughNothingElseRunsEnds) {
  stack_.options.max_num_batched_tokens = 16;
  stack_.options.max_num_seqs = 4;
  Start(10, {4});
  Load(0, /*pin=*/true);
  Settle();
  RequestOutput out, next;
  auto request = stack_.NewRequest(FakePrompt(1, 30), 4, &out);
  request->bypass_prefix = true;
  stack_.Submit(std::move(request));
  stack_.Submit(FakePrompt(2, 9), 4, &next);
  for (int round = 0; round < 50 && stack_.Round(); ++round) {
  }
  EXPECT_TRUE(absl::IsResourceExhausted(out[0].status)) << out[0].status;
  EXPECT_EQ(next[0].reason, FinishReason::kLength);
  EXPECT_EQ(stack_.core->num_unfinished(), 0);
}

// The large model's page is as large as four pages of the adapter. The first chunk of the prompt
// fits beside the idle adapter, the rest only after the adapter has left.
TEST_F(EngineWaitsTest, WhatRunsAloneGrowsIntoIdleAdaptersOfSmallerPages) {
  stack_.models = {FakeModel("small", {0}, 4, 64), FakeModel("large", {0}, 4, 64)};
  stack_.models[1].layout.slabs_per_page = 4;
  stack_.num_slabs = 4 + 3 * 4;
  stack_.adapter_pages = {3};
  stack_.options.max_num_batched_tokens = 8;
  stack_.options.max_num_seqs = 2;
  stack_.Start();
  Load(0, /*pin=*/false);
  Settle();
  ASSERT_EQ(stack_.kv->AvailablePages(1), 2);
  RequestOutput out;
  auto request = stack_.NewRequest(FakePrompt(1, 11), 2, &out);
  request->model = 1;
  stack_.Submit(std::move(request));
  for (int round = 0; round < 50 && stack_.Round(); ++round) {
  }
  EXPECT_EQ(out[0].reason, FinishReason::kLength);
  EXPECT_EQ(stack_.stats->preemptions.value(), 0);
}

// Requests wait for four adapters, and the pool has room for two.
TEST_F(EngineWaitsTest, WithoutASlotAdaptersThatAreWaitedForDoNotPushEachOtherOut) {
  stack_.options.max_num_seqs = 1;
  stack_.options.max_num_batched_tokens = 16;
  Start(25, {8, 8, 8, 8});
  RequestOutput runs;
  std::vector<RequestOutput> waits(4);
  stack_.Submit(FakePrompt(1, 5), 30, &runs);
  for (int i = 0; i < 4; ++i) SubmitWithAdapter(i, FakePrompt(2 + i, 5), 2, &waits[i]);
  while (!runs[0].finished) {
    stack_.Round();
    stack_.FinishLoads();
  }
  EXPECT_EQ(stack_.kv->usage().adapter_slabs, 16);
  EXPECT_EQ(stack_.stats->adapter_evictions.value(), 0);
  stack_.RunAll();
  // The requests whose adapters were loaded first were served first, and no adapter was loaded
  // twice.
  EXPECT_LT(waits[1][0].timing.ttft_us, waits[2][0].timing.ttft_us);
  EXPECT_EQ(stack_.stats->adapter_loads.value(), 4);
}

// A sequence stops while the next step already computes for it and its window has released pages.
// After the sequence has ended, the scheduler's sums of slabs and costs over the remaining
// sequences must be right.
TEST_F(EngineWaitsTest, OneThatStopsDuringItsNextStepLeavesTheSumsRight) {
  stack_.models = {FakeModel("mixed", {0, 12}, 4, 96)};
  stack_.depth = 2;
  stack_.options.max_num_batched_tokens = 16;
  stack_.options.max_num_seqs = 4;
  stack_.num_slabs = 129;
  stack_.Start();
  for (int num_tokens = 1; num_tokens < 24; ++num_tokens) {
    RequestOutput out;
    const auto expected = ExpectedTokens(stack_.models[0], FakePrompt(1, 30), num_tokens);
    auto request = stack_.NewRequest(FakePrompt(1, 30), 60, &out);
    request->stopping.stop_ids = {expected.back()};
    stack_.Submit(std::move(request));
    stack_.RunAll();
  }
}

}  // namespace
}  // namespace tessera::testing

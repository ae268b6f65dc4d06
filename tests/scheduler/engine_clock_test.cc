// Tests of the engine's use of time: timings of requests, histograms, time limits and the predicted
// queue delay. In these tests a step takes 1,000 us plus 10 us for each token.
#include <gtest/gtest.h>

#include "tests/lib/core_stack.h"

namespace tessera::testing {
namespace {

int64_t Count(const Histogram& histogram) {
  int64_t count = 0;
  for (size_t i = 0; i <= histogram.bounds().size(); ++i) count += histogram.bucket(i);
  return count;
}

class EngineClockTest : public ::testing::Test {
 protected:
  void Start(int depth = 1) {
    stack_.models = {FakeModel("a", {0}, 4, 64)};
    stack_.depth = depth;
    stack_.clock.Advance(5000);
    stack_.Start();
  }
  uint64_t SubmitWithLimit(int64_t limit_us, int32_t n, RequestOutput* out) {
    auto request = stack_.NewRequest(FakePrompt(1, 10), 4, out);
    request->stopping.time_limit_us = limit_us;
    request->sampling.n = n;
    return stack_.Submit(std::move(request));
  }

  CoreStack stack_;
};

TEST_F(EngineClockTest, TimingsEndWhereTheNextOnesStart) {
  stack_.options.max_num_seqs = 4;
  stack_.options.max_num_batched_tokens = 8;
  Start();
  RequestOutput out;
  stack_.Submit(FakePrompt(1, 10), 4, &out);
  stack_.clock.Advance(700);
  stack_.RunAll();
  const int64_t prefill_us = 1080 + 1020;  // 8 tokens, then 2
  const int64_t decode_us = 3 * 1010;
  EXPECT_EQ(out[0].timing.queue_us, 700);
  EXPECT_EQ(out[0].timing.prefill_us, prefill_us);
  EXPECT_EQ(out[0].timing.decode_us, decode_us);
  EXPECT_EQ(out[0].timing.ttft_us, 700 + prefill_us);
}

TEST_F(EngineClockTest, WhatNeverRanWasQueuedAllTheTime) {
  stack_.options.max_num_seqs = 1;
  Start();
  RequestOutput first, second;
  stack_.Submit(FakePrompt(1, 10), 4, &first);
  const uint64_t id = stack_.Submit(FakePrompt(2, 10), 4, &second);
  stack_.Round();
  stack_.core->Cancel(id, -1, CancelReason::kClient);
  EXPECT_EQ(second[0].timing.queue_us, 1100);
  EXPECT_EQ(second[0].timing.prefill_us, 0);
  EXPECT_EQ(second[0].timing.decode_us, 0);
  EXPECT_EQ(second[0].timing.ttft_us, 0);
  stack_.RunAll();
}

TEST_F(EngineClockTest, HistogramsAreInSecondsAndLatenciesBetweenNeighbours) {
  Start();
  RequestOutput out;
  stack_.Submit(FakePrompt(1, 10), 4, &out);
  stack_.clock.Advance(700);
  stack_.RunAll();
  const EngineStats& stats = *stack_.stats;
  EXPECT_NEAR(stats.queue_s.sum(), 700e-6, 1e-9);
  EXPECT_NEAR(stats.ttft_s.sum(), 1800e-6, 1e-9);
  EXPECT_NEAR(stats.itl_s.sum(), 3 * 1010e-6, 1e-9);
  EXPECT_NEAR(stats.e2e_s.sum(), (1800 + 3 * 1010) * 1e-6, 1e-9);
  EXPECT_NEAR(stats.step_s.sum(), (1100 + 3 * 1010) * 1e-6, 1e-9);
  EXPECT_EQ(Count(stats.queue_s), 1);
  EXPECT_EQ(Count(stats.ttft_s), 1);
  EXPECT_EQ(Count(stats.itl_s), 3);
  EXPECT_EQ(Count(stats.e2e_s), 1);
  EXPECT_EQ(Count(stats.step_s), 4);
}

TEST_F(EngineClockTest, ATimeLimitIsReachedAtItsVeryTime) {
  Start();
  RequestOutput out;
  const uint64_t id = SubmitWithLimit(1000, 1, &out);
  EXPECT_EQ(stack_.core->NextDeadlineUs(), 6000);
  stack_.core->Throttle(id, true);
  stack_.clock.Advance(999);
  EXPECT_FALSE(stack_.Round());
  EXPECT_FALSE(out[0].finished);
  stack_.clock.Advance(1);
  stack_.Round();
  EXPECT_TRUE(out[0].finished);
  EXPECT_EQ(out[0].reason, FinishReason::kTimeLimit);
  EXPECT_EQ(stack_.core->NextDeadlineUs(), -1);
}

TEST_F(EngineClockTest, TheTimeLimitOfWhatHasEndedIsForgotten) {
  Start();
  RequestOutput short_limit, long_limit;
  const uint64_t id = SubmitWithLimit(500'000, 2, &short_limit);
  SubmitWithLimit(900'000, 1, &long_limit);
  EXPECT_EQ(stack_.core->NextDeadlineUs(), 505'000);
  stack_.core->Cancel(id, 0, CancelReason::kClient);
  EXPECT_EQ(stack_.core->NextDeadlineUs(), 505'000);  // the limit of index 1, which still runs
  stack_.core->Cancel(id, 1, CancelReason::kClient);
  EXPECT_EQ(stack_.core->NextDeadlineUs(), 905'000);
  stack_.RunAll();
  EXPECT_EQ(long_limit[0].reason, FinishReason::kLength);
  EXPECT_EQ(stack_.core->NextDeadlineUs(), -1);
}

TEST_F(EngineClockTest, APausedStreamLeavesTheDeviceWhenItsStepsHaveRetired) {
  Start(/*depth=*/2);
  RequestOutput out;
  const uint64_t id = stack_.Submit(FakePrompt(1, 10), 8, &out);
  stack_.Round();
  stack_.Round();
  stack_.core->Throttle(id, true);
  ASSERT_NE(stack_.Running(id), nullptr) << "a step computes for it";
  while (stack_.Round()) {
  }
  EXPECT_EQ(stack_.Running(id), nullptr);
  EXPECT_EQ(stack_.kv->usage().kv_slabs, 0);
  EXPECT_EQ(stack_.core->scheduler().Waiting().size(), 1u);
  stack_.core->Throttle(id, false);
  stack_.RunAll();
  EXPECT_EQ(out[0].tokens, ExpectedTokens(stack_.models[0], FakePrompt(1, 10), 8));
}

// A step of two streams takes 1,020 us. While a slot is free, a further request does not wait. When
// the slots are just used up, it waits for the first end of a stream, and the next one for the
// second end.
TEST_F(EngineClockTest, TheQueueDelayCountsTheRequestThatAsks) {
  stack_.options.max_num_seqs = 2;
  Start();
  const Scheduler& scheduler = stack_.core->scheduler();
  RequestOutput first, second, third;
  stack_.Submit(FakePrompt(1, 10), 40, &first);
  for (int i = 0; i < 10; ++i) stack_.Round();
  EXPECT_EQ(scheduler.PredictQueueDelayUs(), 0) << "a slot is free";
  stack_.Submit(FakePrompt(2, 10), 20, &second);
  for (int i = 0; i < 5; ++i) stack_.Round();
  ASSERT_EQ(scheduler.num_running(), 2);
  const int64_t left_of_first = 40 - static_cast<int64_t>(first[0].tokens.size());
  const int64_t left_of_second = 20 - static_cast<int64_t>(second[0].tokens.size());
  EXPECT_NEAR(scheduler.PredictQueueDelayUs(), left_of_second * 1020, 100);
  // The third request takes the place of the second and outlasts the first.
  stack_.Submit(FakePrompt(3, 10), 30, &third);
  EXPECT_NEAR(scheduler.PredictQueueDelayUs(), left_of_first * 1020 + 100, 300);
  stack_.RunAll();
  EXPECT_EQ(scheduler.PredictQueueDelayUs(), 0);
}

// A request that has no slot because its reader is slow neither waits nor delays others.
TEST_F(EngineClockTest, PausedStreamsAreNotTheQueue) {
  stack_.options.max_num_seqs = 2;
  Start();
  RequestOutput fast, slow;
  stack_.Submit(FakePrompt(1, 10), 40, &fast);
  for (int i = 0; i < 5; ++i) stack_.Round();
  const uint64_t id = stack_.Submit(FakePrompt(2, 10), 20, &slow);
  stack_.Round();
  stack_.core->Throttle(id, true);
  stack_.core->EndRound();
  const EngineStats& stats = *stack_.stats;
  EXPECT_EQ(stats.sequences_paused.value(), 1);
  EXPECT_EQ(stats.sequences_waiting.value(), 0);
  EXPECT_EQ(stats.sequences_running.value(), 1);
  EXPECT_EQ(stats.queue_delay_us.value(), 0.0) << "a slot is free";
  stack_.core->Throttle(id, false);
  stack_.core->EndRound();
  EXPECT_EQ(stats.sequences_paused.value(), 0);
  EXPECT_EQ(stats.sequences_waiting.value(), 1);
  stack_.RunAll();
}

}  // namespace
}  // namespace tessera::testing

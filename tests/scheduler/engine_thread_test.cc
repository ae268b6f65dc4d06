// Tests of the engine with its thread: many submitting threads, refusals, cancels, shutdown.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <future>
#include <mutex>
#include <thread>

#include "scheduler/step/engine.h"
#include "tests/lib/fake_runner.h"
#include "tests/lib/threaded_fake_runner.h"

namespace tessera {
namespace {

// A bound on waits, which end much earlier on any machine unless something is broken.
constexpr int64_t kLimitUs = 30'000'000;

class CountingSink final : public TokenSink {
 public:
  void Push(TokenEvent event) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (event.kind == TokenEvent::Kind::kToken) tokens_.push_back(event.tokens[0].token);
    if (event.kind != TokenEvent::Kind::kFinished) return;
    ++num_finished_;
    reason_ = event.reason;
    finished_.notify_all();
  }
  FinishReason WaitFinished() {
    std::unique_lock<std::mutex> lock(mutex_);
    EXPECT_TRUE(
        finished_.wait_for(lock, std::chrono::seconds(30), [&] { return num_finished_ > 0; }));
    return reason_;
  }
  std::vector<TokenId> tokens() {
    std::lock_guard<std::mutex> lock(mutex_);
    return tokens_;
  }
  int num_finished() {
    std::lock_guard<std::mutex> lock(mutex_);
    return num_finished_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable finished_;
  std::vector<TokenId> tokens_;
  int num_finished_ = 0;
  FinishReason reason_ = FinishReason::kError;
};

class EngineThreadTest : public ::testing::Test {
 protected:
  // Starts an engine whose steps take `step_us` of real time.
  void Start(int max_queue, int64_t step_us = 0, EngineOptions options = {},
             const Clock* clock = nullptr) {
    models_ = {testing::FakeModel("a", {0}, 4, 4000)};
    options.models = models_;
    options.max_num_seqs = 8;
    options.max_num_batched_tokens = 64;
    options.max_queue = max_queue;
    auto kv = NewKvManager(2049, models_[0].layout.slab_bytes, 1);
    kv->AddModel(models_[0].layout);
    testing::FakeRunnerOptions runner;
    runner.models = models_;
    runner.num_slabs = 2049;
    runner.max_num_seqs = 8;
    runner.step_us = [step_us](const StepBatch&) { return std::max<int64_t>(1, step_us); };
    auto threaded = std::make_unique<testing::ThreadedFakeRunner>(runner, step_us);
    runner_ = threaded.get();
    engine_ =
        NewEngine(options, std::move(kv), std::move(threaded), clock != nullptr ? clock : &clock_);
  }

  std::unique_ptr<Request> NewRequest(int seed, int64_t max_tokens,
                                      std::shared_ptr<TokenSink> sink) {
    auto request = std::make_unique<Request>();
    request->id = next_id_.fetch_add(1);
    for (int i = 0; i < 10; ++i) request->prompt.push_back((seed * 31 + i) % 1000);
    request->stopping.max_tokens = max_tokens;
    request->sink = std::move(sink);
    return request;
  }

  ProbeResult Probe() {
    std::promise<ProbeResult> answer;
    engine_->Probe({0, {1, 2, 3}, "", ""}, [&](ProbeResult result) { answer.set_value(result); });
    return answer.get_future().get();
  }
  // Waits until the loop has completed a round with all messages that were sent before. The second
  // probe is answered in a later round than the first.
  void AwaitRound() {
    Probe();
    Probe();
  }

  SteadyClock clock_;
  ManualClock manual_clock_;
  std::vector<EngineModel> models_;
  std::atomic<uint64_t> next_id_{1};
  testing::ThreadedFakeRunner* runner_ = nullptr;  // owned by the engine
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineThreadTest, ManySubmittersGetTheirTokens) {
  Start(1024);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < 25; ++i) {
        auto sink = std::make_shared<CountingSink>();
        auto request = NewRequest(t * 100 + i, 12, sink);
        const std::vector<TokenId> prompt = request->prompt;
        ASSERT_TRUE(engine_->Submit(std::move(request)).ok());
        EXPECT_EQ(sink->WaitFinished(), FinishReason::kLength);
        EXPECT_EQ(sink->tokens(), testing::ExpectedTokens(models_[0], prompt, 12));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(engine_->stats().generated_tokens.value(), 4 * 25 * 12);
}

TEST_F(EngineThreadTest, AFullQueueRefusesAtOnceAndSaysWhen) {
  Start(/*max_queue=*/4, /*step_us=*/2000);
  std::vector<std::shared_ptr<CountingSink>> sinks;
  int refused = 0;
  for (int i = 0; i < 64; ++i) {
    auto sink = std::make_shared<CountingSink>();
    const absl::Status status = engine_->Submit(NewRequest(i, 2000, sink));
    if (status.ok()) {
      sinks.push_back(sink);
      continue;
    }
    ++refused;
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_NE(status.message().find("retry in about"), std::string::npos) << status;
    EXPECT_EQ(sink->num_finished(), 0);
  }
  EXPECT_GT(refused, 0);
  EXPECT_EQ(engine_->stats().refused.value(), refused);
  engine_->CancelAll(CancelReason::kShutdown);
  for (auto& sink : sinks) EXPECT_EQ(sink->WaitFinished(), FinishReason::kCancelled);
}

TEST_F(EngineThreadTest, EarlyAbortRefusesWhatWouldComeTooLate) {
  EngineOptions options;
  options.queue_policy = QueuePolicyKind::kEarlyAbort;
  options.early_abort_us = 550'000;  // 50 ms above the policy's margin of 500 ms
  Start(/*max_queue=*/1000, /*step_us=*/10'000, options);
  std::vector<std::shared_ptr<CountingSink>> sinks;
  absl::Status status;
  for (int i = 0; i < 200 && status.ok(); ++i) {
    auto sink = std::make_shared<CountingSink>();
    status = engine_->Submit(NewRequest(i, 2000, sink));
    if (status.ok()) sinks.push_back(sink);
  }
  // The engine predicts the delay of this queue once it has measured some steps.
  const int64_t limit_us = clock_.NowUs() + kLimitUs;
  while (status.ok() && clock_.NowUs() < limit_us) {
    AwaitRound();
    status = engine_->MayQueue();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("--early-abort-ms"), std::string::npos) << status;
  EXPECT_EQ(engine_->stats().refused.value(), 1);
  // An accepted request is served or cancelled, never dropped.
  engine_->CancelAll(CancelReason::kShutdown);
  for (auto& sink : sinks) EXPECT_EQ(sink->WaitFinished(), FinishReason::kCancelled);
}

TEST_F(EngineThreadTest, AFullQueueIsKnownBeforeARequestIsMade) {
  Start(/*max_queue=*/2);
  EXPECT_TRUE(engine_->MayQueue().ok());
  runner_->Hold();
  std::vector<std::shared_ptr<CountingSink>> sinks;
  const auto submit = [&] {
    sinks.push_back(std::make_shared<CountingSink>());
    return engine_->Submit(NewRequest(static_cast<int>(sinks.size()), 4, sinks.back()));
  };
  ASSERT_TRUE(submit().ok());
  runner_->AwaitStep();  // the first request has left the queue
  ASSERT_TRUE(submit().ok());
  EXPECT_TRUE(engine_->MayQueue().ok());
  ASSERT_TRUE(submit().ok());
  const absl::Status full = engine_->MayQueue();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(full.message().find("--max-queue"), std::string::npos) << full;
  EXPECT_EQ(engine_->stats().refused.value(), 1);
  runner_->Release();
  for (const auto& sink : sinks) EXPECT_EQ(sink->WaitFinished(), FinishReason::kLength);
  EXPECT_TRUE(engine_->MayQueue().ok());
  engine_->Stop();
  EXPECT_EQ(engine_->MayQueue().code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineThreadTest, TheQueueCountsTheCopiesOfARequest) {
  Start(/*max_queue=*/4, /*step_us=*/1000);
  // A request may have more copies than the queue has places if nothing waits. Of the 100 copies, 8
  // run and 92 wait.
  auto many = std::make_shared<CountingSink>();
  auto request = NewRequest(1, 3000, many);
  request->sampling.n = 100;
  const uint64_t id = request->id;
  ASSERT_TRUE(engine_->Submit(std::move(request)).ok());
  while (many->tokens().empty()) std::this_thread::yield();
  EXPECT_EQ(engine_->Submit(NewRequest(2, 1, std::make_shared<CountingSink>())).code(),
            absl::StatusCode::kResourceExhausted);
  engine_->Cancel(id, -1, CancelReason::kClient);
  // The cancelled copies leave the queue, so the next request is accepted.
  auto one = std::make_shared<CountingSink>();
  while (!engine_->Submit(NewRequest(3, 1, one)).ok()) std::this_thread::yield();
  EXPECT_EQ(one->WaitFinished(), FinishReason::kLength);
}

TEST_F(EngineThreadTest, CancelFreesPagesWithinAStep) {
  Start(1024, 1000);
  auto sink = std::make_shared<CountingSink>();
  auto request = NewRequest(1, 3000, sink);
  const uint64_t id = request->id;
  ASSERT_TRUE(engine_->Submit(std::move(request)).ok());
  while (sink->tokens().size() < 3) std::this_thread::yield();
  engine_->Cancel(id, -1, CancelReason::kClient);
  EXPECT_EQ(sink->WaitFinished(), FinishReason::kCancelled);
  const int64_t steps = engine_->stats().steps.value();
  while (engine_->stats().slabs_kv.value() != 0) std::this_thread::yield();
  EXPECT_LE(engine_->stats().steps.value(), steps + 1);
}

TEST_F(EngineThreadTest, StopFinishesEverythingAndRefuses) {
  Start(1024, 500);
  std::vector<std::shared_ptr<CountingSink>> sinks;
  for (int i = 0; i < 20; ++i) {
    sinks.push_back(std::make_shared<CountingSink>());
    ASSERT_TRUE(engine_->Submit(NewRequest(i, 3000, sinks.back())).ok());
  }
  engine_->Stop();
  for (auto& sink : sinks) EXPECT_EQ(sink->num_finished(), 1);
  EXPECT_EQ(engine_->Submit(NewRequest(1, 1, std::make_shared<CountingSink>())).code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(EngineThreadTest, HeartbeatGoesOnWhileIdle) {
  Start(16);
  for (int beat = 0; beat < 3; ++beat) {
    const int64_t last_us = engine_->heartbeat_us();
    const int64_t limit_us = clock_.NowUs() + kLimitUs;
    while (engine_->heartbeat_us() == last_us && clock_.NowUs() < limit_us) {
      std::this_thread::yield();
    }
    ASSERT_GT(engine_->heartbeat_us(), last_us) << "no beat after beat " << beat;
  }
}

TEST_F(EngineThreadTest, ATimeLimitEndsARunningRequest) {
  manual_clock_.Advance(1'000'000);
  Start(16, /*step_us=*/5000, {}, &manual_clock_);
  auto sink = std::make_shared<CountingSink>();
  auto request = NewRequest(1, 3000, sink);
  request->stopping.time_limit_us = 50'000;
  ASSERT_TRUE(engine_->Submit(std::move(request)).ok());
  while (sink->tokens().empty()) std::this_thread::yield();
  EXPECT_EQ(sink->num_finished(), 0);
  manual_clock_.Advance(50'000);
  EXPECT_EQ(sink->WaitFinished(), FinishReason::kTimeLimit);
}

TEST_F(EngineThreadTest, WhatComesIsHandledWhileAStepRuns) {
  Start(16);
  runner_->Hold();
  auto cancelled = std::make_shared<CountingSink>();
  auto request = NewRequest(1, 10, cancelled);
  const uint64_t id = request->id;
  ASSERT_TRUE(engine_->Submit(std::move(request)).ok());
  runner_->AwaitStep();
  // While the step runs, a probe is answered, a request is queued, and a cancel and a time limit
  // end their requests.
  EXPECT_EQ(Probe().matched_tokens, 0);
  auto late = std::make_shared<CountingSink>();
  request = NewRequest(2, 5, late);
  const std::vector<TokenId> prompt = request->prompt;
  ASSERT_TRUE(engine_->Submit(std::move(request)).ok());
  auto limited = std::make_shared<CountingSink>();
  request = NewRequest(3, 5, limited);
  request->stopping.time_limit_us = 20'000;
  ASSERT_TRUE(engine_->Submit(std::move(request)).ok());
  EXPECT_EQ(limited->WaitFinished(), FinishReason::kTimeLimit);
  AwaitRound();
  EXPECT_EQ(engine_->stats().sequences_waiting.value(), 1);
  engine_->Cancel(id, -1, CancelReason::kClient);
  EXPECT_EQ(cancelled->WaitFinished(), FinishReason::kCancelled);
  EXPECT_EQ(engine_->stats().steps.value(), 0);
  // The running step still uses the cancelled request's pages, so they are not free yet.
  AwaitRound();
  EXPECT_GT(engine_->stats().slabs_kv.value(), 0);
  runner_->Release();
  EXPECT_EQ(late->WaitFinished(), FinishReason::kLength);
  EXPECT_EQ(late->tokens(), testing::ExpectedTokens(models_[0], prompt, 5));
  EXPECT_TRUE(cancelled->tokens().empty());
  EXPECT_EQ(cancelled->num_finished(), 1);
  AwaitRound();
  EXPECT_EQ(engine_->stats().slabs_kv.value(), 0);
}

TEST_F(EngineThreadTest, StopsWithAStepInFlight) {
  Start(16);
  runner_->Hold();
  auto running = std::make_shared<CountingSink>();
  auto waiting = std::make_shared<CountingSink>();
  ASSERT_TRUE(engine_->Submit(NewRequest(1, 10, running)).ok());
  runner_->AwaitStep();
  ASSERT_TRUE(engine_->Submit(NewRequest(2, 10, waiting)).ok());
  engine_->Stop();
  for (const auto& sink : {running, waiting}) {
    EXPECT_EQ(sink->num_finished(), 1);
    EXPECT_EQ(sink->WaitFinished(), FinishReason::kCancelled);
  }
  engine_.reset();
  EXPECT_EQ(running->num_finished(), 1);
}

// Measures the latency of probes while a step runs. The bound is loose enough for a busy machine.
TEST_F(EngineThreadTest, ProbesAreQuickWhileAStepRuns) {
  Start(16);
  runner_->Hold();
  auto sink = std::make_shared<CountingSink>();
  ASSERT_TRUE(engine_->Submit(NewRequest(1, 1, sink)).ok());
  runner_->AwaitStep();
  std::vector<int64_t> waits_us;
  for (int i = 0; i < 1000; ++i) {
    const int64_t begin_us = clock_.NowUs();
    Probe();
    waits_us.push_back(clock_.NowUs() - begin_us);
  }
  EXPECT_EQ(engine_->stats().steps.value(), 0);
  runner_->Release();
  EXPECT_EQ(sink->WaitFinished(), FinishReason::kLength);
  std::sort(waits_us.begin(), waits_us.end());
  std::printf("probe latency in a step: median %lld us, p99 %lld us\n",
              static_cast<long long>(waits_us[500]), static_cast<long long>(waits_us[990]));
  EXPECT_LT(waits_us[500], 5000);
}

TEST_F(EngineThreadTest, AHungStepIsNoProgress) {
  manual_clock_.Advance(1'000'000);
  Start(16, /*step_us=*/0, {}, &manual_clock_);
  auto before = std::make_shared<CountingSink>();
  ASSERT_TRUE(engine_->Submit(NewRequest(1, 8, before)).ok());
  before->WaitFinished();
  constexpr int64_t kStaleUs = 60'000'000;
  runner_->Hold();
  auto hung = std::make_shared<CountingSink>();
  ASSERT_TRUE(engine_->Submit(NewRequest(2, 2, hung)).ok());
  runner_->AwaitStep();
  manual_clock_.Advance(9'000'000);
  AwaitRound();
  EXPECT_TRUE(engine_->live(kStaleUs));
  EXPECT_EQ(engine_->heartbeat_us(), 10'000'000);
  manual_clock_.Advance(2'000'000);
  AwaitRound();
  EXPECT_FALSE(engine_->live(kStaleUs));
  EXPECT_EQ(engine_->heartbeat_us(), 10'000'000);
  runner_->Release();
  hung->WaitFinished();
  AwaitRound();
  EXPECT_TRUE(engine_->live(kStaleUs));
  EXPECT_EQ(engine_->heartbeat_us(), 12'000'000);
}

}  // namespace
}  // namespace tessera

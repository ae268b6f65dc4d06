// Tests of the engine core on a fake runner: a request gets the tokens that it gets alone, whatever
// other requests do.
#include "scheduler/step/engine_core.h"

#include <gtest/gtest.h>

#include <array>
#include <ctime>
#include <map>
#include <random>

#include "tests/lib/core_stack.h"
#include "tests/lib/log_capture.h"
#include "tests/lib/sanitizers.h"

namespace tessera {
namespace {

using testing::RequestOutput;

constexpr int kRandomRounds = testing::kSanitized ? 3000 : 30000;

class DropSink final : public TokenSink {
 public:
  void Push(TokenEvent) override {}
};

struct Stack : testing::CoreStack {
  Stack() {
    step_us = [this](const StepBatch& batch) {
      num_counts.push_back(static_cast<int>(batch.counts.count));
      if (fixed_step_us > 0) return fixed_step_us;
      return int64_t{1000} + 10 * static_cast<int64_t>(batch.tokens.count);
    };
  }
  bool RunOnce() { return driver->RunOnce(); }
  int64_t num_matches() const { return core->kv().stats().num_matches; }

  int64_t fixed_step_us = 0;    // 0: a step's time depends on its number of tokens
  std::vector<int> num_counts;  // number of token counts for penalties, by step
};

TEST(EngineCoreTest, GeneratesAndCounts) {
  Stack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 64)};
  stack.Start();
  RequestOutput out;
  stack.core->Submit(stack.NewRequest(testing::FakePrompt(1, 10), 5, &out));
  stack.RunAll();
  EXPECT_EQ(out[0].tokens, testing::ExpectedTokens(stack.models[0], testing::FakePrompt(1, 10), 5));
  EXPECT_EQ(out[0].reason, FinishReason::kLength);
  EXPECT_EQ(out[0].usage.prompt_tokens, 10);
  EXPECT_EQ(out[0].usage.completion_tokens, 5);
  EXPECT_EQ(stack.left_queue, 1);
  EXPECT_EQ(stack.stats->generated_tokens.value(), 5);
  EXPECT_EQ(stack.stats->models[0].finished[static_cast<size_t>(FinishReason::kLength)].value(), 1);
}

TEST(EngineCoreTest, StopsAtEosStopIdsAndContext) {
  Stack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 16)};
  stack.Start();
  const std::vector<TokenId> expected =
      testing::ExpectedTokens(stack.models[0], testing::FakePrompt(2, 6), 10);
  RequestOutput eos, stop, ignored, full;
  auto request = stack.NewRequest(testing::FakePrompt(2, 6), 8, &eos);
  request->stopping.eos_ids = {expected[3]};
  stack.core->Submit(std::move(request));
  request = stack.NewRequest(testing::FakePrompt(2, 6), 8, &stop);
  request->stopping.stop_ids = {expected[2]};
  stack.core->Submit(std::move(request));
  request = stack.NewRequest(testing::FakePrompt(2, 6), 6, &ignored);
  request->stopping.eos_ids = {expected[3]};
  request->stopping.ignore_eos = true;
  stack.core->Submit(std::move(request));
  stack.core->Submit(stack.NewRequest(testing::FakePrompt(2, 6), 1000, &full));
  stack.RunAll();
  EXPECT_EQ(eos[0].tokens.size(), 4u);
  EXPECT_EQ(eos[0].reason, FinishReason::kStop);
  EXPECT_EQ(stop[0].tokens.size(), 3u);
  EXPECT_EQ(stop[0].reason, FinishReason::kStop);
  EXPECT_EQ(ignored[0].tokens.size(), 6u);
  EXPECT_EQ(ignored[0].reason, FinishReason::kLength);
  EXPECT_EQ(full[0].tokens, expected);  // 6 prompt tokens and 10 tokens fill the context of 16
  EXPECT_EQ(full[0].reason, FinishReason::kLength);
}

TEST(EngineCoreTest, EmbedsTheNormalisedMean) {
  Stack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 64)};
  stack.options.max_num_seqs = 4;
  stack.options.max_num_batched_tokens = 4;
  stack.Start();
  RequestOutput out;
  auto request = stack.NewRequest(testing::FakePrompt(3, 11), 1, &out);
  request->kind = RequestKind::kEmbed;
  stack.core->Submit(std::move(request));
  stack.RunAll();
  std::vector<double> mean(4, 0.0);
  for (const TokenId token : testing::FakePrompt(3, 11)) {
    for (int h = 0; h < 4; ++h) mean[h] += (token >> h) & 7;
  }
  double norm = 0.0;
  for (const double v : mean) norm += v * v;
  ASSERT_EQ(out[0].embedding.size(), 4u);
  for (int h = 0; h < 4; ++h) EXPECT_FLOAT_EQ(out[0].embedding[h], mean[h] / std::sqrt(norm));
  EXPECT_TRUE(out[0].finished);
  EXPECT_TRUE(out[0].tokens.empty());
}

// An embedding generates nothing, so its prompt may fill the context and the pool.
TEST(EngineCoreTest, EmbedsAPromptThatFillsTheContextAndThePool) {
  constexpr int kContext = 64;
  Stack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, kContext)};
  stack.options.max_num_seqs = 4;
  stack.options.max_num_batched_tokens = 10;
  stack.num_slabs = kContext / 4 + 1;
  stack.Start();
  RequestOutput full, next;
  auto request = stack.NewRequest(testing::FakePrompt(3, kContext), 1, &full);
  request->kind = RequestKind::kEmbed;
  stack.core->Submit(std::move(request));
  stack.core->Submit(stack.NewRequest(testing::FakePrompt(5, 8), 2, &next));
  stack.RunAll();
  EXPECT_EQ(full[0].reason, FinishReason::kStop) << full[0].status;
  EXPECT_EQ(full[0].embedding.size(), 4u);
  EXPECT_EQ(full[0].usage.prompt_tokens, kContext);
  EXPECT_EQ(next[0].tokens.size(), 2u);
}

TEST(EngineCoreTest, CopyZeroIsTheRequestWithNOne) {
  Stack stack;
  stack.models = {testing::FakeModel("a", {0, 8}, 4, 64)};
  stack.Start();
  RequestOutput out;
  auto request = stack.NewRequest(testing::FakePrompt(4, 21), 6, &out);
  request->sampling.n = 4;
  stack.core->Submit(std::move(request));
  stack.RunAll();
  ASSERT_EQ(out.size(), 4u);
  for (const auto& [index, received] : out) {
    EXPECT_EQ(received.tokens,
              testing::ExpectedTokens(stack.models[0], testing::FakePrompt(4, 21), 6));
    EXPECT_EQ(received.usage.cached_prompt_tokens, index == 0 ? 0 : 20);
  }
  // Both counters count the prompt once for each sequence, so their ratio is the share of prompt
  // tokens that the cache saves.
  EXPECT_EQ(stack.stats->prompt_tokens.value(), 4 * 21);
  EXPECT_EQ(stack.stats->cached_prompt_tokens.value(), 3 * 20);
}

TEST(EngineCoreTest, WaitingCopiesShareThePromptAndCountOneByOne) {
  Stack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 64)};
  stack.options.max_num_seqs = 2;
  stack.Start();
  RequestOutput out;
  auto request = stack.NewRequest(testing::FakePrompt(4, 21), 6, &out);
  request->sampling.n = 6;
  stack.core->Submit(std::move(request));
  EXPECT_EQ(stack.left_queue, 0);
  for (const Sequence* s : stack.core->scheduler().Waiting()) EXPECT_EQ(s->tokens.capacity(), 0u);
  stack.RunOnce();
  EXPECT_EQ(stack.left_queue, 1);
  stack.RunOnce();
  EXPECT_EQ(stack.left_queue, 2);
  EXPECT_EQ(stack.core->scheduler().num_waiting(), 4);
  for (const Sequence* s : stack.core->scheduler().Waiting()) EXPECT_EQ(s->tokens.capacity(), 0u);
  stack.core->Cancel(1, 5, CancelReason::kClient);
  EXPECT_EQ(stack.left_queue, 3);
  EXPECT_EQ(out[5].usage.completion_tokens, 0);
  stack.RunAll();
  EXPECT_EQ(stack.left_queue, 6);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(out[i].tokens,
              testing::ExpectedTokens(stack.models[0], testing::FakePrompt(4, 21), 6));
  }
}

double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

TEST(EngineCoreTest, ManyLeaveTheQueueAtOnceInLinearTime) {
  Stack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 64)};
  stack.Start();
  RequestOutput out;
  const int num_requests = kRandomRounds / 12;
  for (int i = 0; i < num_requests; ++i) {
    auto request = stack.NewRequest(testing::FakePrompt(i, 8), 1, &out);
    request->sampling.n = 128;
    request->sink = std::make_shared<DropSink>();
    stack.core->Submit(std::move(request));
  }
  const double begin_s = CpuSeconds();
  stack.core->CancelAll(CancelReason::kClient);
  EXPECT_LT(CpuSeconds() - begin_s, 1.0);
  EXPECT_EQ(stack.left_queue, 128 * num_requests);
  stack.RunAll();
}

TEST(EngineCoreTest, TheQueueDelayIsTheSumOfWhatWaitsAndCheapToTell) {
  Stack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 100), testing::FakeModel("b", {0}, 4, 200'000)};
  stack.num_slabs = 60'001;
  stack.options.max_num_seqs = 1;
  stack.options.max_num_batched_tokens = 64;
  stack.Start();
  RequestOutput out;
  for (int model = 0; model < 2; ++model) {
    auto request = stack.NewRequest(testing::FakePrompt(model, 70), 10, &out);
    request->model = model;
    request->sink = std::make_shared<DropSink>();
    stack.core->Submit(std::move(request));
    stack.RunAll();
  }
  const Scheduler& scheduler = stack.core->scheduler();
  EXPECT_EQ(scheduler.PredictQueueDelayUs(), 0);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 500; ++i) {
    auto request = stack.NewRequest(testing::FakePrompt(i, i % 2 == 0 ? 90 : 128'000), 1, &out);
    request->model = i % 2;
    request->sink = std::make_shared<DropSink>();
    ids.push_back(request->id);
    stack.core->Submit(std::move(request));
  }
  const double both_us = scheduler.PredictPrefillUs(0, 90) + scheduler.PredictPrefillUs(1, 128'000);
  EXPECT_GT(both_us, 2000 * 1000.0);
  // The chunks of several prompts may share a step, so the fixed time of a step counts less often.
  const auto all_us = static_cast<double>(scheduler.PredictQueueDelayUs());
  EXPECT_LE(all_us, 250 * both_us);
  EXPECT_GE(all_us, 0.9 * 250 * both_us);
  // Paused and cancelled requests do not count in the queue delay.
  for (int i = 0; i < 200; ++i) stack.core->Throttle(ids[i], true);
  EXPECT_NEAR(scheduler.PredictQueueDelayUs(), 0.6 * all_us, 0.001 * all_us);
  for (int i = 0; i < 100; ++i) stack.core->Throttle(ids[i], false);
  for (int i = 100; i < 300; ++i) stack.core->Cancel(ids[i], -1, CancelReason::kClient);
  EXPECT_NEAR(scheduler.PredictQueueDelayUs(), 0.6 * all_us, 0.001 * all_us);
  const double begin_s = CpuSeconds();
  for (int i = 0; i < 1000; ++i) scheduler.PredictQueueDelayUs();
  EXPECT_LT(CpuSeconds() - begin_s, 0.2);
  stack.core->CancelAll(CancelReason::kClient);
  EXPECT_EQ(scheduler.PredictQueueDelayUs(), 0);
}

TEST(EngineCoreTest, PenaltiesCountThePromptOnlyForRepetition) {
  Stack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 64)};
  stack.Start();
  RequestOutput presence, repetition;
  auto request = stack.NewRequest({9, 3, 9, 500, 3, 7, 4}, 4, &presence);
  request->sampling.presence_penalty = 0.5f;
  stack.core->Submit(std::move(request));
  stack.RunAll();
  EXPECT_EQ(stack.num_counts, (std::vector<int>{0, 1, 2, 3}));
  stack.num_counts.clear();
  request = stack.NewRequest({9, 3, 9, 500, 3, 7, 4}, 4, &repetition);
  request->sampling.repetition_penalty = 1.5f;
  stack.core->Submit(std::move(request));
  stack.RunAll();
  EXPECT_EQ(stack.num_counts, (std::vector<int>{5, 6, 7, 8}));
}

TEST(SequenceTest, CountsStaySortedAndArePerSequence) {
  Request request;
  request.prompt = {9, 3, 9, 500, 3};
  request.sampling.repetition_penalty = 1.5f;
  const auto counts = std::make_shared<const std::vector<TokenCount>>(CountPrompt(request.prompt));
  Sequence s;
  s.request = &request;
  s.prompt_counts = counts;
  s.TakePrompt();
  for (const TokenId token : {7, 500, 7, 1, 600}) s.TakeToken(token);
  const std::vector<std::array<int, 3>> expected = {{1, 1, 0}, {3, 0, 1},   {7, 2, 0},
                                                    {9, 0, 1}, {500, 1, 1}, {600, 1, 0}};
  ASSERT_EQ(s.counts.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(s.counts[i].token, expected[i][0]);
    EXPECT_EQ(s.counts[i].output_count, expected[i][1]);
    EXPECT_EQ(s.counts[i].in_prompt, expected[i][2]);
  }
  EXPECT_EQ(counts->size(), 3u);
}

TEST(EngineCoreTest, CopiesAndOthersAwaitAPageWithoutLookingThePromptUpAgain) {
  Stack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 400)};
  stack.num_slabs = 1001;
  stack.depth = 2;
  stack.options.max_num_seqs = 32;
  stack.options.max_num_batched_tokens = 512;  // would allow two prompts in one step
  stack.Start();
  RequestOutput copies, other;
  auto request = stack.NewRequest(testing::FakePrompt(2, 300), 2, &copies);
  request->sampling.n = 16;
  stack.core->Submit(std::move(request));
  stack.core->Submit(stack.NewRequest(testing::FakePrompt(2, 300), 2, &other));
  stack.RunOnce();                    // launches the prompt
  stack.RunOnce();                    // plans again before that step retires
  EXPECT_EQ(stack.num_matches(), 3);  // for the first copy, one of the 15 others, the other request
  stack.RunAll();
  EXPECT_EQ(stack.num_matches(), 3 + 16);
  for (const auto& [index, received] : copies) {
    EXPECT_EQ(received.tokens,
              testing::ExpectedTokens(stack.models[0], testing::FakePrompt(2, 300), 2));
    EXPECT_EQ(received.usage.cached_prompt_tokens, index == 0 ? 0 : 296);
  }
  EXPECT_EQ(other[0].usage.cached_prompt_tokens, 296);
}

TEST(EngineCoreTest, NothingIsLookedUpWithoutRoomForIt) {
  Stack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 400)};
  stack.num_slabs = 1001;
  stack.options.max_num_seqs = 32;
  stack.options.max_num_batched_tokens = 128;
  stack.options.target_step_ratio = 1;
  // A step beside a stream has room for about 24 tokens, so one prompt fills it.
  stack.options.target_step_us = 1250;
  stack.Start();
  RequestOutput stream, copies, other;
  stack.core->Submit(stack.NewRequest(testing::FakePrompt(1, 8), 40, &stream));
  for (int i = 0; i < 6; ++i) stack.RunOnce();
  const int64_t before = stack.num_matches();
  auto request = stack.NewRequest(testing::FakePrompt(2, 300), 2, &copies);
  request->sampling.n = 16;
  stack.core->Submit(std::move(request));
  stack.core->Submit(stack.NewRequest(testing::FakePrompt(2, 300), 2, &other));
  for (int i = 0; i < 10; ++i) stack.RunOnce();
  EXPECT_EQ(stack.core->scheduler().num_running(), 2);
  // One lookup each for the first copy, for one of the 15 others, and for the other request.
  EXPECT_LE(stack.num_matches() - before, 3);
  stack.RunAll();
  EXPECT_LE(stack.num_matches() - before, 3 + 16);
  for (const auto& [index, received] : copies) {
    EXPECT_EQ(received.tokens,
              testing::ExpectedTokens(stack.models[0], testing::FakePrompt(2, 300), 2));
    EXPECT_GE(received.usage.cached_prompt_tokens, index == 0 ? 0 : 280);
  }
  EXPECT_GE(other[0].usage.cached_prompt_tokens, 280);
}

TEST(EngineCoreTest, ProbeTellsTheMatch) {
  Stack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 64)};
  stack.Start();
  EXPECT_EQ(stack.core->Probe({0, testing::FakePrompt(5, 18), ""}).matched_tokens, 0);
  RequestOutput out;
  stack.core->Submit(stack.NewRequest(testing::FakePrompt(5, 18), 1, &out));
  stack.RunAll();
  EXPECT_EQ(stack.core->Probe({0, testing::FakePrompt(5, 18), ""}).matched_tokens, 16);
  EXPECT_EQ(stack.core->Probe({0, testing::FakePrompt(5, 18), "other"}).matched_tokens, 0);
}

class OverdueTest : public ::testing::Test {
 protected:
  // Starts a model whose steps take `step_us`, and runs enough steps for the cost model to learn
  // it.
  void Start(int64_t step_us, int depth = 1) {
    stack_.models = {testing::FakeModel("slow", {0}, 4, 64)};
    stack_.depth = depth;
    stack_.fixed_step_us = step_us;
    stack_.Start();
    Submit("", 8);
    stack_.RunAll();
  }
  void Submit(const std::string& name, int64_t max_tokens) {
    auto request = stack_.NewRequest(testing::FakePrompt(static_cast<int>(stack_.next_id), 6),
                                     max_tokens, &out_);
    request->sink = std::make_shared<DropSink>();
    request->name = name;
    stack_.core->Submit(std::move(request));
  }
  StepHealth HealthAfter(int64_t us) {
    stack_.clock.Advance(us);
    stack_.core->BeginRound(stack_.clock.NowUs());
    return stack_.core->EndRound();
  }

  Stack stack_;
  RequestOutput out_;
};

TEST_F(OverdueTest, AStepThatTakesTooLongIsToldOnceWithItsRequests) {
  Start(/*step_us=*/2000);
  const testing::LogCapture log;
  Submit("alpha", 2);
  Submit("be\nta", 2);
  stack_.driver->LaunchStep();
  EXPECT_EQ(HealthAfter(9'999'000), StepHealth::kGood);
  EXPECT_EQ(log.text(), "");
  EXPECT_EQ(HealthAfter(2000), StepHealth::kOverdue);
  EXPECT_EQ(HealthAfter(5'000'000), StepHealth::kOverdue);
  const std::string line = log.text();
  EXPECT_EQ(line.rfind("[warning] step 9 of model slow runs for 10.0 s, 0.00", 0), 0u) << line;
  EXPECT_NE(line.find("12 tokens of alpha, be\\nta\n"), std::string::npos) << line;
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
  stack_.driver->RetireOldest();
  EXPECT_EQ(HealthAfter(0), StepHealth::kGood);
  stack_.RunAll();
}

TEST_F(OverdueTest, ManyRequestsAreNotAllTold) {
  stack_.num_slabs = 257;
  Start(/*step_us=*/2000);
  const testing::LogCapture log;
  for (int i = 0; i < 20; ++i) Submit("r" + std::to_string(10 + i), 2);
  stack_.driver->LaunchStep();
  EXPECT_EQ(HealthAfter(11'000'000), StepHealth::kOverdue);
  EXPECT_NE(log.text().find("r24, r25 and 4 more"), std::string::npos) << log.text();
  stack_.driver->RetireOldest();
  stack_.RunAll();
}

TEST_F(OverdueTest, SlowStepsThatWereForeseenAreGood) {
  Start(/*step_us=*/4'000'000);
  Submit("patient", 2);
  stack_.driver->LaunchStep();
  EXPECT_EQ(HealthAfter(30'000'000), StepHealth::kGood);
  EXPECT_EQ(HealthAfter(15'000'000), StepHealth::kOverdue);
  stack_.driver->RetireOldest();
  stack_.RunAll();
}

TEST_F(OverdueTest, FirstStepsAreNotJudged) {
  stack_.models = {testing::FakeModel("new", {0}, 4, 64)};
  stack_.Start();
  const testing::LogCapture log;
  Submit("first", 2);
  stack_.driver->LaunchStep();
  EXPECT_EQ(HealthAfter(9'000'000), StepHealth::kGood);
  EXPECT_EQ(HealthAfter(2'000'000), StepHealth::kUnknown);
  EXPECT_EQ(log.text(), "");
  stack_.driver->RetireOldest();
  stack_.RunAll();
}

// The second of two launched steps starts when the first ends, so its time counts from then on.
TEST_F(OverdueTest, AStepIsTimedFromTheEndOfTheOneBeforeIt) {
  Start(/*step_us=*/2000, /*depth=*/2);
  Submit("both", 8);
  stack_.driver->LaunchStep();
  stack_.driver->LaunchStep();
  ASSERT_EQ(stack_.core->num_inflight(), 2);
  EXPECT_EQ(HealthAfter(9'000'000), StepHealth::kGood);
  stack_.driver->RetireOldest();
  EXPECT_EQ(HealthAfter(9'000'000), StepHealth::kGood);
  EXPECT_EQ(HealthAfter(2'000'000), StepHealth::kOverdue);
  stack_.driver->RetireOldest();
  stack_.RunAll();
}

struct Live {
  std::vector<TokenId> prompt;
  int64_t max_tokens;
  int32_t model;
  int32_t n;
  bool cancelled = false;
  bool paused = false;
  RequestOutput out;
};

struct RandomRun {
  int depth = 1;
  // When the runner is full, the round ends a step at once, so no message arrives between a launch
  // and the end of a step.
  bool is_deaf = true;

  // Runs a whole round if is_deaf; otherwise launches or ends one step at random.
  void Run(Stack* stack, std::mt19937* rng) const {
    if (is_deaf) {
      stack->RunOnce();
    } else if (stack->core->num_inflight() > 0 && (*rng)() % 2 == 0) {
      stack->driver->RetireOldest();
    } else {
      stack->driver->LaunchStep();
    }
  }
};

class RandomEngineTest : public ::testing::TestWithParam<RandomRun> {};

// Requests are submitted, cancelled, paused and resumed at random, in a pool that is much smaller
// than all requests together need.
TEST_P(RandomEngineTest, EveryRequestGetsTheTokensItGetsAlone) {
  const RandomRun& run = GetParam();
  std::mt19937 rng(7 + run.depth);
  Stack stack;
  stack.models = {testing::FakeModel("full", {0}, 4, 96),
                  testing::FakeModel("mixed", {0, 12}, 4, 96)};
  stack.num_slabs = 61;
  stack.depth = run.depth;
  stack.options.max_num_seqs = 6;
  stack.options.max_num_batched_tokens = 16;
  stack.options.target_step_us = 1100;
  stack.options.target_step_ratio = 1;
  stack.options.ageing_us = 50'000;
  stack.Start();
  std::map<uint64_t, std::unique_ptr<Live>> live;
  int64_t num_checked = 0;
  for (int round = 0; round < kRandomRounds; ++round) {
    if (live.size() < 12 && rng() % 3 == 0) {
      auto l = std::make_unique<Live>();
      l->model = rng() % 2;
      l->prompt = testing::FakePrompt(rng() % 4, 1 + rng() % 50);
      if (rng() % 2 == 0) l->prompt.push_back(rng() % 1000);
      l->max_tokens = 1 + rng() % 30;
      l->n = rng() % 6 == 0 ? 3 : 1;
      auto request = stack.NewRequest(l->prompt, l->max_tokens, &l->out);
      request->model = l->model;
      request->sampling.n = l->n;
      request->bypass_prefix = rng() % 10 == 0;
      request->salt = rng() % 8 == 0 ? "salt" : "";
      request->priority = static_cast<Priority>(rng() % 3);
      if (rng() % 10 == 0) request->prompt_logprobs = 0;
      live[request->id] = std::move(l);
      stack.core->Submit(std::move(request));
    }
    if (!live.empty() && rng() % 12 == 0) {
      auto it = std::next(live.begin(), rng() % live.size());
      const int verb = rng() % 4;
      if (verb == 0) {
        it->second->cancelled = true;
        stack.core->Cancel(it->first, -1, CancelReason::kClient);
      } else {
        it->second->paused = verb == 1;
        stack.core->Throttle(it->first, verb == 1);
      }
    }
    // All paused requests are resumed every 200 rounds, so that they finish.
    if (round % 200 == 0) {
      for (auto& [id, l] : live) stack.core->Throttle(id, false);
    }
    run.Run(&stack, &rng);
    if (round % 7 == 0) stack.core->CheckInvariants();
    for (auto it = live.begin(); it != live.end();) {
      Live& l = *it->second;
      int num_finished = 0;
      for (const auto& [index, received] : l.out) num_finished += received.finished ? 1 : 0;
      if (num_finished < l.n) {
        ++it;
        continue;
      }
      for (const auto& [index, received] : l.out) {
        const auto expected = testing::ExpectedTokens(stack.models[l.model], l.prompt,
                                                      static_cast<int64_t>(received.tokens.size()));
        ASSERT_EQ(received.tokens, expected) << "request " << it->first;
        if (!l.cancelled) {
          const int64_t room = 96 - static_cast<int64_t>(l.prompt.size());
          ASSERT_EQ(static_cast<int64_t>(received.tokens.size()), std::min(l.max_tokens, room));
        }
        ++num_checked;
      }
      it = live.erase(it);
    }
  }
  for (auto& [id, l] : live) stack.core->Throttle(id, false);
  stack.RunAll();
  EXPECT_GT(num_checked, kRandomRounds / 50);
  EXPECT_GT(stack.stats->preemptions.value(), 0);
  EXPECT_GT(stack.stats->cached_prompt_tokens.value(), 0);
}

INSTANTIATE_TEST_SUITE_P(Depth, RandomEngineTest,
                         ::testing::Values(RandomRun{1, true}, RandomRun{2, true},
                                           RandomRun{1, false}, RandomRun{2, false}));

}  // namespace
}  // namespace tessera

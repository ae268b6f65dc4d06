// Tests of the predicted queue delay and of what is decided by it. The delays that a simulated load
// gets must be those that were predicted when its requests arrived.
#include "scheduler/plan/queue_delay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "scheduler/plan/output_lengths.h"
#include "tests/lib/load_simulation.h"

namespace tessera::testing {
namespace {

constexpr int64_t kSecondUs = 1'000'000;

// The shape of the requests of a load.
struct Shape {
  int32_t prompt_tokens = 128;  // the mean; uniform from half of it to one and a half
  int32_t shared_tokens = 0;    // further tokens that all prompts begin with
  int64_t max_tokens = 64;
  double mean_output_tokens = 0.0;  // of an exponential distribution; 0: always max_tokens
};

SimulatedRequest Draw(const Shape& shape, int64_t arrival_us, std::mt19937* rng) {
  SimulatedRequest request;
  request.arrival_us = arrival_us;
  std::uniform_int_distribution<int32_t> length(shape.prompt_tokens / 2 + 1,
                                                shape.prompt_tokens * 3 / 2);
  request.num_shared_tokens = shape.shared_tokens;
  request.num_prompt_tokens = shape.shared_tokens + length(*rng);
  request.max_tokens = shape.max_tokens;
  request.num_output_tokens = shape.max_tokens;
  if (shape.mean_output_tokens > 0.0) {
    std::exponential_distribution<double> output(1.0 / shape.mean_output_tokens);
    request.num_output_tokens = std::min(shape.max_tokens, 1 + static_cast<int64_t>(output(*rng)));
  }
  return request;
}

// Requests of random shapes that arrive at random, at `rate` requests/s on average.
std::vector<SimulatedRequest> Poisson(const std::vector<Shape>& shapes, double rate, double seconds,
                                      uint32_t seed) {
  std::mt19937 rng(seed);
  std::exponential_distribution<double> gap(rate);
  std::vector<SimulatedRequest> requests;
  for (double at_s = gap(rng); at_s < seconds; at_s += gap(rng)) {
    requests.push_back(
        Draw(shapes[rng() % shapes.size()], static_cast<int64_t>(at_s * kSecondUs), &rng));
  }
  return requests;
}

std::vector<SimulatedRequest> Burst(const std::vector<Shape>& shapes, int count, int64_t at_us,
                                    uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < count; ++i) {
    requests.push_back(Draw(shapes[i % shapes.size()], at_us, &rng));
  }
  return requests;
}

// The share of predictions that are right within a factor of 2, or within `slack_us`.
double ShareRight(const std::vector<SimulatedResult>& results, int64_t slack_us) {
  int num_right = 0;
  int num_served = 0;
  for (const SimulatedResult& r : results) {
    if (r.queue_us < 0) continue;
    ++num_served;
    const bool right =
        r.predicted_us <= 2 * r.queue_us + slack_us && r.queue_us <= 2 * r.predicted_us + slack_us;
    num_right += right ? 1 : 0;
  }
  return num_served == 0 ? 0.0 : static_cast<double>(num_right) / num_served;
}

SimulationOptions Options(int32_t max_num_seqs) {
  SimulationOptions options;
  options.engine.max_num_seqs = max_num_seqs;
  options.engine.max_queue_delay_us = 0;
  return options;
}

TEST(TimeOfEndsTest, TheFirstEndsAreThoseOfWhatRuns) {
  const std::vector<double> ends_us = {10, 20, 30};
  EXPECT_EQ(TimeOfEnds(ends_us, 1000, 1), 10);
  EXPECT_EQ(TimeOfEnds(ends_us, 1000, 2), 20);
  EXPECT_EQ(TimeOfEnds(ends_us, 1000, 3), 30);
}

// The ends of what follows are spread evenly, from half of a life on.
TEST(TimeOfEndsTest, WhatFollowsEndsAtAConstantRate) {
  const std::vector<double> ends_us(8, 2000.0);
  EXPECT_EQ(TimeOfEnds(ends_us, 2000, 8), 2000);
  EXPECT_DOUBLE_EQ(TimeOfEnds(ends_us, 2000, 9), 2000 + 1000 + 2000 / 8.0);
  EXPECT_DOUBLE_EQ(TimeOfEnds(ends_us, 2000, 16), 2000 + 1000 + 2000);
  // One place is taken again and again while another sequence runs on.
  EXPECT_DOUBLE_EQ(TimeOfEnds({100, 1e9}, 100, 11), 100 + 50 + 10 * 100);
}

TEST(PredictDelayTest, PromptsTakeTheirStepsBesideTheStreams) {
  DelayShare model;
  EXPECT_EQ(PredictDelayUs({model}, 0), 0.0);
  model.step_us = 100.0;
  model.prompts_us = 1000.0;
  model.num_steps = 3;
  EXPECT_EQ(PredictDelayUs({model}, 0), 1300.0);
  // The target of 200 us leaves 100 us of each step to the prompts.
  model.most_step_us = 200.0;
  EXPECT_EQ(PredictDelayUs({model}, 0), 1300.0) << "no streams, no target";
  model.has_streams = true;
  EXPECT_EQ(PredictDelayUs({model}, 0), 2000.0);
  DelayShare other;
  other.has_streams = true;
  EXPECT_EQ(PredictDelayUs({model, other}, 0), 4000.0) << "each model gets half of the device";
  model.life_us = 10'000.0;
  model.ends_us = {500.0, 700.0};
  EXPECT_EQ(PredictDelayUs({model}, 1), 1500.0);
  other.ends_us = {550.0};
  EXPECT_EQ(PredictDelayUs({model, other}, 2), 2100.0);
}

TEST(OutputLengthsTest, RequestsOfAClassAreAlike) {
  OutputLengths lengths;
  EXPECT_EQ(lengths.Expect(200, 0), 200);
  EXPECT_EQ(lengths.Expect(100'000, 0), 2048) << "no limit, nothing known";
  for (int i = 0; i < 100; ++i) {
    lengths.Observe(100'000, 400 + i % 3 * 100);
    lengths.Observe(16, 16);
  }
  EXPECT_NEAR(lengths.Expect(100'000, 0), 500, 20);
  EXPECT_NEAR(lengths.Expect(90'000, 300), 450, 20);
  EXPECT_EQ(lengths.Expect(20, 0), 20);
  EXPECT_EQ(lengths.Expect(2000, 0), 2000) << "another class";
}

TEST(OutputLengthsTest, WhatHasPassedTheMeanGoesOn) {
  OutputLengths lengths;
  lengths.Observe(1000, 100);
  EXPECT_EQ(lengths.Expect(1000, 99), 100);
  EXPECT_EQ(lengths.Expect(1000, 100), 150);
  EXPECT_EQ(lengths.Expect(1000, 140), 190);
  EXPECT_EQ(lengths.Expect(1000, 990), 1000);
  EXPECT_EQ(lengths.Expect(1, 0), 1);
}

class QueueGateTest : public ::testing::Test {
 protected:
  absl::Status Enter(int64_t n = 1) { return gate_.Enter(n, *policy_); }
  void Observe(int64_t now_us, int64_t delay_us) {
    stats_.queue_delay_us.Set(static_cast<double>(delay_us));
    gate_.Observe(now_us);
  }

  EngineOptions options_ = [] {
    EngineOptions options;
    options.max_num_seqs = 4;
    options.max_queue = 10;
    options.max_queue_delay_us = 2 * kSecondUs;
    return options;
  }();
  EngineStats stats_{1};
  QueueGate gate_{options_, &stats_};
  std::unique_ptr<QueuePolicy> policy_ = NewPriorityPolicy(options_.ageing_us);
};

TEST_F(QueueGateTest, ABurstIsQueuedAndALastingOverloadIsNot) {
  stats_.sequences_running.Set(4);
  EXPECT_TRUE(Enter().ok());
  Observe(0, 9 * kSecondUs);
  Observe(2 * kSecondUs - 1, 9 * kSecondUs);
  EXPECT_TRUE(Enter().ok());
  Observe(2 * kSecondUs, 9 * kSecondUs);
  const absl::Status refused = Enter();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("engine.max_queue_delay_ms"), std::string::npos);
  EXPECT_NE(refused.message().find("retry in about 9000 ms"), std::string::npos) << refused;
  EXPECT_EQ(RetryAfterUs(refused), 9 * kSecondUs);
  EXPECT_EQ(stats_.refused.value(), 1);
  // The load still exceeds what the device can serve: the bound holds at once.
  Observe(3 * kSecondUs, 2 * kSecondUs);
  EXPECT_TRUE(Enter().ok());
  Observe(3 * kSecondUs + 1, 2 * kSecondUs + 1);
  EXPECT_FALSE(Enter().ok());
  // The queue has become short, so the next rise is a burst.
  Observe(4 * kSecondUs, kSecondUs);
  Observe(4 * kSecondUs + 1, 9 * kSecondUs);
  EXPECT_TRUE(Enter().ok());
}

TEST_F(QueueGateTest, WhoeverFindsASlotIsNotRefused) {
  stats_.sequences_running.Set(2);
  ASSERT_TRUE(Enter().ok());
  Observe(0, 9 * kSecondUs);
  Observe(2 * kSecondUs, 9 * kSecondUs);
  EXPECT_TRUE(Enter().ok()) << "two run, one waits";
  EXPECT_FALSE(Enter().ok());
  gate_.Leave(1);
  EXPECT_TRUE(Enter().ok());
}

TEST_F(QueueGateTest, FullSlotsAloneAreNoOverload) {
  stats_.sequences_running.Set(4);
  Observe(0, 9 * kSecondUs);
  Observe(20 * kSecondUs, 9 * kSecondUs);
  EXPECT_TRUE(Enter().ok()) << "all slots run, nothing waits";
  EXPECT_TRUE(Enter().ok()) << "the delay is above its bound since now";
  Observe(21 * kSecondUs, 9 * kSecondUs);
  Observe(40 * kSecondUs, 9 * kSecondUs);
  EXPECT_FALSE(Enter().ok());
  EXPECT_FALSE(gate_.MayEnter(*policy_).ok());
  gate_.Leave(2);
  EXPECT_TRUE(gate_.MayEnter(*policy_).ok()) << "nothing waits";
}

TEST_F(QueueGateTest, WithoutTheBoundOrUnderEarlyAbortTheDelayAloneRefusesNobody) {
  stats_.sequences_running.Set(4);
  options_.max_queue_delay_us = 0;
  Observe(0, 9 * kSecondUs);
  Observe(20 * kSecondUs, 9 * kSecondUs);
  EXPECT_TRUE(Enter().ok());
  options_.max_queue_delay_us = 2 * kSecondUs;
  options_.queue_policy = QueuePolicyKind::kEarlyAbort;
  Observe(30 * kSecondUs, 9 * kSecondUs);
  Observe(40 * kSecondUs, 9 * kSecondUs);
  EXPECT_TRUE(Enter().ok());
  const auto early_abort = NewEarlyAbortPolicy(options_.early_abort_us);
  const absl::Status late = gate_.Enter(1, *early_abort);
  EXPECT_NE(late.message().find("--early-abort-ms"), std::string::npos);
  EXPECT_EQ(RetryAfterUs(late), 9 * kSecondUs);
}

// No client is told to retry at once.
TEST_F(QueueGateTest, AFullQueueTellsTheRetryDelayInOneRounding) {
  Observe(0, 0);
  EXPECT_TRUE(Enter(11).ok()) << "nothing waits";
  const absl::Status soon = Enter();
  EXPECT_NE(soon.message().find("at most 10 sequences"), std::string::npos) << soon;
  EXPECT_NE(soon.message().find("retry in about 100 ms"), std::string::npos) << soon;
  EXPECT_EQ(RetryAfterUs(soon), 100'000);
  Observe(1, 1'234'001);
  const absl::Status later = Enter();
  EXPECT_NE(later.message().find("retry in about 1235 ms"), std::string::npos) << later;
  EXPECT_EQ(RetryAfterUs(later), 1'235'000);
}

struct Load {
  const char* name;
  SimulationOptions options;
  std::vector<SimulatedRequest> requests;
};

// Loads that leave slots free, fill them, and fill the pool; whose requests have one length or
// many, stop at their max_tokens or before, and share a prefix or not.
std::vector<Load> Loads() {
  SimulationOptions few_pages = Options(256);
  few_pages.num_pages = 300;
  few_pages.max_model_len = 4096;
  return {
      {"light", Options(256), Poisson({{128, 0, 64, 0}}, 5, 20, 2)},
      {"light, long prompts", Options(256), Poisson({{2000, 0, 64, 0}}, 3, 20, 2)},
      {"a burst of prompts", Options(256), Burst({{500, 0, 64, 0}}, 200, 0, 2)},
      {"a few long jobs", Options(8), Burst({{20, 0, 2000, 0}}, 12, 0, 2)},
      {"many long jobs", Options(8), Burst({{20, 0, 2000, 0}}, 40, 0, 2)},
      {"full slots", Options(8), Poisson({{128, 0, 200, 0}}, 8, 40, 2)},
      {"full slots, EOS", Options(8), Poisson({{128, 0, 2000, 100}}, 16, 40, 2)},
      {"short and long", Options(64), Poisson({{128, 0, 20, 0}, {128, 0, 1000, 0}}, 20, 30, 2)},
      {"without limits", Options(8), Poisson({{128, 0, 100'000, 100}}, 16, 40, 2)},
      {"a shared prefix", Options(64), Poisson({{30, 1000, 200, 0}}, 40, 20, 2)},
      {"few pages", few_pages, Poisson({{128, 0, 100, 0}}, 30, 20, 2)},
      {"few pages, a shared prefix", few_pages, Poisson({{128, 512, 100, 0}}, 30, 20, 2)},
      {"prompts alone", Options(256), Poisson({{2000, 0, 4, 0}}, 12, 20, 2)},
  };
}

TEST(QueueDelayTest, IsRightWithinAFactorOfTwo) {
  for (Load& load : Loads()) {
    LoadSimulation simulation(load.options);
    // The engine has seen a little traffic: the cost of a step is known roughly.
    std::vector<SimulatedRequest> first = Burst({{128, 0, 64, 0}}, 6, 0, 1);
    for (size_t i = 0; i < first.size(); ++i) first[i].arrival_us = 200'000 * static_cast<int>(i);
    simulation.Run(first);
    for (SimulatedRequest& request : load.requests) request.arrival_us += 3 * kSecondUs;
    EXPECT_GE(ShareRight(simulation.Run(load.requests), 40'000), 0.95) << load.name;
  }
}

// Twelve jobs fill eight slots and four places in the queue. A further client is told when the
// first place becomes free, and the gauge tells the same.
TEST(QueueDelayTest, ARefusedClientIsToldWhenAPlaceIsFree) {
  SimulationOptions options = Options(8);
  options.engine.max_queue = 4;
  LoadSimulation simulation(options);
  std::vector<SimulatedRequest> load = Burst({{20, 0, 2000, 0}}, 13, 0, 3);
  for (size_t i = 0; i < load.size(); ++i) load[i].arrival_us = 30'000 * static_cast<int>(i);
  const std::vector<SimulatedResult> results = simulation.Run(load);
  ASSERT_TRUE(results[12].refused);
  const int64_t first_free_us = results[8].queue_us - 4 * 30'000;
  EXPECT_GT(first_free_us, 8 * kSecondUs);
  EXPECT_GE(results[12].retry_us, first_free_us / 2);
  EXPECT_LE(results[12].retry_us, first_free_us * 2);
  EXPECT_NEAR(results[12].retry_us, results[12].predicted_us, 1000);
}

// Requests/s whose first token comes within 3 s, for two minutes at `rate` requests/s.
double Goodput(double rate, int64_t max_queue_delay_us) {
  SimulationOptions options;
  options.engine.max_queue_delay_us = max_queue_delay_us;
  options.device.token_us = 100;
  LoadSimulation simulation(options);
  constexpr double kSeconds = 120;
  const auto results = simulation.Run(Poisson({{128, 0, 64, 0}}, rate, kSeconds, 7),
                                      static_cast<int64_t>(kSeconds * kSecondUs));
  return static_cast<double>(std::count_if(
             results.begin(), results.end(),
             [](const auto& r) { return r.ttft_us >= 0 && r.ttft_us <= 3 * kSecondUs; })) /
         kSeconds;
}

// The simulated device serves about 49 requests/s.
TEST(QueueDelayTest, OverloadKeepsTheGoodput) {
  const int64_t by_default = EngineOptions().max_queue_delay_us;
  double best = 0.0;
  for (const double rate : {40.0, 50.0, 70.0}) best = std::max(best, Goodput(rate, by_default));
  EXPECT_GT(best, 44.0);
  EXPECT_GE(Goodput(150.0, by_default), 0.9 * best);
  EXPECT_LT(Goodput(150.0, /*max_queue_delay_us=*/0), 0.2 * best) << "the load is too light";
}

// A burst that fits the queue is served whole, however long that takes.
TEST(QueueDelayTest, ABurstOfARequestForEachSlotAndPlaceIsServed) {
  SimulationOptions options;
  LoadSimulation simulation(options);
  const auto results = simulation.Run(Burst({{128, 0, 64, 0}}, 2000, 0, 4));
  EXPECT_GE(std::count_if(results.begin(), results.end(), [](const auto& r) { return !r.refused; }),
            1024);
  EXPECT_GT(results[1000].queue_us, 5 * kSecondUs);
}

// Slow readers that hold no slot delay nobody.
TEST(QueueDelayTest, PausedStreamsDoNotCount) {
  LoadSimulation simulation(Options(4));
  std::vector<SimulatedRequest> load = Burst({{128, 0, 64, 0}}, 9, 0, 5);
  for (size_t i = 0; i < load.size(); ++i) {
    load[i].arrival_us = 100'000 * static_cast<int>(i);
    load[i].pauses = i < 8;
  }
  const std::vector<SimulatedResult> results = simulation.Run(load);
  EXPECT_LE(results[8].predicted_us, 20'000);
  EXPECT_GE(results[8].queue_us, 0);
  EXPECT_LE(results[8].queue_us, 20'000);
}

}  // namespace
}  // namespace tessera::testing

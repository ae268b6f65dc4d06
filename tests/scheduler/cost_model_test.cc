#include "scheduler/plan/cost_model.h"

#include <gtest/gtest.h>

#include <random>

namespace tessera {
namespace {

StepCost RandomStep(std::mt19937* rng, bool has_adapters = false) {
  StepCost cost;
  const int num_decodes = static_cast<int>((*rng)() % 32);
  for (int i = 0; i < num_decodes; ++i) {
    cost.AddSegment(1, 1 + (*rng)() % 2000, 1);
    if (has_adapters && (*rng)() % 2 == 0) cost.AddAdapter(1, 40, (*rng)() % 4 == 0);
  }
  if ((*rng)() % 2 == 0 || num_decodes == 0) {
    const int64_t chunk = 16 + (*rng)() % 500;
    cost.AddSegment(chunk, chunk + (*rng)() % 1000, 1);
  }
  return cost;
}

double TrueUs(const StepCost& cost) {
  return 900.0 + 55.0 * static_cast<double>(cost.num_tokens) +
         0.4 * static_cast<double>(cost.kv_read_tokens) +
         0.02 * static_cast<double>(cost.attention_pairs) +
         30.0 * static_cast<double>(cost.num_logit_rows) +
         8.0 * static_cast<double>(cost.adapter_slabs) +
         0.5 * static_cast<double>(cost.adapter_slab_rows);
}

void ExpectLearnt(const CostModel& model, bool has_adapters, std::mt19937* rng) {
  for (int i = 0; i < 50; ++i) {
    const StepCost cost = RandomStep(rng, has_adapters);
    EXPECT_NEAR(model.PredictUs(cost), TrueUs(cost), 0.08 * TrueUs(cost));
  }
}

TEST(CostModelTest, LearnsALinearMachine) {
  CostModel model;
  std::mt19937 rng(1);
  std::uniform_real_distribution<double> noise(0.95, 1.05);
  EXPECT_FALSE(model.fitted());
  for (int i = 0; i < 400; ++i) {
    const StepCost cost = RandomStep(&rng);
    model.Observe(cost, TrueUs(cost) * noise(rng));
  }
  EXPECT_TRUE(model.fitted());
  EXPECT_LT(model.relative_error(), 0.08);
  ExpectLearnt(model, /*has_adapters=*/false, &rng);
}

TEST(CostModelTest, AnAdapterIsReadOnceAndComputedForEachToken) {
  StepCost cost;
  cost.AddAdapter(1, 40, /*is_new=*/true);
  cost.AddAdapter(3, 40, /*is_new=*/false);
  cost.AddAdapter(2, 10, /*is_new=*/true);
  EXPECT_EQ(cost.adapter_slabs, 50);
  EXPECT_EQ(cost.adapter_slab_rows, 180);
}

// The model learns other features while no step has adapters, and learns the cost of adapters once
// steps have them.
TEST(CostModelTest, LearnsAdaptersLate) {
  CostModel model;
  std::mt19937 rng(7);
  for (int i = 0; i < 5000; ++i) {
    const StepCost cost = RandomStep(&rng);
    model.Observe(cost, TrueUs(cost) / 3);
  }
  for (int i = 0; i < 1000; ++i) {
    const StepCost cost = RandomStep(&rng);
    model.Observe(cost, TrueUs(cost));
  }
  ExpectLearnt(model, /*has_adapters=*/false, &rng);
  for (int i = 0; i < 100; ++i) {
    const StepCost cost = RandomStep(&rng, /*has_adapters=*/true);
    model.Observe(cost, TrueUs(cost));
  }
  ExpectLearnt(model, /*has_adapters=*/true, &rng);
}

TEST(CostModelTest, FollowsAMachineThatSlowsDown) {
  CostModel model;
  std::mt19937 rng(2);
  for (int i = 0; i < 300; ++i) {
    const StepCost cost = RandomStep(&rng);
    model.Observe(cost, TrueUs(cost));
  }
  for (int i = 0; i < 1000; ++i) {
    const StepCost cost = RandomStep(&rng);
    model.Observe(cost, 3 * TrueUs(cost));
  }
  EXPECT_LT(model.relative_error(), 0.05);
}

TEST(CostModelTest, MoreWorkNeverPredictsLessTime) {
  CostModel model;
  std::mt19937 rng(3);
  // An unconstrained fit to noise has negative coefficients.
  for (int i = 0; i < 200; ++i) model.Observe(RandomStep(&rng), 1.0 + rng() % 10000);
  StepCost cost;
  double last = 0.0;
  for (int i = 0; i < 64; ++i) {
    cost.AddSegment(16, 100, 1);
    EXPECT_GE(model.PredictUs(cost), last);
    last = model.PredictUs(cost);
  }
}

TEST(CostModelTest, APromptCostsTheSumOfItsChunks) {
  CostModel model;
  std::mt19937 rng(4);
  for (int i = 0; i < 50; ++i) {
    const StepCost cost = RandomStep(&rng);
    model.Observe(cost, TrueUs(cost));
  }
  for (const int64_t num_tokens : {0, 1, 63, 64, 65, 640, 1001}) {
    double us = 0.0;
    for (int64_t begin = 0; begin < num_tokens; begin += 64) {
      const int64_t chunk = std::min<int64_t>(64, num_tokens - begin);
      StepCost step;
      step.AddSegment(chunk, begin + chunk, 1);
      us += model.PredictUs(step);
    }
    const StepCost steps = PrefillCost(num_tokens, 64);
    EXPECT_NEAR(model.PredictUs(steps, steps.num_segments), us, 1e-9 * us) << num_tokens;
  }
}

TEST(CostModelTest, StaysFiniteOnOneKindOfStep) {
  CostModel model;
  StepCost cost;
  cost.AddSegment(1, 500, 1);
  for (int i = 0; i < 100000; ++i) model.Observe(cost, 2000.0);
  EXPECT_NEAR(model.PredictUs(cost), 2000.0, 1.0);
}

}  // namespace
}  // namespace tessera

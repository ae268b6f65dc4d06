// Tests of the scores of prompts (prompt_logprobs): each token of a prompt is scored once, and a
// request's reader gets the scores as the steps compute them.
#include <gtest/gtest.h>

#include "tests/lib/core_stack.h"

namespace tessera {
namespace {

using testing::RequestOutput;

TEST(EngineScoresTest, APromptIsScoredOnce) {
  testing::CoreStack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 64)};
  stack.Start();
  RequestOutput out;
  auto request = stack.NewRequest(testing::FakePrompt(6, 20), 4, &out);
  const uint64_t id = request->id;
  request->prompt_logprobs = 0;
  stack.core->Submit(std::move(request));
  int num_plans = 0;
  int num_targets = 0;
  stack.core->set_plan_observer([&](const StepPlan& plan) {
    const PlanEntry& entry = plan.entries.at(0);
    num_targets += entry.num_targets;
    EXPECT_EQ(entry.sequence->num_scored, num_plans++ == 0 ? 0 : 19);
  });
  stack.Round();
  stack.Round();
  // After the pause the prompt is computed again, but not scored again.
  stack.core->Throttle(id, true);
  stack.core->Throttle(id, false);
  stack.RunAll();
  EXPECT_EQ(num_targets, 19);
  EXPECT_EQ(out[0].prompt_logprobs.size(), 19u);
  EXPECT_EQ(out[0].tokens, testing::ExpectedTokens(stack.models[0], testing::FakePrompt(6, 20), 4));
}

// The scores that wait for a slow reader are bounded, because they are sent as they are computed
// and a pause stops the computation.
TEST(EngineScoresTest, ScoresComeStepByStepAndStopWithAPause) {
  constexpr int kPrompt = 300;
  constexpr size_t kStepTokens = 64;
  testing::CoreStack stack;
  stack.models = {testing::FakeModel("a", {0}, 4, 512)};
  stack.num_slabs = 129;
  stack.options.max_num_seqs = 4;
  stack.options.max_num_batched_tokens = kStepTokens;
  stack.Start();
  RequestOutput out;
  const std::vector<TokenId> prompt = testing::FakePrompt(6, kPrompt);
  auto request = stack.NewRequest(prompt, 4, &out);
  const uint64_t id = request->id;
  request->prompt_logprobs = 0;
  stack.core->Submit(std::move(request));
  stack.Round();
  stack.Round();
  const size_t num_first = out[0].prompt_logprobs.size();
  EXPECT_GT(num_first, 0u);
  EXPECT_LE(num_first, 2 * kStepTokens);
  stack.core->Throttle(id, true);
  while (stack.Round()) {
  }
  EXPECT_LE(out[0].prompt_logprobs.size(), num_first + kStepTokens);
  stack.core->Throttle(id, false);
  stack.RunAll();
  ASSERT_EQ(out[0].prompt_logprobs.size(), kPrompt - 1u);
  for (size_t i = 0; i + 1 < prompt.size(); ++i) {
    EXPECT_EQ(out[0].prompt_logprobs[i].token, prompt[i + 1]) << i;
  }
  EXPECT_EQ(out[0].tokens, testing::ExpectedTokens(stack.models[0], prompt, 4));
}

}  // namespace
}  // namespace tessera

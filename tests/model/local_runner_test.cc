// Tests of the rank thread: a launched step, whole or in ranges of layers, gives the result of a
// direct call of the model.
#include "kernels/model/local_runner.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "kernels/base/mailbox.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

// A runner with two models. The tiny models, which made the models and gave them to the runner,
// make the steps.
class LocalRunnerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { InitLogging("error"); }
  void SetUp() override {
    device_.backend = NewRefBackend();
    pool_ = std::make_unique<TinyPool>(device_.backend.get(), 1024, 4096);
    TinyOptions options;
    options.pool = pool_.get();
    for (const char* name : {"llama2", "qwen2_alternating"}) {
      models_.push_back(
          std::make_unique<TinyModel>(GoldenModelDir(name), device_.backend.get(), options));
      goldens_.push_back(LoadGoldenModel(name));
      device_.models.push_back({models_.back()->ReleaseModel(), models_.back()->layout()});
    }
    device_.pool = pool_->view();
    runner_ = NewLocalRunner(std::move(device_), RunnerOptions());
    runner_->SetOnDone([this](Completion step) { done_.Send(std::move(step)); });
  }

  // Launches a step and waits until it has ended.
  void RunRange(const TinyStep& step, LayerRange layers, StepResult* result) {
    runner_->Launch(&step.batch, &step.arena, layers, result);
    std::vector<Completion> done;
    ASSERT_TRUE(done_.Drain(&done, /*timeout_us=*/-1));
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].ticket, step.batch.step_id);
    EXPECT_TRUE(done[0].status.ok());
  }

  StepResult Run(int model, const TinyStep& step) {
    TinyStep of_model = step;
    of_model.batch.model = model;
    StepResult result;
    RunRange(of_model, LayerRange{}, &result);
    return result;
  }

  // Computes the last `num_tokens` tokens of a sequence and returns the next greedy token.
  TokenId Next(int model, int sequence, int num_tokens) {
    const auto step = models_[model]->Build({{sequence, num_tokens, /*sample=*/true}});
    const int64_t begin_us = clock_.NowUs();
    const StepResult result = Run(model, *step);
    EXPECT_EQ(result.step_id, step->batch.step_id);
    EXPECT_EQ(result.model, model);
    EXPECT_GT(result.step_us, 0);
    EXPECT_LE(result.step_us, clock_.NowUs() - begin_us);
    return result.rows.at(0).token;
  }

  SteadyClock clock_;
  RunnerDevice device_;
  std::unique_ptr<TinyPool> pool_;
  std::vector<std::unique_ptr<TinyModel>> models_;
  std::vector<Golden> goldens_;
  Mailbox<Completion> done_;
  std::unique_ptr<Runner> runner_;
};

TEST_F(LocalRunnerTest, TwoModelsInTurn) {
  EXPECT_EQ(runner_->depth(), 1);
  int sequences[2];
  for (int model = 0; model < 2; ++model) {
    sequences[model] = models_[model]->AddSequence(goldens_[model].prompt_ids);
  }
  for (size_t i = 0; i < goldens_[0].greedy_ids.size(); ++i) {
    for (int model = 0; model < 2; ++model) {
      const int num_tokens = i == 0 ? static_cast<int>(goldens_[model].prompt_ids.size()) : 1;
      const TokenId token = Next(model, sequences[model], num_tokens);
      ASSERT_EQ(token, goldens_[model].greedy_ids[i]) << "model " << model << " token " << i;
      models_[model]->Append(sequences[model], token);
    }
  }
}

TEST_F(LocalRunnerTest, EmptySteps) {
  const TinyStep empty;  // has no KV groups either
  EXPECT_TRUE(Run(0, empty).rows.empty());
  EXPECT_TRUE(Run(1, *models_[1]->Build({})).rows.empty());
  const int sequence = models_[0]->AddSequence(goldens_[0].prompt_ids);
  EXPECT_EQ(Next(0, sequence, static_cast<int>(goldens_[0].prompt_ids.size())),
            goldens_[0].greedy_ids[0]);
}

TEST_F(LocalRunnerTest, TokensOnTheDevice) {
  // The backend keeps the sampled token in the sequence's slot and reads it there in the next step.
  const int sequence = models_[0]->AddSequence(goldens_[0].prompt_ids);
  int num_tokens = static_cast<int>(goldens_[0].prompt_ids.size());
  for (size_t i = 0; i < goldens_[0].greedy_ids.size(); ++i) {
    TinySegment segment{sequence, num_tokens, /*sample=*/true, /*from_slot=*/i > 0};
    const StepResult result = Run(0, *models_[0]->Build({segment}));
    ASSERT_EQ(result.rows.at(0).token, goldens_[0].greedy_ids[i]);
    models_[0]->Append(sequence, -123);  // the backend does not read this id
    num_tokens = 1;
  }
}

// A prompt is computed in one launch of all layers, and in two launches with a split after each
// layer in turn.
TEST_F(LocalRunnerTest, RangesOfLayersGiveTheBitsOfOneLaunch) {
  for (int model = 0; model < 2; ++model) {
    const std::vector<TokenId>& prompt = goldens_[model].prompt_ids;
    const int whole = models_[model]->AddSequence(prompt);
    const auto whole_step =
        models_[model]->Build({{whole, static_cast<int>(prompt.size()), /*sample=*/true}});
    whole_step->batch.model = model;
    StepResult expected;
    RunRange(*whole_step, LayerRange{}, &expected);
    const int32_t num_layers = models_[model]->spec().num_layers;
    ASSERT_GE(num_layers, 2);
    for (int32_t split = 1; split < num_layers; ++split) {
      const int parts = models_[model]->AddSequence(prompt);
      const auto step =
          models_[model]->Build({{parts, static_cast<int>(prompt.size()), /*sample=*/true}});
      step->batch.model = model;
      StepResult result;
      RunRange(*step, {0, split}, &result);
      RunRange(*step, {split, num_layers}, &result);
      ASSERT_EQ(result.rows.size(), expected.rows.size());
      for (size_t row = 0; row < expected.rows.size(); ++row) {
        EXPECT_EQ(result.rows[row].token, expected.rows[row].token);
        EXPECT_EQ(
            std::memcmp(&result.rows[row].logprob, &expected.rows[row].logprob, sizeof(float)), 0);
      }
    }
  }
}

TEST_F(LocalRunnerTest, DestroyedWithAStepInFlight) {
  const int sequence = models_[0]->AddSequence(goldens_[0].prompt_ids);
  const auto step = models_[0]->Build({{sequence, 5, /*sample=*/true}});
  StepResult result;
  runner_->Launch(&step->batch, &step->arena, LayerRange{}, &result);
  runner_.reset();
  // The step has either run to its end or not started, so its buffers may be freed.
  std::vector<Completion> done;
  done_.Drain(&done, /*timeout_us=*/0);
  ASSERT_LE(done.size(), 1u);
  EXPECT_EQ(result.rows.size(), done.size());
}

TEST_F(LocalRunnerTest, TwoStepsInFlightAreABug) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const int sequence = models_[0]->AddSequence(goldens_[0].prompt_ids);
  const auto step =
      models_[0]->Build({{sequence, static_cast<int>(goldens_[0].prompt_ids.size())}});
  StepResult result;
  // A launch is allowed once the step before it has ended, so the loop runs until a launch comes
  // too early.
  EXPECT_DEATH(for (;;) runner_->Launch(&step->batch, &step->arena, LayerRange{}, &result),
               "in flight");
}

TEST_F(LocalRunnerTest, RangesThatDoNotAdjoinAreABug) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto step = models_[0]->Build({});
  StepResult result;
  EXPECT_DEATH(runner_->Launch(&step->batch, &step->arena, {1, 2}, &result), "adjoin");
  RunRange(*step, {0, 1}, &result);
  EXPECT_DEATH(runner_->Launch(&step->batch, &step->arena, LayerRange{}, &result), "adjoin");
}

}  // namespace
}  // namespace tessera::testing

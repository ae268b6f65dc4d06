// The rank thread: launched steps give what the models give when called directly.
#include "kernels/model/local_runner.h"

#include <gtest/gtest.h>

#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

// Two models behind a runner, laid out by tiny models that gave theirs away.
class LocalRunnerTest : public ::testing::Test {
 protected:
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
  }

  StepResult Run(int model, const TinyStep& step) {
    TinyStep of_model = step;
    of_model.batch.model = model;
    runner_->Launch(&of_model.batch, &of_model.arena);
    return runner_->Wait();
  }

  // The next greedy token of a sequence that has `num_tokens` to catch up with.
  TokenId Next(int model, int sequence, int num_tokens) {
    const auto step = models_[model]->Build({{sequence, num_tokens, /*sample=*/true}});
    const StepResult result = Run(model, *step);
    EXPECT_EQ(result.step_id, step->batch.step_id);
    EXPECT_EQ(result.model, model);
    EXPECT_GE(result.step_us, 0);
    return result.rows.at(0).token;
  }

  RunnerDevice device_;
  std::unique_ptr<TinyPool> pool_;
  std::vector<std::unique_ptr<TinyModel>> models_;
  std::vector<Golden> goldens_;
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
  const TinyStep empty;  // not even groups
  EXPECT_TRUE(Run(0, empty).rows.empty());
  EXPECT_TRUE(Run(1, *models_[1]->Build({})).rows.empty());
  const int sequence = models_[0]->AddSequence(goldens_[0].prompt_ids);
  EXPECT_EQ(Next(0, sequence, static_cast<int>(goldens_[0].prompt_ids.size())),
            goldens_[0].greedy_ids[0]);
}

TEST_F(LocalRunnerTest, TokensOnTheDevice) {
  // The sampled token is fed back by its slot, without passing through here.
  const int sequence = models_[0]->AddSequence(goldens_[0].prompt_ids);
  int num_tokens = static_cast<int>(goldens_[0].prompt_ids.size());
  for (size_t i = 0; i < goldens_[0].greedy_ids.size(); ++i) {
    TinySegment segment{sequence, num_tokens, /*sample=*/true, /*from_slot=*/i > 0};
    const StepResult result = Run(0, *models_[0]->Build({segment}));
    ASSERT_EQ(result.rows.at(0).token, goldens_[0].greedy_ids[i]);
    models_[0]->Append(sequence, -123);  // never read
    num_tokens = 1;
  }
}

TEST_F(LocalRunnerTest, DestroyedWithAStepInFlight) {
  const int sequence = models_[0]->AddSequence(goldens_[0].prompt_ids);
  const auto step = models_[0]->Build({{sequence, 5}});
  runner_->Launch(&step->batch, &step->arena);
  runner_.reset();
}

TEST_F(LocalRunnerTest, TwoStepsInFlightAreABug) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto step = models_[0]->Build({});
  EXPECT_DEATH(
      {
        runner_->Launch(&step->batch, &step->arena);
        runner_->Launch(&step->batch, &step->arena);
      },
      "");
  EXPECT_DEATH(runner_->Wait(), "");
}

}  // namespace
}  // namespace tessera::testing

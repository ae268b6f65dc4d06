// Tests of sequences whose logits are NaN or infinite: such a sequence ends with an error, other
// sequences and the prefix cache see nothing of it.
#include <gtest/gtest.h>

#include "tests/lib/core_stack.h"
#include "tests/lib/log_capture.h"

namespace tessera::testing {
namespace {

// The parameter is the depth of the runner.
class EngineFiniteTest : public ::testing::TestWithParam<int> {
 protected:
  void Start(std::function<bool(const SamplerRow&)> is_finite) {
    stack_.models = {FakeModel("a", {0}, 4, 64)};
    stack_.depth = GetParam();
    stack_.is_finite = std::move(is_finite);
    stack_.Start();
  }
  static void ExpectError(const SequenceOutput& output) {
    EXPECT_EQ(output.reason, FinishReason::kError);
    EXPECT_EQ(output.status.code(), absl::StatusCode::kInternal);
    EXPECT_NE(output.status.message().find("NaN or infinite"), std::string::npos);
    EXPECT_NE(output.status.message().find("\"a\""), std::string::npos);
  }
  int64_t NumNonfinite() const { return stack_.stats->models[0].nonfinite_results.value(); }

  RequestOutput bad_, good_;
  CoreStack stack_;
};

TEST_P(EngineFiniteTest, OneCopyEndsAndTheOthersGoOn) {
  Start([](const SamplerRow& row) { return row.index != 1 || row.position < 13; });
  auto request = stack_.NewRequest(FakePrompt(1, 10), 6, &bad_);
  request->sampling.n = 2;
  stack_.Submit(std::move(request));
  stack_.Submit(FakePrompt(2, 9), 6, &good_);
  const LogCapture log;
  stack_.RunAll();
  EXPECT_NE(log.text().find("logits are NaN or infinite after 13 tokens"), std::string::npos);
  const std::vector<TokenId> whole = ExpectedTokens(stack_.models[0], FakePrompt(1, 10), 6);
  EXPECT_EQ(bad_[0].tokens, whole);
  EXPECT_EQ(bad_[0].reason, FinishReason::kLength);
  EXPECT_EQ(bad_[1].tokens, (std::vector<TokenId>{whole.begin(), whole.begin() + 3}));
  ExpectError(bad_[1]);
  EXPECT_EQ(good_[0].tokens, ExpectedTokens(stack_.models[0], FakePrompt(2, 9), 6));
  EXPECT_EQ(NumNonfinite(), 1);
}

TEST_P(EngineFiniteTest, AScoredPromptEndsBeforeItsScoresAreSent) {
  Start([](const SamplerRow& row) { return row.target < 0; });
  auto request = stack_.NewRequest(FakePrompt(1, 10), 6, &bad_);
  request->prompt_logprobs = 0;
  stack_.Submit(std::move(request));
  stack_.RunAll();
  ExpectError(bad_[0]);
  EXPECT_TRUE(bad_[0].prompt_logprobs.empty());
  EXPECT_TRUE(bad_[0].tokens.empty());
  EXPECT_EQ(NumNonfinite(), 1);
}

TEST_P(EngineFiniteTest, TheKvOfTheStepIsNotFoundByOthers) {
  Start([is_first = true](const SamplerRow&) mutable { return !std::exchange(is_first, false); });
  stack_.Submit(FakePrompt(1, 17), 2, &bad_);
  stack_.RunAll();
  ExpectError(bad_[0]);
  stack_.Submit(FakePrompt(1, 17), 2, &good_);
  stack_.RunAll();
  EXPECT_EQ(good_[0].usage.cached_prompt_tokens, 0);
  EXPECT_EQ(good_[0].tokens, ExpectedTokens(stack_.models[0], FakePrompt(1, 17), 2));
}

INSTANTIATE_TEST_SUITE_P(All, EngineFiniteTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace tessera::testing

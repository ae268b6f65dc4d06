// Tests that a model whose weights make numbers overflow gives errors and no answers, on all
// backends.
#include <gtest/gtest.h>

#include "tests/lib/raw_checkpoint.h"
#include "tests/lib/real_stack.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

class FiniteTest : public ::testing::TestWithParam<std::string> {
 protected:
  Request NewRequest() const {
    Request request;
    request.prompt = {3, 4, 5, 6, 7};
    request.stopping.max_tokens = 4;
    request.stopping.ignore_eos = true;
    return request;
  }
};

TEST_P(FiniteTest, OverflowIsAnErrorAndNoAnswer) {
  const std::string dir = ::testing::TempDir() + "/overflow_" + GetParam();
  WriteOverflowingModel(GoldenModelDir("llama32"), dir);
  RealStackOptions options;
  options.backend = GetParam();
  options.model_dirs = {dir};
  RealStack stack(options);
  std::vector<Request> requests(5, NewRequest());
  requests[0].sampling.temperature = 0.0f;
  requests[1].logprobs = 2;
  requests[2].prompt_logprobs = 0;
  requests[3].sampling.repetition_penalty = 1.5f;
  requests[4].kind = RequestKind::kEmbed;
  for (size_t i = 0; i < requests.size(); ++i) {
    const Generated& result = stack.Run(requests[i]);
    EXPECT_EQ(result.reason, FinishReason::kError) << i;
    EXPECT_EQ(result.status.code(), absl::StatusCode::kInternal) << i;
    EXPECT_TRUE(result.tokens.empty()) << i;
    EXPECT_TRUE(result.prompt_logprobs.empty()) << i;
    EXPECT_TRUE(result.embedding.empty()) << i;
  }
  EXPECT_EQ(stack.stats().models[0].nonfinite_results.value(), 5);
}

INSTANTIATE_TEST_SUITE_P(All, FiniteTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace tessera::testing

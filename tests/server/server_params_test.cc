// Tests of the parameters of a request: their limits, and the parameters that are cut to the
// context.
#include "server/call/params.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "server/call/limits.h"
#include "server/call/served_model.h"
#include "tessera/v1/inference.pb.h"
#include "tests/server/fake_models.h"

namespace tessera {
namespace {

ServedModel ModelOf(int64_t context) {
  ServedModel model = testing::FakeModels().front();
  model.max_model_len = context;
  return model;
}

// Each prompt token has its own score in addition to the scores of the likeliest tokens.
TEST(Params, PromptScoresAreBoundedInAll) {
  v1::OutputOptions wire;
  wire.set_prompt_logprobs(99);
  constexpr int64_t kMost = kMaxPromptScores / 100;
  Request request;
  EXPECT_TRUE(ReadOutputOptions(wire, kMost, &request).ok());
  EXPECT_EQ(request.prompt_logprobs, 99);
  Request refused;
  const absl::Status status = ReadOutputOptions(wire, kMost + 1, &refused);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "give at most 98")) << status;
  EXPECT_EQ(refused.prompt_logprobs, -1);
  wire.set_prompt_logprobs(98);
  EXPECT_TRUE(ReadOutputOptions(wire, kMost + 1, &request).ok());
  wire.set_prompt_logprobs(0);
  EXPECT_TRUE(ReadOutputOptions(wire, kMaxPromptScores, &request).ok());
  EXPECT_FALSE(ReadOutputOptions(wire, kMaxPromptScores + 1, &request).ok());
}

TEST(Params, StopStringsThatAreSpecialTokensAreStopIds) {
  const ServedModel model = ModelOf(/*context=*/100);
  v1::StoppingParams wire;
  for (const char* stop : {"<s>", "</s>", "<s>x", "a"}) wire.add_stop(stop);
  wire.add_stop_token_ids(testing::kFakeEos);
  StoppingParams stopping;
  TextStops stops;
  for (int repeat = 0; repeat < 2; ++repeat) {
    ASSERT_TRUE(ReadStopping(wire, model, /*prompt_tokens=*/1, &stopping, &stops).ok());
    EXPECT_EQ(stopping.stop_ids, (std::vector<TokenId>{testing::kFakeEos, testing::kFakeBos}));
    // The client gave the other token as an id, which stays an id.
    ASSERT_EQ(stops.special.size(), 1u);
    EXPECT_EQ(stops.special[0], std::make_pair(testing::kFakeBos, std::string("<s>")));
    EXPECT_EQ(stops.strings.size(), 4u);
  }
}

TEST(Params, TopKOfMinusOneIsOff) {
  ServedModel model = ModelOf(/*context=*/100);
  model.defaults.top_k = 7;
  v1::SamplingParams wire;
  SamplingParams sampling;
  ASSERT_TRUE(ReadSampling(wire, model, &sampling).ok());
  EXPECT_EQ(sampling.top_k, 7);
  for (const int off : {0, -1}) {
    wire.set_top_k(off);
    ASSERT_TRUE(ReadSampling(wire, model, &sampling).ok());
    EXPECT_EQ(sampling.top_k, 0);
  }
  wire.set_top_k(-2);
  EXPECT_TRUE(absl::StrContains(ReadSampling(wire, model, &sampling).message(),
                                "sampling.top_k is -2; give a whole number of at least -1"));
}

TEST(Params, TokensAreCutToTheContext) {
  const ServedModel model = ModelOf(/*context=*/100);
  const auto read = [&](const v1::StoppingParams& wire, StoppingParams* stopping,
                        TextStops* stops) {
    return ReadStopping(wire, model, /*prompt_tokens=*/90, stopping, stops);
  };
  v1::StoppingParams wire;
  StoppingParams stopping;
  TextStops stops;
  ASSERT_TRUE(read(wire, &stopping, &stops).ok());
  EXPECT_EQ(stopping.max_tokens, 10);
  EXPECT_EQ(stopping.min_tokens, 0);
  wire.set_max_tokens(50);
  wire.set_min_tokens(50);
  ASSERT_TRUE(read(wire, &stopping, &stops).ok());
  EXPECT_EQ(stopping.max_tokens, 10);
  EXPECT_EQ(stopping.min_tokens, 10);
  EXPECT_EQ(stops.min_tokens, 10);
  wire.set_max_tokens(8);
  wire.set_min_tokens(8);
  ASSERT_TRUE(read(wire, &stopping, &stops).ok());
  EXPECT_EQ(stopping.max_tokens, 8);
  EXPECT_EQ(stopping.min_tokens, 8);
  wire.set_min_tokens(9);
  EXPECT_TRUE(absl::StrContains(read(wire, &stopping, &stops).message(), "more than max_tokens"));
}

}  // namespace
}  // namespace tessera

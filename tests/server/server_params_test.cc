// Tests of the parameters of a request: their limits, and the parameters that are cut to the
// context.
#include "server/call/params.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "server/call/limits.h"
#include "server/call/served_model.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

ServedModel ModelOf(int64_t context) {
  ServedModel model;
  model.name = "m";
  model.vocab_size = 100;
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

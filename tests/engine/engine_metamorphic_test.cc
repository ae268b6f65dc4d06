// A request's tokens and logprobs have the bits that they have when the request runs alone,
// whatever the engine does: batching, chunking, prefix caching, preemption, pauses, steps of
// another model. The tests run on ref and on every instruction set of this machine.
#include <gtest/gtest.h>

#include <random>

#include "tests/lib/real_stack.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

struct Case {
  std::string backend;
  std::string model;
  bool bf16;
  KvDtype kv_dtype = KvDtype::kAuto;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const std::string& backend : AllBackends()) {
    for (const char* model : {"llama32", "qwen2_alternating"}) {
      cases.push_back({backend, model, false});
      cases.push_back({backend, model, true});
    }
    cases.push_back({backend, "qwen2_alternating", true, KvDtype::kI8});
  }
  return cases;
}

class EngineMetamorphicTest : public ::testing::TestWithParam<Case> {
 protected:
  RealStackOptions Options() const {
    RealStackOptions options;
    options.model_dirs = {GoldenModelDir(GetParam().model)};
    options.backend = GetParam().backend;
    options.bf16 = GetParam().bf16;
    options.kv_dtype = GetParam().kv_dtype;
    options.engine.max_num_seqs = 16;
    options.engine.max_num_batched_tokens = 64;
    options.engine.deployment_secret = "test";
    return options;
  }

  // Requests of all kinds: greedy, sampled in several ways, with penalties, with prompt logprobs,
  // and an embedding.
  std::vector<Request> Requests(const EngineModel& model) const {
    std::mt19937 rng(11);
    std::vector<Request> requests(7);
    for (size_t i = 0; i < requests.size(); ++i) {
      Request& r = requests[i];
      const int length = 3 + static_cast<int>(rng() % 60);
      for (int t = 0; t < length; ++t) {
        // The first 40 tokens of every other prompt are the same.
        const uint32_t draw = i % 2 == 0 && t < 40 ? static_cast<uint32_t>(t * 7 + 3) : rng();
        r.prompt.push_back(static_cast<TokenId>(draw % static_cast<uint32_t>(model.vocab_size)));
      }
      r.stopping.max_tokens = 12 + static_cast<int64_t>(i);
      r.stopping.ignore_eos = true;
      r.logprobs = 3;
      r.sampling.seed = 100 + i;
      r.sampling.temperature = i % 3 == 0 ? 0.0f : 0.9f;
      if (i == 1) r.sampling.top_k = 20;
      if (i == 2) r.sampling.top_p = 0.9f;
      if (i == 4) {
        r.sampling.repetition_penalty = 1.3f;
        r.sampling.frequency_penalty = 0.2f;
      }
      if (i == 5) r.prompt_logprobs = 2;
      if (i == 6) r.kind = RequestKind::kEmbed;
    }
    return requests;
  }

  std::vector<Generated> Alone(const std::vector<Request>& requests) const {
    std::vector<Generated> results;
    for (const Request& request : requests) {
      RealStack stack(Options());
      results.push_back(stack.Run(request));
    }
    return results;
  }

  // Runs all requests together in a stack with these options, twice; the second round finds cached
  // prefixes. Expects the results that each request has alone.
  void ExpectAloneEqualsTogether(const RealStackOptions& options) const {
    RealStack stack(options);
    const std::vector<Request> requests = Requests(stack.models()[0]);
    const std::vector<Generated> alone = Alone(requests);
    for (int round = 0; round < 2; ++round) {
      std::vector<int> numbers;
      for (const Request& request : requests) numbers.push_back(stack.Submit(request));
      stack.RunAll();
      for (size_t i = 0; i < requests.size(); ++i) {
        EXPECT_TRUE(SameResults(stack.result(numbers[i]), alone[i]))
            << "request " << i << " round " << round;
      }
    }
  }
};

TEST_P(EngineMetamorphicTest, AloneIsInABatch) { ExpectAloneEqualsTogether(Options()); }

TEST_P(EngineMetamorphicTest, ChunkedIsWhole) {
  for (const int budget : {7, 16, 33}) {
    RealStackOptions options = Options();
    options.engine.max_num_seqs = 7;
    options.engine.max_num_batched_tokens = budget;
    ExpectAloneEqualsTogether(options);
  }
}

TEST_P(EngineMetamorphicTest, PageSizeDoesNotShow) {
  RealStackOptions options = Options();
  options.page_tokens = 8;
  ExpectAloneEqualsTogether(options);
}

TEST_P(EngineMetamorphicTest, TwoThreadsAreOne) {
  if (GetParam().backend == "ref") return;  // ref always runs on one thread
  RealStackOptions options = Options();
  options.num_threads = 2;
  ExpectAloneEqualsTogether(options);
}

TEST_P(EngineMetamorphicTest, HitIsMiss) {
  RealStack stack(Options());
  Request request = Requests(stack.models()[0])[2];
  const Generated miss = stack.Run(request);
  EXPECT_EQ(miss.usage.cached_prompt_tokens, 0);
  const Generated hit = stack.Run(request);
  EXPECT_GE(hit.usage.cached_prompt_tokens, 16);
  EXPECT_TRUE(SameResults(hit, miss));
  // A second turn of the conversation: its prompt has the generated tokens at the end and hits the
  // pages that decode steps wrote.
  Request next = request;
  for (const OutputToken& token : miss.tokens) next.prompt.push_back(token.token);
  const Generated continued = stack.Run(next);
  EXPECT_GE(continued.usage.cached_prompt_tokens,
            static_cast<int64_t>(request.prompt.size()) / 16 * 16);
  next.bypass_prefix = true;
  const Generated bypassed = stack.Run(next);
  EXPECT_EQ(bypassed.usage.cached_prompt_tokens, 0);
  EXPECT_TRUE(SameResults(continued, bypassed));
}

TEST_P(EngineMetamorphicTest, PreemptedIsNot) {
  RealStackOptions options = Options();
  const int32_t num_groups = GetParam().model == "llama32" ? 1 : 2;
  options.page_tokens = 8;
  options.num_slabs = 17 * num_groups;  // little more than the longest sequence needs
  RealStack stack(options);
  std::vector<Request> requests = Requests(stack.models()[0]);
  for (Request& request : requests) {
    request.prompt.resize(std::min<size_t>(request.prompt.size(), 20));
    request.stopping.max_tokens = 40;
  }
  const std::vector<Generated> alone = Alone(requests);
  std::vector<int> numbers;
  for (const Request& request : requests) numbers.push_back(stack.Submit(request));
  stack.RunAll();
  EXPECT_GT(stack.stats().preemptions.value(), 0);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_TRUE(SameResults(stack.result(numbers[i]), alone[i])) << "request " << i;
  }
}

TEST_P(EngineMetamorphicTest, PausedIsNot) {
  RealStack stack(Options());
  const std::vector<Request> requests = Requests(stack.models()[0]);
  const std::vector<Generated> alone = Alone(requests);
  std::vector<int> numbers;
  for (const Request& request : requests) numbers.push_back(stack.Submit(request));
  for (int round = 0; round < 12; ++round) {
    stack.RunOnce();
    stack.core().Throttle(stack.engine_id(numbers[round % numbers.size()]), round % 2 == 0);
  }
  for (const int number : numbers) stack.core().Throttle(stack.engine_id(number), false);
  stack.RunAll();
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_TRUE(SameResults(stack.result(numbers[i]), alone[i])) << "request " << i;
  }
}

TEST_P(EngineMetamorphicTest, CopyZeroIsNOne) {
  RealStack stack(Options());
  Request request = Requests(stack.models()[0])[1];
  const Generated one = stack.Run(request);
  request.sampling.n = 3;
  request.bypass_prefix = true;
  const int number = stack.Submit(request);
  stack.RunAll();
  EXPECT_TRUE(SameResults(stack.result(number, 0), one));
  EXPECT_FALSE(SameResults(stack.result(number, 1), one)) << "copies draw other random numbers";
}

TEST_P(EngineMetamorphicTest, TwoModelsInterleavedAreEachAlone) {
  RealStackOptions options = Options();
  options.model_dirs = {GoldenModelDir("llama32"), GoldenModelDir("qwen2_alternating")};
  options.num_slabs = 4096;
  RealStack stack(options);
  std::vector<std::pair<int, Generated>> expected;
  for (int m = 0; m < 2; ++m) {
    for (Request request : Requests(stack.models()[m])) {
      RealStackOptions single = Options();
      single.model_dirs = {options.model_dirs[m]};
      RealStack alone(single);
      const Generated result = alone.Run(request);
      request.model = m;
      expected.emplace_back(stack.Submit(request), result);
    }
  }
  stack.RunAll();
  for (const auto& [number, result] : expected) {
    EXPECT_TRUE(SameResults(stack.result(number), result)) << "request " << number;
  }
}

INSTANTIATE_TEST_SUITE_P(All, EngineMetamorphicTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) {
                           return info.param.backend + "_" + info.param.model +
                                  (info.param.bf16 ? "_bf16" : "_fp32") +
                                  (info.param.kv_dtype == KvDtype::kI8 ? "_int8kv" : "");
                         });

}  // namespace
}  // namespace tessera::testing

// Tests of the shipped models and their adapters: token ids, greedy continuations and their texts
// equal those of Hugging Face's libraries and peft (tests/golden/make_lab_goldens.py). All cases
// run in one batch through Tessera's tokenizer, engine and detokenizer, on every backend.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "server/text/tokenizer/tokenizer.h"
#include "tests/lib/real_stack.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

class LabModelsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void ExpectSpeaksAsElsewhere(const std::string& model) const {
    nlohmann::json cases = nlohmann::json::array();
    for (const char* name : {"lab_models", "lab_adapters"}) {
      std::ifstream in(std::string("tests/golden/") + name + ".json");
      const nlohmann::json golden = nlohmann::json::parse(in);
      for (const auto& c : golden["cases"]) {
        if (c["model"] == model) cases.push_back(c);
      }
    }
    ASSERT_GE(cases.size(), 5u + 8u);
    const std::string dir = "deploy/models/" + model;
    const auto tokenizer = LoadTokenizer(dir);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    RealStackOptions options;
    options.model_dirs = {dir};
    options.backend = GetParam();
    options.num_threads = 2;
    options.num_slabs = 2048;
    options.engine.max_num_seqs = 16;
    RealStack stack(options);
    const auto sources = FindAdapters(dir + "/adapters", 0);
    ASSERT_TRUE(sources.ok()) << sources.status();
    EXPECT_EQ(sources->size(), 8u);
    ASSERT_TRUE(stack.adapters().Register(*sources).ok());
    std::vector<int> numbers;
    for (const auto& c : cases) {
      Request request;
      request.prompt = c["ids"].get<std::vector<TokenId>>();
      const auto greedy = c["greedy"].get<std::vector<TokenId>>();
      EXPECT_EQ((*tokenizer)->Encode(c["prompt"].get<std::string>(), true), request.prompt);
      EXPECT_EQ((*tokenizer)->Decode(greedy, false), c["text"].get<std::string>());
      if (c.contains("adapter")) {
        const auto adapter =
            stack.adapters().Resolve(0, {{c["adapter"].get<std::string>(), "", {}}});
        ASSERT_TRUE(adapter.ok()) << adapter.status();
        request.adapter = *adapter;
        request.logprobs = static_cast<int32_t>(c["top"].size());
      }
      request.sampling.temperature = 0.0f;
      request.stopping.max_tokens = static_cast<int64_t>(greedy.size());
      request.stopping.ignore_eos = true;
      numbers.push_back(stack.Submit(request));
    }
    stack.RunAll();
    for (size_t i = 0; i < numbers.size(); ++i) {
      std::vector<TokenId> ids;
      for (const OutputToken& token : stack.result(numbers[i]).tokens) ids.push_back(token.token);
      EXPECT_EQ(ids, cases[i]["greedy"].get<std::vector<TokenId>>()) << cases[i]["prompt"];
      if (!cases[i].contains("top")) continue;
      // Log-probabilities differ from logits by a constant, so differences are compared.
      const auto top = cases[i]["top"].get<std::vector<std::pair<TokenId, float>>>();
      const std::vector<TokenLogprob>& got = stack.result(numbers[i]).tokens[0].top;
      ASSERT_EQ(got.size(), top.size());
      for (size_t t = 0; t < top.size(); ++t) {
        EXPECT_NEAR(got[t].logprob - got[0].logprob, top[t].second - top[0].second, 1e-4)
            << cases[i]["adapter"] << " " << cases[i]["prompt"];
      }
    }
  }
};

TEST_P(LabModelsTest, NanoSpeaksAsItDoesElsewhere) { ExpectSpeaksAsElsewhere("tessera-nano"); }
TEST_P(LabModelsTest, BaseSpeaksAsItDoesElsewhere) { ExpectSpeaksAsElsewhere("tessera-base"); }

INSTANTIATE_TEST_SUITE_P(Backends, LabModelsTest, ::testing::ValuesIn(AllBackends()));

}  // namespace
}  // namespace tessera::testing

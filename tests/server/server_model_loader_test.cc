// Tests of loading what the server needs of a model's folder besides the weights.
#include "server/model_loader.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "absl/strings/match.h"
#include "kernels/model/model_spec.h"
#include "tests/server/fake_models.h"

namespace tessera::testing {
namespace {

// A model's folder without weights, deleted at the end of the test.
class ModelLoaderTest : public ::testing::Test {
 protected:
  ModelLoaderTest() : dir_(MakeTempDir("model_loader")) {
    WriteByteTokenizer(dir_, /*with_chat_template=*/true);
    Write("config.json", R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 300,
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "max_position_embeddings": 64, "eos_token_id": 257})");
  }
  ~ModelLoaderTest() override { std::filesystem::remove_all(dir_); }

  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(dir_ + "/" + name) << text;
  }
  absl::StatusOr<ServedModel> Load() const {
    MemoryPlan::PerModel plan;
    absl::StatusOr<ModelSpec> spec = LoadModelSpec(dir_);
    if (!spec.ok()) return spec.status();
    plan.spec = *std::move(spec);
    plan.max_model_len = plan.spec.max_positions;
    return LoadServedModel({.name = "m", .dir = dir_}, 0, plan, 0);
  }

  const std::string dir_;
};

TEST_F(ModelLoaderTest, TemplatesKnowEachNamedToken) {
  Write("special_tokens_map.json",
        R"({"unk_token": "<unk>", "pad_token": {"content": "<pad>"}, "sep_token": "<sep>"})");
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  std::map<std::string, std::string> names(model->special_tokens.begin(),
                                           model->special_tokens.end());
  EXPECT_EQ(names["bos_token"], "<s>");
  EXPECT_EQ(names["eos_token"], "</s>");
  EXPECT_EQ(names["unk_token"], "<unk>");
  EXPECT_EQ(names["pad_token"], "<pad>");
}

TEST_F(ModelLoaderTest, SamplingDefaultsAreThoseOfTheFile) {
  Write("generation_config.json",
        R"({"do_sample": true, "temperature": 0.5, "top_k": -1, "top_p": 0.25})");
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->defaults.temperature, 0.5f);
  EXPECT_EQ(model->defaults.top_k, 0);
  EXPECT_EQ(model->defaults.top_p, 0.25f);
  // A temperature has no effect without do_sample, as in transformers, so its value is not checked.
  Write("generation_config.json", R"({"temperature": 150, "top_k": 50.0})");
  const auto greedy = Load();
  ASSERT_TRUE(greedy.ok()) << greedy.status();
  EXPECT_EQ(greedy->defaults.temperature, 0.0f);
  EXPECT_EQ(greedy->defaults.top_k, 50);
}

TEST_F(ModelLoaderTest, DefaultsThatARequestCouldNotGiveAreRefused) {
  const std::pair<const char*, const char*> table[] = {
      {R"({"top_p": 0})", "top_p is 0; give a number above 0 to 1"},
      {R"({"top_p": 1.5})", "top_p is 1.5"},
      {R"({"do_sample": true, "temperature": 150})", "temperature is 150; give a number from 0"},
      {R"({"do_sample": true, "temperature": -1})", "temperature is -1"},
      {R"({"repetition_penalty": 150})", "repetition_penalty is 150"},
      {R"({"repetition_penalty": 0})", "repetition_penalty is 0"},
      {R"({"min_p": 2})", "min_p is 2; give a number from 0 to 1"},
      {R"({"top_k": -2})", "top_k is -2; give a whole number of at least -1"},
  };
  for (const auto& [text, says] : table) {
    Write("generation_config.json", text);
    const absl::Status status = Load().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_TRUE(absl::StrContains(status.message(), dir_ + "/generation_config.json: " + says))
        << status;
  }
}

TEST_F(ModelLoaderTest, EndOfSequenceIsTheTokenizersIfTheFilesNameNone) {
  for (const char* text : {R"({"eos_token_id": -1})", R"({"eos_token_id": [-1]})"}) {
    Write("generation_config.json", text);
    const auto model = Load();
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ(model->eos_ids, std::vector<TokenId>{kFakeEos});
  }
}

}  // namespace
}  // namespace tessera::testing

// Tests of the way from config.json to a ModelSpec: families, rotary embeddings, KV groups and
// invalid numbers.
#include "kernels/model/checkpoint/families.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/model/checkpoint/rope.h"
#include "kernels/model/kv_groups.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

Json BaseConfig(const std::string& architecture) {
  return Json{{"architectures", {architecture}},
              {"hidden_size", 64},
              {"intermediate_size", 128},
              {"num_hidden_layers", 4},
              {"num_attention_heads", 4},
              {"num_key_value_heads", 2},
              {"vocab_size", 100},
              {"max_position_embeddings", 1000}};
}
Json Llama() { return BaseConfig("LlamaForCausalLM"); }
Json Mistral() { return BaseConfig("MistralForCausalLM"); }
Json Qwen2() { return BaseConfig("Qwen2ForCausalLM"); }
Json Qwen3() { return BaseConfig("Qwen3ForCausalLM"); }
Json Gemma2() { return BaseConfig("Gemma2ForCausalLM"); }
Json Gemma3() { return BaseConfig("Gemma3ForCausalLM"); }

// Returns `base` with the keys of `patch` set. A null in `patch` becomes a null in the result.
Json With(Json base, const Json& patch) {
  base.update(patch);
  return base;
}

absl::StatusOr<ModelSpec> Parse(const Json& config, const std::string& generation = "") {
  return ParseModelSpec("m/config.json", config.dump(), "m/generation_config.json", generation);
}

ModelSpec Spec(const Json& config, const std::string& generation = "") {
  const absl::StatusOr<ModelSpec> spec = Parse(config, generation);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : ModelSpec();
}

std::vector<int32_t> Windows(const ModelSpec& spec) {
  std::vector<int32_t> windows;
  for (const LayerSpec& layer : spec.layers) windows.push_back(spec.kv_groups[layer.group].window);
  return windows;
}

TEST(Families, LlamaDefaults) {
  const ModelSpec spec = Spec(Llama());
  EXPECT_EQ(spec.family, "llama");
  EXPECT_EQ(spec.head_dim, 16);
  EXPECT_FLOAT_EQ(spec.attention_scale, 0.25f);
  EXPECT_FLOAT_EQ(spec.norm_eps, 1e-6f);
  EXPECT_FALSE(spec.qkv_bias || spec.o_bias || spec.mlp_bias || spec.tied_embeddings);
  EXPECT_EQ(spec.stored_dtype, DType::kF32);
  EXPECT_THAT(Windows(spec), ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(spec.kv_groups.size(), 1u);
  EXPECT_EQ(spec.kv_groups[0].num_layers, 4);
}

TEST(Families, LlamaBiases) {
  const ModelSpec spec = Spec(With(Llama(), {{"attention_bias", true}, {"mlp_bias", true}}));
  EXPECT_TRUE(spec.qkv_bias && spec.o_bias && spec.mlp_bias);
}

TEST(Families, ModelTypeWhereArchitecturesAreAbsent) {
  Json config = Llama();
  config.erase("architectures");
  config["model_type"] = "mistral";
  EXPECT_EQ(Spec(config).family, "mistral");
}

TEST(Families, KvHeadsDefaultAsHuggingFaceHasThem) {
  Json llama = Llama();
  llama.erase("num_key_value_heads");
  EXPECT_EQ(Spec(llama).kv_heads, 4);
  Json mistral = With(Mistral(), {{"num_attention_heads", 16}});
  mistral.erase("num_key_value_heads");
  EXPECT_EQ(Spec(mistral).kv_heads, 8);
  EXPECT_EQ(Spec(With(Mistral(), {{"num_key_value_heads", nullptr}})).kv_heads, 4);
}

TEST(Families, MistralWindow) {
  EXPECT_THAT(Windows(Spec(With(Mistral(), {{"sliding_window", 8}}))), ElementsAre(8, 8, 8, 8));
  EXPECT_THAT(Windows(Spec(With(Mistral(), {{"sliding_window", nullptr}}))),
              ElementsAre(0, 0, 0, 0));
  const Json long_context = With(Mistral(), {{"max_position_embeddings", 32768}});
  EXPECT_THAT(Windows(Spec(long_context)), ElementsAre(4096, 4096, 4096, 4096));
  EXPECT_EQ(Spec(With(Mistral(), {{"head_dim", 32}})).head_dim, 32);
}

TEST(Families, AWindowAsLongAsTheContextIsFullAttention) {
  EXPECT_THAT(Windows(Spec(With(Mistral(), {{"sliding_window", 1000}}))), ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(Windows(Spec(With(Mistral(), {{"sliding_window", 999}}))),
              ElementsAre(999, 999, 999, 999));
}

TEST(Families, Qwen2Windows) {
  const ModelSpec spec = Spec(Qwen2());
  EXPECT_TRUE(spec.qkv_bias);
  EXPECT_FALSE(spec.o_bias);
  EXPECT_THAT(Windows(spec), ElementsAre(0, 0, 0, 0));
  const Json off = {{"use_sliding_window", false}, {"sliding_window", 8}, {"max_window_layers", 1}};
  EXPECT_THAT(Windows(Spec(With(Qwen2(), off))), ElementsAre(0, 0, 0, 0));
  const Json on = {{"use_sliding_window", true}, {"sliding_window", 8}, {"max_window_layers", 2}};
  const ModelSpec mixed = Spec(With(Qwen2(), on));
  EXPECT_THAT(Windows(mixed), ElementsAre(0, 0, 8, 8));
  EXPECT_EQ(mixed.kv_groups.size(), 2u);
}

// Hugging Face's default for max_window_layers is 28.
TEST(Families, Qwen2HasWindowsFromLayer28OnUnlessToldOtherwise) {
  const Json on = {{"use_sliding_window", true}, {"sliding_window", 8}, {"num_hidden_layers", 30}};
  std::vector<int32_t> expected(30, 0);
  expected[28] = expected[29] = 8;
  EXPECT_EQ(Windows(Spec(With(Qwen2(), on))), expected);
}

TEST(Families, Qwen3) {
  const ModelSpec spec = Spec(Qwen3());
  EXPECT_EQ(spec.family, "qwen3");
  EXPECT_TRUE(spec.qk_norm);
  EXPECT_FALSE(spec.qkv_bias || spec.o_bias || spec.post_norms || spec.tied_embeddings);
  EXPECT_EQ(spec.head_dim, 128);
  EXPECT_THAT(Windows(spec), ElementsAre(0, 0, 0, 0));
  const ModelSpec windowed = Spec(With(Qwen3(), {{"attention_bias", true},
                                                 {"use_sliding_window", true},
                                                 {"sliding_window", 8},
                                                 {"max_window_layers", 3}}));
  EXPECT_TRUE(windowed.qkv_bias && windowed.o_bias);
  EXPECT_THAT(Windows(windowed), ElementsAre(0, 0, 0, 8));
}

TEST(Families, Gemma2) {
  const ModelSpec spec = Spec(With(Gemma2(), {{"sliding_window", 8}}));
  EXPECT_EQ(spec.family, "gemma2");
  EXPECT_TRUE(spec.norm_plus_one && spec.post_norms && spec.tied_embeddings);
  EXPECT_FALSE(spec.qk_norm || spec.qkv_bias);
  EXPECT_EQ(spec.activation, Activation::kGeluTanh);
  EXPECT_EQ(spec.head_dim, 256);
  EXPECT_FLOAT_EQ(spec.embedding_scale, 8.0f);
  EXPECT_FLOAT_EQ(spec.attention_scale, 1.0f / 16.0f);
  EXPECT_FLOAT_EQ(spec.attention_softcap, 50.0f);
  EXPECT_FLOAT_EQ(spec.logit_softcap, 30.0f);
  EXPECT_THAT(Windows(spec), ElementsAre(8, 0, 8, 0));
  EXPECT_EQ(spec.ropes.size(), 1u);
  const ModelSpec plain = Spec(With(Gemma2(), {{"attn_logit_softcapping", nullptr},
                                               {"final_logit_softcapping", nullptr},
                                               {"query_pre_attn_scalar", 64}}));
  EXPECT_EQ(plain.attention_softcap, 0.0f);
  EXPECT_EQ(plain.logit_softcap, 0.0f);
  EXPECT_FLOAT_EQ(plain.attention_scale, 0.125f);
}

TEST(Families, Gemma3OldAndNewLayoutOfItsRopes) {
  const Json old_keys = {{"sliding_window", 8},
                         {"rope_theta", 500.0},
                         {"rope_local_base_freq", 50.0},
                         {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}},
                         {"sliding_window_pattern", 3}};
  const Json new_keys = {
      {"sliding_window", 8},
      {"layer_types",
       {"sliding_attention", "sliding_attention", "full_attention", "sliding_attention"}},
      {"rope_parameters",
       {{"full_attention", {{"rope_type", "linear"}, {"rope_theta", 500.0}, {"factor", 8.0}}},
        {"sliding_attention", {{"rope_theta", 50.0}}}}}};
  for (const Json& keys : {old_keys, new_keys}) {
    const ModelSpec spec = Spec(With(Gemma3(), keys));
    EXPECT_TRUE(spec.norm_plus_one && spec.post_norms && spec.qk_norm && spec.tied_embeddings);
    EXPECT_EQ(spec.attention_softcap, 0.0f);
    EXPECT_EQ(spec.logit_softcap, 0.0f);
    EXPECT_THAT(Windows(spec), ElementsAre(8, 8, 0, 8));
    ASSERT_EQ(spec.ropes.size(), 2u);
    EXPECT_EQ(spec.ropes[0].inv_freq, LinearRope(500.0, 256, 8.0).inv_freq);
    EXPECT_EQ(spec.ropes[1].inv_freq, DefaultRope(50.0, 256).inv_freq);
    EXPECT_EQ(spec.layers[2].rope, 0);
    EXPECT_EQ(spec.layers[3].rope, 1);
  }
  const ModelSpec plain = Spec(Gemma3());
  EXPECT_EQ(plain.ropes[0].inv_freq, DefaultRope(10'000.0, 256).inv_freq);  // all layers are local
  const ModelSpec one_global =
      Spec(With(Gemma3(), {{"num_hidden_layers", 6}, {"sliding_window", 8}}));
  EXPECT_THAT(Windows(one_global), ElementsAre(8, 8, 8, 8, 8, 0));
  EXPECT_EQ(one_global.ropes[0].inv_freq, DefaultRope(1'000'000.0, 256).inv_freq);
}

// The text part of a multimodal model, with the few keys that published files have.
TEST(Families, Gemma3InAMultimodalConfig) {
  const Json config = {{"architectures", {"Gemma3ForConditionalGeneration"}},
                       {"eos_token_id", {1, 106}},
                       {"torch_dtype", "bfloat16"},
                       {"vision_config", {{"hidden_size", 1152}}},
                       {"text_config",
                        {{"hidden_size", 2560},
                         {"intermediate_size", 10240},
                         {"model_type", "gemma3_text"},
                         {"num_hidden_layers", 34},
                         {"rope_scaling", {{"factor", 8.0}, {"rope_type", "linear"}}},
                         {"sliding_window", 1024}}}};
  const ModelSpec spec = Spec(config);
  EXPECT_EQ(spec.family, "gemma3");
  EXPECT_EQ(spec.hidden, 2560);
  EXPECT_EQ(spec.heads, 8);
  EXPECT_EQ(spec.kv_heads, 4);
  EXPECT_EQ(spec.head_dim, 256);
  EXPECT_EQ(spec.vocab_size, 262'208);
  EXPECT_EQ(spec.max_positions, 131'072);
  EXPECT_EQ(spec.stored_dtype, DType::kBF16);
  EXPECT_THAT(spec.eos_ids, ElementsAre(1, 106));
  EXPECT_EQ(spec.kv_groups.size(), 7u);  // 29 local layers and 5 global ones, 5 a group
}

TEST(Families, LayerTypesDecide) {
  const Json types = {"sliding_attention", "full_attention", "full_attention", "sliding_attention"};
  for (const Json& base : {Llama(), Mistral()}) {
    const ModelSpec spec = Spec(With(base, {{"layer_types", types}, {"sliding_window", 8}}));
    EXPECT_THAT(Windows(spec), ElementsAre(8, 0, 0, 8));
    EXPECT_EQ(spec.layers[3].layer_in_group, 1);
  }
  const Json qwen = {{"layer_types", types}, {"sliding_window", 8}, {"use_sliding_window", true}};
  EXPECT_THAT(Windows(Spec(With(Qwen2(), qwen))), ElementsAre(8, 0, 0, 8));
}

TEST(Families, StoredDtypeOldAndNewKey) {
  EXPECT_EQ(Spec(With(Llama(), {{"torch_dtype", "bfloat16"}})).stored_dtype, DType::kBF16);
  EXPECT_EQ(Spec(With(Llama(), {{"dtype", "float16"}})).stored_dtype, DType::kF16);
  EXPECT_EQ(Spec(With(Llama(), {{"dtype", "torch.float32"}})).stored_dtype, DType::kF32);
  EXPECT_EQ(Spec(With(Llama(), {{"torch_dtype", "torch.bfloat16"}})).stored_dtype, DType::kBF16);
}

TEST(Families, EosAndGenerationDefaults) {
  EXPECT_THAT(Spec(With(Llama(), {{"eos_token_id", 2}})).eos_ids, ElementsAre(2));
  EXPECT_THAT(Spec(With(Llama(), {{"eos_token_id", {2, 3}}})).eos_ids, ElementsAre(2, 3));
  const ModelSpec spec =
      Spec(With(Llama(), {{"eos_token_id", 2}, {"bos_token_id", 1}}),
           R"({"eos_token_id":[5,6],"do_sample":true,"temperature":0.6,"top_k":20,"top_p":0.9,
               "min_p":0.05,"repetition_penalty":1.05,"pad_token_id":0})");
  EXPECT_THAT(spec.eos_ids, ElementsAre(5, 6));
  EXPECT_EQ(spec.bos_id, 1);
  EXPECT_TRUE(spec.generation.present);
  EXPECT_TRUE(spec.generation.do_sample);
  EXPECT_FLOAT_EQ(*spec.generation.temperature, 0.6f);
  EXPECT_EQ(*spec.generation.top_k, 20);
  EXPECT_FLOAT_EQ(*spec.generation.top_p, 0.9f);
  EXPECT_FLOAT_EQ(*spec.generation.min_p, 0.05f);
  EXPECT_FLOAT_EQ(*spec.generation.repetition_penalty, 1.05f);
  const ModelSpec silent = Spec(With(Llama(), {{"eos_token_id", 2}}), "{}");
  EXPECT_THAT(silent.eos_ids, ElementsAre(2));
  EXPECT_TRUE(silent.generation.present);
  EXPECT_FALSE(silent.generation.do_sample);
  EXPECT_FALSE(silent.generation.temperature.has_value());
  EXPECT_FALSE(Spec(Llama()).generation.present);
  EXPECT_EQ(Spec(Llama(), R"({"top_k":-1})").generation.top_k, -1);
}

// Published files write integers with a point and -1 for a token that the model does not have.
TEST(Families, IntegersWithAPointAndAbsentTokens) {
  EXPECT_EQ(Spec(With(Llama(), {{"num_hidden_layers", 4.0}})).num_layers, 4);
  EXPECT_EQ(Spec(Llama(), R"({"top_k":50.0})").generation.top_k, 50);
  EXPECT_THAT(Spec(With(Llama(), {{"eos_token_id", 2.0}})).eos_ids, ElementsAre(2));
  const ModelSpec none = Spec(With(Llama(), {{"eos_token_id", -1}, {"bos_token_id", -1}}));
  EXPECT_TRUE(none.eos_ids.empty());
  EXPECT_FALSE(none.bos_id.has_value());
  EXPECT_THAT(Spec(With(Llama(), {{"eos_token_id", {-1, 3}}})).eos_ids, ElementsAre(3));
  EXPECT_TRUE(Spec(With(Llama(), {{"eos_token_id", 2}}), R"({"eos_token_id":-1})").eos_ids.empty());
}

// The goldens are Hugging Face's frequencies. Powers may differ by a unit in the last place.
TEST(Rope, FrequenciesAreHuggingFaces) {
  int num_models = 0;
  for (const auto& entry : std::filesystem::directory_iterator("tests/golden/models")) {
    const std::string dir = entry.path().string();
    const absl::StatusOr<ModelSpec> spec = LoadModelSpec(dir);
    ASSERT_TRUE(spec.ok()) << spec.status();
    std::ifstream file(dir + "/golden.json");
    const std::vector<float> expected = Json::parse(file)["inv_freq"];
    // The first rotary embedding is that of the layers with full attention.
    ASSERT_EQ(spec->ropes.size(), spec->family == "gemma3_text" ? 2u : 1u) << dir;
    ASSERT_EQ(spec->ropes[0].inv_freq.size(), expected.size()) << dir;
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(spec->ropes[0].inv_freq[i], expected[i], 1.3e-7f * expected[i])
          << dir << " " << i;
    }
    ++num_models;
  }
  EXPECT_GE(num_models, 8);
}

TEST(Rope, OldAndNewLayoutOfLlama3Agree) {
  const Json scaling = {{"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 32}};
  Json old_scaling = With(scaling, {{"rope_type", "llama3"}});
  Json new_parameters = With(old_scaling, {{"rope_theta", 500.0}});
  const ModelSpec old_spec =
      Spec(With(Llama(), {{"rope_theta", 500.0}, {"rope_scaling", old_scaling}}));
  const ModelSpec new_spec = Spec(With(Llama(), {{"rope_parameters", new_parameters}}));
  EXPECT_EQ(old_spec.ropes[0].inv_freq, new_spec.ropes[0].inv_freq);
  EXPECT_NE(old_spec.ropes[0].inv_freq, DefaultRope(500.0, 16).inv_freq);
}

// Wavelengths above original / low are multiplied by the factor, wavelengths below original / high
// stay, and frequencies between the two bounds are interpolated.
TEST(Rope, Llama3StretchesFromItsLowFrequencyOn) {
  constexpr double kFactor = 8.0;
  constexpr double kLow = 2.0;
  constexpr double kHigh = 4.0;
  constexpr double kOriginal = 64.0;
  const Json scaling = {{"rope_type", "llama3"},
                        {"factor", kFactor},
                        {"low_freq_factor", kLow},
                        {"high_freq_factor", kHigh},
                        {"original_max_position_embeddings", 64}};
  const ModelSpec spec =
      Spec(With(Llama(), {{"head_dim", 64}, {"rope_theta", 500.0}, {"rope_scaling", scaling}}));
  const std::vector<float> plain = DefaultRope(500.0, 64).inv_freq;
  int num_between = 0;
  int num_double = 0;  // wavelengths above original / low, but not above original * low
  ASSERT_EQ(spec.ropes[0].inv_freq.size(), plain.size());
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2.0 * M_PI / plain[i];
    double share = std::clamp((kOriginal / wavelength - kLow) / (kHigh - kLow), 0.0, 1.0);
    num_between += share > 0.0 && share < 1.0 ? 1 : 0;
    num_double += wavelength > kOriginal / kLow && wavelength <= kOriginal * kLow ? 1 : 0;
    const double expected = plain[i] * (share + (1.0 - share) / kFactor);
    EXPECT_NEAR(spec.ropes[0].inv_freq[i], expected, 1e-5 * expected) << i;
  }
  EXPECT_GT(num_between, 0);
  EXPECT_GT(num_double, 0);
}

TEST(Rope, OldTypeKey) {
  const Json linear = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_EQ(Spec(With(Llama(), {{"rope_scaling", linear}})).ropes[0].inv_freq,
            LinearRope(10000.0, 16, 2.0).inv_freq);
}

TEST(Rope, OnePerKindOfLayer) {
  const Json parameters = {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 1e6}}},
                           {"sliding_attention", {{"rope_theta", 100.0}}}};
  const Json types = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  const ModelSpec spec = Spec(With(
      Llama(), {{"rope_parameters", parameters}, {"layer_types", types}, {"sliding_window", 8}}));
  ASSERT_EQ(spec.ropes.size(), 2u);
  EXPECT_EQ(spec.ropes[spec.layers[0].rope].inv_freq, DefaultRope(100.0, 16).inv_freq);
  EXPECT_EQ(spec.ropes[spec.layers[1].rope].inv_freq, DefaultRope(1e6, 16).inv_freq);
  EXPECT_EQ(spec.layers[0].rope, spec.layers[2].rope);
}

struct Grouping {
  std::vector<int32_t> windows;
  int32_t size;
  size_t num_groups;
};

std::vector<int32_t> Repeat(const std::vector<int32_t>& pattern, size_t num_layers) {
  std::vector<int32_t> windows;
  while (windows.size() < num_layers) windows.push_back(pattern[windows.size() % pattern.size()]);
  return windows;
}

TEST(KvGroups, SizesAndNumbers) {
  const std::vector<Grouping> table = {
      {Repeat({0}, 32), 32, 1},                           // Llama
      {Repeat({4096}, 32), 32, 1},                        // Mistral
      {Repeat({8, 0}, 4), 2, 2},                          // 1 : 1
      {Repeat({512, 512, 512, 512, 512, 0}, 30), 5, 6},   // 5 : 1
      {Repeat({512, 512, 512, 512, 512, 0}, 26), 4, 7},   // 22 : 4, two padding layers
      {Repeat({512, 512, 512, 512, 512, 0}, 62), 13, 5},  // 52 : 10, three padding layers
      {Repeat({8, 0}, 9), 5, 2},                          // 5 : 4, one padding layer
      {Repeat({0, 8, 8}, 3), 1, 3},
      {Repeat({0}, 1), 1, 1},
      {Repeat({4, 8, 0}, 12), 4, 3},  // three kinds
  };
  for (const Grouping& row : table) {
    const KvGrouping grouping = GroupLayers(row.windows);
    SCOPED_TRACE(row.windows.size());
    EXPECT_EQ(grouping.groups.size(), row.num_groups);
    for (const KvGroupSpec& group : grouping.groups) EXPECT_EQ(group.num_layers, row.size);
  }
}

// For random windows, each layer has its own place in a group of its kind, in the layers' order.
TEST(KvGroups, EveryLayerHasItsPlace) {
  uint32_t random = 1;
  for (int round = 0; round < 500; ++round) {
    std::vector<int32_t> windows;
    const int num_layers = 1 + round % 80;
    for (int layer = 0; layer < num_layers; ++layer) {
      random = random * 1664525u + 1013904223u;
      windows.push_back(static_cast<int32_t>((random >> 24) % (1 + round % 4)) * 16);
    }
    const KvGrouping grouping = GroupLayers(windows);
    std::vector<int32_t> used(grouping.groups.size(), 0);
    for (int layer = 0; layer < num_layers; ++layer) {
      const int32_t group = grouping.group[layer];
      ASSERT_EQ(grouping.groups[group].window, windows[layer]);
      ASSERT_EQ(grouping.layer_in_group[layer], used[group]++);
      ASSERT_LT(grouping.layer_in_group[layer], grouping.groups[group].num_layers);
      ASSERT_EQ(grouping.groups[group].num_layers, grouping.groups[0].num_layers);
    }
  }
}

TEST(PageLayout, FollowsTheGroups) {
  const Json types = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  const ModelSpec spec = Spec(With(Llama(), {{"layer_types", types}, {"sliding_window", 8}}));
  const PageLayout layout = MakePageLayout(spec, DType::kBF16, 16);
  ASSERT_EQ(layout.num_groups(), 2);
  EXPECT_EQ(layout.groups[0].window, 8);
  EXPECT_EQ(layout.groups[1].window, 0);
  EXPECT_EQ(layout.groups[0].page_bytes(), 2 * 2 * 2 * 16 * 16 * 2);  // layers, K+V, heads, ...
  EXPECT_EQ(layout.groups[0].page_bytes(), layout.groups[1].page_bytes());
}

// Five layers with a window and four without: groups of equal size, the last with one layer less.
TEST(PageLayout, KnowsTheLayersThatPadAGroup) {
  const auto spec = LoadModelSpec("tests/golden/models/qwen2_padded_group");
  ASSERT_TRUE(spec.ok()) << spec.status();
  const PageLayout layout = MakePageLayout(*spec, DType::kF32, 16);
  std::vector<int32_t> num_used(layout.groups.size());
  for (const LayerSpec& layer : spec->layers) {
    num_used[layer.group] = std::max(num_used[layer.group], layer.layer_in_group + 1);
  }
  int32_t num_padding_layers = 0;
  for (int32_t g = 0; g < layout.num_groups(); ++g) {
    EXPECT_EQ(layout.groups[g].num_used_layers(), num_used[g]);
    num_padding_layers += layout.groups[g].num_padding_layers;
  }
  EXPECT_GT(num_padding_layers, 0);
}

TEST(PageLayout, Int8ScalesFollowTheRowsOfTheirHead) {
  const PageLayout layout = MakePageLayout(Spec(Llama()), DType::kI8, 16);
  GroupLayout group = layout.groups[0];
  EXPECT_EQ(group.head_dim, 16);
  EXPECT_EQ(group.row_bytes(), 16);
  EXPECT_EQ(group.token_bytes(), 20);
  EXPECT_EQ(group.scales_offset(), 16 * 16);
  EXPECT_EQ(group.page_bytes(), int64_t{group.num_layers} * 2 * group.kv_heads * 16 * 20);
  group.head_dim = 18;  // rows stay multiples of 16 bytes
  EXPECT_EQ(group.row_bytes(), 32);
  EXPECT_EQ(group.token_bytes(), 36);
}

struct BadConfig {
  const char* name;
  Json base;
  Json patch;
  std::vector<const char*> says;
};

std::vector<BadConfig> BadConfigs() {
  std::vector<BadConfig> table = {
      {"unknown_architecture",
       Llama(),
       {{"architectures", {"GPT2LMHeadModel"}}},
       {"architectures", "GPT2LMHeadModel", "LlamaForCausalLM", "Qwen2ForCausalLM",
        "serve a model of one of these families"}},
      {"classifier",
       Llama(),
       {{"architectures", {"LlamaForSequenceClassification"}}},
       {"LlamaForSequenceClassification"}},
      {"architectures_is_a_string",
       Llama(),
       {{"architectures", "LlamaForCausalLM"}},
       {"architectures", "list of strings"}},
      {"unknown_model_type",
       {{"model_type", "mamba"}},
       Json::object(),
       {"model_type is \"mamba\"", "llama, mistral, qwen2"}},
      {"multimodal_without_text",
       {{"architectures", {"Gemma3ForConditionalGeneration"}}},
       Json::object(),
       {"text_config is missing"}},
      {"text_config_key_is_named",
       {{"architectures", {"Gemma3ForConditionalGeneration"}}},
       {{"text_config", {{"hidden_size", "x"}}}},
       {"text_config.hidden_size is"}},
      {"bidirectional",
       Gemma3(),
       {{"use_bidirectional_attention", true}},
       {"use_bidirectional_attention is true", "causal"}},
      {"gemma3_attention_softcap",
       Gemma3(),
       {{"attn_logit_softcapping", 50.0}},
       {"attn_logit_softcapping is 50", "null"}},
      {"softcap_is_negative",
       Gemma2(),
       {{"final_logit_softcapping", -1.0}},
       {"final_logit_softcapping is -1"}},
      {"scalar_is_zero", Gemma2(), {{"query_pre_attn_scalar", 0}}, {"query_pre_attn_scalar is 0"}},
      {"local_theta_is_zero",
       Gemma3(),
       {{"rope_local_base_freq", 0}, {"sliding_window", 8}},
       {"rope_local_base_freq is 0"}},
      {"nothing", Json::object(), Json::object(), {"architectures is missing"}},
      {"quantised",
       Llama(),
       {{"quantization_config", {{"bits", 4}}}},
       {"quantization_config.quant_method is missing", "gptq, awq and compressed-tensors"}},
      {"heads_do_not_divide",
       Llama(),
       {{"num_attention_heads", 3}, {"num_key_value_heads", 3}},
       {"hidden_size is 64", "multiple of num_attention_heads 3"}},
      {"kv_heads_do_not_divide",
       Llama(),
       {{"num_key_value_heads", 3}},
       {"num_key_value_heads is 3", "divide num_attention_heads 4"}},
      {"more_kv_heads_than_heads",
       Llama(),
       {{"num_key_value_heads", 8}},
       {"num_key_value_heads is 8", "1 to 4"}},
      {"odd_head_dim", Llama(), {{"head_dim", 15}}, {"head_dim is 15", "even"}},
      {"derived_head_dim_is_one", Llama(), {{"hidden_size", 4}}, {"size must be even"}},
      {"activation", Llama(), {{"hidden_act", "relu"}}, {"hidden_act is \"relu\"", "silu"}},
      {"dtype", Llama(), {{"torch_dtype", "int8"}}, {"torch_dtype is \"int8\"", "bfloat16"}},
      {"dtype_of_torch", Llama(), {{"dtype", "torch.int8"}}, {"dtype is \"torch.int8\""}},
      {"eps_is_negative", Llama(), {{"rms_norm_eps", -1e-5}}, {"rms_norm_eps is -1e-05"}},
      {"eps_is_a_string", Llama(), {{"rms_norm_eps", "1e-5"}}, {"rms_norm_eps is \"1e-5\""}},
      {"theta_is_zero", Llama(), {{"rope_theta", 0}}, {"rope_theta is 0"}},
      {"bias_is_a_number", Llama(), {{"attention_bias", 1}}, {"attention_bias is 1", "true or"}},
      {"eos_beyond_the_vocabulary",
       Llama(),
       {{"eos_token_id", 100}},
       {"eos_token_id is 100", "-1 to 99"}},
      {"eos_is_a_string", Llama(), {{"eos_token_id", "2"}}, {"eos_token_id is \"2\""}},
      {"bos_is_negative", Llama(), {{"bos_token_id", -2}}, {"bos_token_id is -2"}},
      {"window_is_zero", Mistral(), {{"sliding_window", 0}}, {"sliding_window is 0"}},
      {"window_is_a_string", Mistral(), {{"sliding_window", "8"}}, {"sliding_window is \"8\""}},
      {"window_layers_negative",
       Qwen2(),
       {{"use_sliding_window", true}, {"max_window_layers", -1}, {"sliding_window", 8}},
       {"max_window_layers is -1"}},
      {"too_few_layer_types",
       Llama(),
       {{"layer_types", {"full_attention"}}},
       {"layer_types", "num_hidden_layers 4", "not 1"}},
      {"unknown_layer_type",
       Llama(),
       {{"layer_types", {"full_attention", "chunked_attention", "full_attention", "x"}}},
       {"layer_types", "entry 1", "sliding_attention"}},
      {"sliding_without_window",
       Llama(),
       {{"layer_types",
         {"sliding_attention", "full_attention", "full_attention", "full_attention"}}},
       {"sliding_window is missing", "number of tokens"}},
      {"rope_scaling_is_a_number", Llama(), {{"rope_scaling", 2}}, {"rope_scaling is 2", "object"}},
      {"linear_without_factor",
       Llama(),
       {{"rope_scaling", {{"type", "linear"}}}},
       {"rope_scaling.factor is missing"}},
      {"linear_factor_zero",
       Llama(),
       {{"rope_scaling", {{"type", "linear"}, {"factor", 0}}}},
       {"rope_scaling.factor is 0"}},
      {"llama3_without_factors",
       Llama(),
       {{"rope_scaling", {{"rope_type", "llama3"}}}},
       {"rope_scaling.factor is missing"}},
      {"llama3_bands_swapped",
       Llama(),
       {{"rope_parameters",
         {{"rope_type", "llama3"},
          {"factor", 8},
          {"low_freq_factor", 4},
          {"high_freq_factor", 1}}}},
       {"rope_parameters.high_freq_factor is 1", "above low_freq_factor 4"}},
      {"partial_rotary",
       Llama(),
       {{"partial_rotary_factor", 0.5}},
       {"partial_rotary_factor is 0.5"}},
      {"one_kind_lacks_its_rope",
       Llama(),
       {{"rope_parameters", {{"sliding_attention", {{"rope_theta", 10.0}}}}}},
       {"rope_parameters.full_attention is missing"}},
  };
  for (const char* type : {"dynamic", "yarn", "longrope", "su", "mrope", "proportional"}) {
    const Json scaling = {{"rope_type", type}, {"factor", 2.0}};
    table.push_back({type,
                     Llama(),
                     {{"rope_scaling", scaling}},
                     {"rope_scaling.rope_type", type, "default, linear and llama3"}});
  }
  return table;
}

TEST(BadConfig, IsRefusedByName) {
  for (const BadConfig& row : BadConfigs()) {
    SCOPED_TRACE(row.name);
    const absl::StatusOr<ModelSpec> spec = Parse(With(row.base, row.patch));
    ASSERT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << spec.status();
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr("m/config.json: "));
    for (const char* part : row.says) {
      EXPECT_THAT(std::string(spec.status().message()), HasSubstr(part));
    }
  }
}

// Every number that determines the model's shape is refused when it is missing, negative, too large
// or of a wrong type.
TEST(BadConfig, EveryNumberIsBounded) {
  const std::vector<const char*> keys = {
      "hidden_size",         "intermediate_size", "num_hidden_layers",      "num_attention_heads",
      "num_key_value_heads", "vocab_size",        "max_position_embeddings"};
  const std::vector<Json> values = {0,
                                    -1,
                                    1e30,
                                    2.5,
                                    99999999999,
                                    18446744073709551615u,
                                    -9223372036854775807 - 1,
                                    "64",
                                    true,
                                    Json::array({64}),
                                    Json::object()};
  for (const char* key : keys) {
    for (const Json& value : values) {
      const absl::StatusOr<ModelSpec> spec = Parse(With(Llama(), {{key, value}}));
      ASSERT_FALSE(spec.ok()) << key << " " << value;
      EXPECT_THAT(std::string(spec.status().message()),
                  HasSubstr(std::string(key) + " is " + value.dump()));
    }
    if (std::string(key) == "num_key_value_heads") continue;
    Json config = Llama();
    config.erase(key);
    EXPECT_THAT(std::string(Parse(config).status().message()),
                HasSubstr(std::string(key) + " is missing"));
  }
}

TEST(BadConfig, NotAnObject) {
  for (const char* text : {"", "[]", "3", "{", "{\"a\":1,}", "{\"hidden_size\":1e999}", "\xff"}) {
    const auto spec = ParseModelSpec("m/config.json", text, "", "");
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr("m/config.json: ")) << text;
  }
}

TEST(BadConfig, DeepNesting) {
  const std::string deep =
      "{\"architectures\":" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}";
  const auto spec = ParseModelSpec("m/config.json", deep, "", "");
  EXPECT_THAT(std::string(spec.status().message()), HasSubstr("deeper than 32"));
}

TEST(BadConfig, LongValuesAreCut) {
  const auto spec = Parse(With(Llama(), {{"hidden_act", std::string(100'000, 'x')}}));
  EXPECT_LT(spec.status().message().size(), 400u);
}

TEST(BadGenerationConfig, IsRefusedByName) {
  const std::vector<std::pair<const char*, const char*>> table = {
      {R"({"temperature":"hot"})", "temperature is \"hot\""},
      {R"({"top_p":1e300})", "top_p is 1e+300"},
      {R"({"top_k":2.5})", "top_k is 2.5"},
      {R"({"top_k":4294967296.0})", "top_k is 4294967296.0"},
      {R"({"do_sample":"yes"})", "do_sample is \"yes\""},
      {R"({"eos_token_id":[1,1000]})", "eos_token_id is [1,1000]"},
      {R"({"eos_token_id":-2})", "eos_token_id is -2"},
      {R"({"eos_token_id":[[1]]})", "eos_token_id is [[1]]"},
      {"[", "not valid JSON"},
  };
  for (const auto& [text, says] : table) {
    const auto spec = Parse(Llama(), text);
    ASSERT_FALSE(spec.ok()) << text;
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr("m/generation_config.json: "));
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr(says));
  }
}

TEST(LoadModelSpec, AbsentFolder) {
  const auto spec = LoadModelSpec("/does/not/exist");
  EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(spec.status().message()),
              HasSubstr("/does/not/exist/config.json: No such file"));
  EXPECT_THAT(std::string(spec.status().message()), HasSubstr("Hugging Face layout"));
}

}  // namespace
}  // namespace tessera

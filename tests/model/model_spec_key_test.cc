// The key of a spec: each number of the forward changes it, nothing else does.
#include "kernels/model/model_spec_key.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

using Change = std::function<void(ModelSpec*)>;

ModelSpec Spec(const std::string& model) {
  const absl::StatusOr<ModelSpec> spec = LoadModelSpec(GoldenModelDir(model));
  EXPECT_TRUE(spec.ok()) << spec.status();
  return *spec;
}

std::string KeyAfter(const Change& change) {
  ModelSpec spec = Spec("llama32");
  change(&spec);
  return ModelSpecKey(spec);
}

// A field that ModelSpec gets must be named in model_spec_key.cc, which does not compile otherwise.
TEST(ModelSpecKeyTest, EachNumberOfTheForwardChangesTheKey) {
  const std::vector<Change> changes = {
      [](ModelSpec* s) { s->family = "mistral"; },
      [](ModelSpec* s) { ++s->vocab_size; },
      [](ModelSpec* s) { ++s->hidden; },
      [](ModelSpec* s) { ++s->intermediate; },
      [](ModelSpec* s) { ++s->num_layers; },
      [](ModelSpec* s) { ++s->heads; },
      [](ModelSpec* s) { ++s->kv_heads; },
      [](ModelSpec* s) { ++s->head_dim; },
      [](ModelSpec* s) { s->norm_eps *= 1.0000001f; },
      [](ModelSpec* s) { s->norm_plus_one = !s->norm_plus_one; },
      [](ModelSpec* s) { s->qkv_bias = !s->qkv_bias; },
      [](ModelSpec* s) { s->o_bias = !s->o_bias; },
      [](ModelSpec* s) { s->mlp_bias = !s->mlp_bias; },
      [](ModelSpec* s) { s->qk_norm = !s->qk_norm; },
      [](ModelSpec* s) { s->post_norms = !s->post_norms; },
      [](ModelSpec* s) { s->tied_embeddings = !s->tied_embeddings; },
      [](ModelSpec* s) { s->activation = Activation::kGeluTanh; },
      [](ModelSpec* s) { s->attention_scale *= 2.0f; },
      [](ModelSpec* s) { s->attention_softcap = 50.0f; },
      [](ModelSpec* s) { s->logit_softcap = 30.0f; },
      [](ModelSpec* s) { s->embedding_scale = 2.0f; },
      [](ModelSpec* s) { s->ropes[0].rotary_dim /= 2; },
      [](ModelSpec* s) { s->ropes[0].inv_freq.back() *= 1.0000001f; },
      [](ModelSpec* s) { s->ropes[0].attention_factor = 1.1f; },
      [](ModelSpec* s) { s->ropes.push_back(s->ropes[0]); },
      [](ModelSpec* s) { s->layers[1].group = 1; },
      [](ModelSpec* s) { s->layers[1].layer_in_group = 0; },
      [](ModelSpec* s) { s->layers[1].rope = 1; },
      [](ModelSpec* s) { s->layers.pop_back(); },
      [](ModelSpec* s) { ++s->kv_groups[0].num_layers; },
      [](ModelSpec* s) { s->kv_groups[0].window = 64; },
      [](ModelSpec* s) { s->kv_groups.push_back(s->kv_groups[0]); },
      [](ModelSpec* s) { s->quantization.method = QuantMethod::kGptq; },
      [](ModelSpec* s) {
        s->quantization.grids = {{4, 32}};
      },
      [](ModelSpec* s) {
        s->quantization.grids = {{8, 32}};
      },
      [](ModelSpec* s) {
        s->quantization.grids = {{4, 64}};
      },
      [](ModelSpec* s) { s->quantization.gptq_zeros = GptqZeros::kMinusOne; },
      [](ModelSpec* s) {
        s->quantization.grids = {{4, 32, false, true}};
      },
      [](ModelSpec* s) { s->quantization.grid_of["lm_head"] = 0; },
  };
  std::set<std::string> keys = {ModelSpecKey(Spec("llama32"))};
  for (size_t i = 0; i < changes.size(); ++i) {
    EXPECT_TRUE(keys.insert(KeyAfter(changes[i])).second) << "change " << i;
  }
}

TEST(ModelSpecKeyTest, WhatChangesNoNumberDoesNotChangeTheKey) {
  const std::vector<Change> changes = {
      [](ModelSpec* s) { s->max_positions *= 2; },
      [](ModelSpec* s) { s->stored_dtype = DType::kF16; },
      [](ModelSpec* s) { s->eos_ids.push_back(7); },
      [](ModelSpec* s) { s->bos_id = 7; },
      [](ModelSpec* s) { s->generation.present = !s->generation.present; },
      [](ModelSpec* s) { s->generation.temperature = 0.25f; },
  };
  const std::string key = ModelSpecKey(Spec("llama32"));
  for (size_t i = 0; i < changes.size(); ++i) {
    EXPECT_EQ(KeyAfter(changes[i]), key) << "change " << i;
  }
}

TEST(ModelSpecKeyTest, ModelsDiffer) {
  std::set<std::string> keys;
  for (const std::string& model : GoldenModels()) keys.insert(ModelSpecKey(Spec(model)));
  EXPECT_GE(keys.size(), 5u);
}

}  // namespace
}  // namespace tessera::testing

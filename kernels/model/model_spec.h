// The numbers that describe a model's architecture: everything that the forward pass (model.h)
// needs to know. A model family consists of a short function that turns config.json into a
// ModelSpec (families.cc) and of rows in the weight-name table (weight_table.cc). The owner of a
// Model owns its spec. Constant after load; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/types.h"
#include "kernels/device/backend.h"
#include "kernels/model/checkpoint/quantization_config.h"
#include "kernels/step/page_layout.h"

namespace tessera {

// Layers that have the same window and share a page table. All groups of a model have equally many
// layers; a group may be padded with unused layers.
struct KvGroupSpec {
  int32_t num_layers = 0;  // with padding; equal for all groups of a model
  int32_t window = 0;      // tokens; 0: full attention
};

struct LayerSpec {
  int32_t group = 0;
  int32_t layer_in_group = 0;
  int32_t rope = 0;  // index in ModelSpec::ropes
};

// Default sampling parameters from generation_config.json; unset where the file has no value. The
// server checks their ranges, which are those of a request.
struct GenerationDefaults {
  bool present = false;  // the model has a generation_config.json
  bool do_sample = false;
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
};

struct ModelSpec {
  std::string family;  // "llama", "mistral", "qwen2", ...
  int64_t vocab_size = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int32_t num_layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int64_t max_positions = 0;  // length of the context, in tokens
  float norm_eps = 1e-5f;
  bool norm_plus_one = false;  // norm weights are stored minus one (Gemma); the loader adds the one
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;
  // Attention and MLP are each followed by a norm, before the residual is added (Gemma 2, 3).
  bool post_norms = false;
  bool tied_embeddings = false;
  Activation activation = Activation::kSilu;
  float attention_scale = 0.0f;
  float attention_softcap = 0.0f;
  float logit_softcap = 0.0f;
  float embedding_scale = 1.0f;
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layers;  // [num_layers]
  std::vector<KvGroupSpec> kv_groups;
  // torch_dtype or dtype of config.json. The tensors' own types decide how weights are read.
  DType stored_dtype = DType::kF32;
  QuantizationSpec quantization;  // format of a checkpoint that another program quantised
  std::vector<TokenId> eos_ids;   // from generation_config.json, else from config.json
  std::optional<TokenId> bos_id;
  GenerationDefaults generation;
};

// Reads `dir`/config.json, and `dir`/generation_config.json if it exists. An unknown architecture
// or rope type and a number that is missing or out of range are errors, which name the file, the
// key, the value and the supported values.
absl::StatusOr<ModelSpec> LoadModelSpec(const std::string& dir);

// The layout of KV pages that hold `page_tokens` tokens in `kv_dtype`. The fields about slabs are
// not set; the pool planner sets them.
PageLayout MakePageLayout(const ModelSpec& spec, DType kv_dtype, int32_t page_tokens);

}  // namespace tessera

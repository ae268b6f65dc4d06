// What a model is, in numbers: everything the one forward (model.h) needs to know about an
// architecture. A family is a short function from config.json to a ModelSpec plus rows in the
// weight-name table (families.cc). Constant after load.
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

// Layers that share a page table: the same window, equal counts in all groups of a model (the last
// may be padded).
struct KvGroupSpec {
  int32_t num_layers = 0;  // equal for all groups of a model
  int32_t window = 0;      // 0: full attention
};

struct LayerSpec {
  int32_t group = 0;
  int32_t layer_in_group = 0;
  int32_t rope = 0;  // index in ModelSpec::ropes
};

// Defaults of generation_config.json; unset where the model says nothing.
struct GenerationDefaults {
  bool present = false;  // the model has the file
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
  int64_t max_positions = 0;  // the context's length
  float norm_eps = 1e-5f;
  bool norm_plus_one = false;  // weights are stored minus one (Gemma); folded in at load
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;
  bool post_norms =
      false;  // norms after attention and MLP, before the residual is added (Gemma 2, 3)
  bool tied_embeddings = false;
  Activation activation = Activation::kSilu;
  float attention_scale = 0.0f;
  float attention_softcap = 0.0f;
  float logit_softcap = 0.0f;
  float embedding_scale = 1.0f;
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layers;  // [num_layers]
  std::vector<KvGroupSpec> kv_groups;
  DType stored_dtype = DType::kF32;  // config.json's torch_dtype / dtype; weights say the truth
  QuantizationSpec quantization;     // of a checkpoint that somebody else quantised
  std::vector<TokenId> eos_ids;      // generation_config.json's, else config.json's
  std::optional<TokenId> bos_id;
  GenerationDefaults generation;
};

// Reads `dir`/config.json (and generation_config.json when there). Errors name the file, the key,
// the value and what is supported: an unknown architecture or rope type, missing, negative or
// absurd numbers.
absl::StatusOr<ModelSpec> LoadModelSpec(const std::string& dir);

// Page layout of a model whose pages hold `page_tokens` tokens in `kv_dtype` (slab fields are left
// to the pool planner).
PageLayout MakePageLayout(const ModelSpec& spec, DType kv_dtype, int32_t page_tokens);

}  // namespace tessera

#include "kernels/model/checkpoint/weight_table.h"

#include "absl/strings/str_replace.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

using Role = WeightRole;
using Dim = WeightDim;
using If = WeightIf;

}  // namespace

// A tensor that some models lack has a condition. The norm before the MLP is called
// post_attention_layernorm, except in models that also have a norm after the attention.
const std::vector<WeightRow>& WeightTable() {
  static const std::vector<WeightRow>* const table = new std::vector<WeightRow>{
      {Role::kEmbed, "model.embed_tokens.weight", Dim::kVocab, Dim::kHidden},
      {Role::kFinalNorm, "model.norm.weight", Dim::kHidden, Dim::kOne},
      {Role::kLmHead, "lm_head.weight", Dim::kVocab, Dim::kHidden, If::kUntied},
      {Role::kAttentionNorm, "model.layers.*.input_layernorm.weight", Dim::kHidden, Dim::kOne},
      {Role::kQkv, "model.layers.*.self_attn.q_proj.weight", Dim::kQuery, Dim::kHidden},
      {Role::kQkv, "model.layers.*.self_attn.k_proj.weight", Dim::kKeyValue, Dim::kHidden},
      {Role::kQkv, "model.layers.*.self_attn.v_proj.weight", Dim::kKeyValue, Dim::kHidden},
      {Role::kQkvBias, "model.layers.*.self_attn.q_proj.bias", Dim::kQuery, Dim::kOne,
       If::kQkvBias},
      {Role::kQkvBias, "model.layers.*.self_attn.k_proj.bias", Dim::kKeyValue, Dim::kOne,
       If::kQkvBias},
      {Role::kQkvBias, "model.layers.*.self_attn.v_proj.bias", Dim::kKeyValue, Dim::kOne,
       If::kQkvBias},
      {Role::kQNorm, "model.layers.*.self_attn.q_norm.weight", Dim::kHeadDim, Dim::kOne,
       If::kQkNorm},
      {Role::kKNorm, "model.layers.*.self_attn.k_norm.weight", Dim::kHeadDim, Dim::kOne,
       If::kQkNorm},
      {Role::kOut, "model.layers.*.self_attn.o_proj.weight", Dim::kHidden, Dim::kQuery},
      {Role::kOutBias, "model.layers.*.self_attn.o_proj.bias", Dim::kHidden, Dim::kOne,
       If::kOutBias},
      {Role::kPostAttentionNorm, "model.layers.*.post_attention_layernorm.weight", Dim::kHidden,
       Dim::kOne, If::kPostNorms},
      {Role::kMlpNorm, "model.layers.*.post_attention_layernorm.weight", Dim::kHidden, Dim::kOne,
       If::kNoPostNorms},
      {Role::kMlpNorm, "model.layers.*.pre_feedforward_layernorm.weight", Dim::kHidden, Dim::kOne,
       If::kPostNorms},
      {Role::kGateUp, "model.layers.*.mlp.gate_proj.weight", Dim::kIntermediate, Dim::kHidden},
      {Role::kGateUp, "model.layers.*.mlp.up_proj.weight", Dim::kIntermediate, Dim::kHidden},
      {Role::kGateUpBias, "model.layers.*.mlp.gate_proj.bias", Dim::kIntermediate, Dim::kOne,
       If::kMlpBias},
      {Role::kGateUpBias, "model.layers.*.mlp.up_proj.bias", Dim::kIntermediate, Dim::kOne,
       If::kMlpBias},
      {Role::kDown, "model.layers.*.mlp.down_proj.weight", Dim::kHidden, Dim::kIntermediate},
      {Role::kDownBias, "model.layers.*.mlp.down_proj.bias", Dim::kHidden, Dim::kOne, If::kMlpBias},
      {Role::kPostMlpNorm, "model.layers.*.post_feedforward_layernorm.weight", Dim::kHidden,
       Dim::kOne, If::kPostNorms},
  };
  return *table;
}

std::vector<FusedWeight> PresentWeights(const ModelSpec& spec) {
  std::vector<FusedWeight> weights;
  for (const WeightRow& row : WeightTable()) {
    if (!IsPresent(row.present, spec)) continue;
    if (weights.empty() || weights.back().role != row.role) weights.push_back({row.role, {}});
    weights.back().rows.push_back(&row);
  }
  return weights;
}

int NumLayers(const FusedWeight& weight, const ModelSpec& spec) {
  return IsPerLayer(weight.role) ? spec.num_layers : 1;
}

int64_t NumElements(const FusedWeight& weight, const ModelSpec& spec) {
  int64_t elements = 0;
  for (const WeightRow* row : weight.rows) {
    elements += DimSize(row->rows, spec) * DimSize(row->cols, spec);
  }
  return elements;
}

std::vector<ModuleName> MatrixModules(int num_layers) {
  std::vector<ModuleName> modules;
  for (const WeightRow& row : WeightTable()) {
    if (row.cols == Dim::kOne) continue;
    for (int layer = 0; layer < (IsPerLayer(row.role) ? num_layers : 1); ++layer) {
      const std::string name = WeightName(row, layer);
      modules.push_back({name.substr(0, name.rfind('.')), row.role == Role::kEmbed});
    }
  }
  return modules;
}

int64_t DimSize(WeightDim dim, const ModelSpec& spec) {
  switch (dim) {
    case Dim::kOne:
      return 1;
    case Dim::kVocab:
      return spec.vocab_size;
    case Dim::kHidden:
      return spec.hidden;
    case Dim::kIntermediate:
      return spec.intermediate;
    case Dim::kHeadDim:
      return spec.head_dim;
    case Dim::kQuery:
      return int64_t{spec.heads} * spec.head_dim;
    case Dim::kKeyValue:
      return int64_t{spec.kv_heads} * spec.head_dim;
  }
  return 0;
}

bool IsPresent(WeightIf condition, const ModelSpec& spec) {
  switch (condition) {
    case If::kAlways:
      return true;
    case If::kUntied:
      return !spec.tied_embeddings;
    case If::kQkvBias:
      return spec.qkv_bias;
    case If::kOutBias:
      return spec.o_bias;
    case If::kMlpBias:
      return spec.mlp_bias;
    case If::kQkNorm:
      return spec.qk_norm;
    case If::kPostNorms:
      return spec.post_norms;
    case If::kNoPostNorms:
      return !spec.post_norms;
  }
  return false;
}

std::string WeightName(const WeightRow& row, int layer) {
  return absl::StrReplaceAll(row.pattern, {{"*", std::to_string(layer)}});
}

}  // namespace tessera

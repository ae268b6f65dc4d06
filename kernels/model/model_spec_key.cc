#include "kernels/model/model_spec_key.h"

#include <cstring>

#include "absl/strings/str_cat.h"

// Each struct is taken apart by a structured binding: whoever adds a field has to name it here, or
// this file does not compile, and decides whether the field belongs to the key.
namespace tessera {
namespace {

std::string Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return absl::StrCat(absl::Hex(bits, absl::kZeroPad8));
}

std::string RopeKey(const RopeSpec& rope) {
  const auto& [rotary_dim, inv_freq, attention_factor] = rope;
  std::string key = absl::StrCat(rotary_dim, " ", Bits(attention_factor), " ");
  for (const float freq : inv_freq) absl::StrAppend(&key, Bits(freq));
  return key;
}

std::string LayerKey(const LayerSpec& layer) {
  const auto& [group, layer_in_group, rope] = layer;
  return absl::StrCat(group, " ", layer_in_group, " ", rope);
}

std::string GroupKey(const KvGroupSpec& kv_group) {
  const auto& [num_layers, window] = kv_group;
  return absl::StrCat(num_layers, " ", window);
}

std::string QuantizationKey(const QuantizationSpec& quantization) {
  const auto& [method, gptq_zeros, grids, grid_of, group_names] = quantization;
  std::string key = absl::StrCat(static_cast<int>(method), " ", static_cast<int>(gptq_zeros));
  for (const QuantGrid& grid : grids) {
    const auto& [bits, group_size, int8_activations, needs_group_index] = grid;
    absl::StrAppend(&key, " ", bits, "/", group_size, int8_activations ? "x8" : "",
                    needs_group_index ? "i" : "");
  }
  for (const auto& [module, grid] : grid_of) absl::StrAppend(&key, " ", module, "=", grid);
  return key;
}

}  // namespace

std::string ModelSpecKey(const ModelSpec& spec) {
  const auto& [family, vocab_size, hidden, intermediate, num_layers, heads, kv_heads, head_dim,
               max_positions, norm_eps, norm_plus_one, qkv_bias, o_bias, mlp_bias, qk_norm,
               post_norms, tied_embeddings, activation, attention_scale, attention_softcap,
               logit_softcap, embedding_scale, ropes, layers, kv_groups, stored_dtype, quantization,
               eos_ids, bos_id, generation] = spec;
  std::string key = absl::StrCat("family ", family.size(), ":", family, "\n");
  absl::StrAppend(&key, "sizes ", vocab_size, " ", hidden, " ", intermediate, "\n");
  absl::StrAppend(&key, "layers ", num_layers, " heads ", heads, " ", kv_heads, " ", head_dim,
                  "\n");
  absl::StrAppend(&key, "norm ", Bits(norm_eps), " ", int{norm_plus_one}, int{qk_norm},
                  int{post_norms}, "\n");
  absl::StrAppend(&key, "bias ", int{qkv_bias}, int{o_bias}, int{mlp_bias}, "\n");
  absl::StrAppend(&key, "activation ", static_cast<int>(activation), "\n");
  absl::StrAppend(&key, "attention ", Bits(attention_scale), " ", Bits(attention_softcap), "\n");
  absl::StrAppend(&key, "ends ", Bits(embedding_scale), " ", Bits(logit_softcap), " ",
                  int{tied_embeddings}, "\n");
  for (const RopeSpec& rope : ropes) absl::StrAppend(&key, "rope ", RopeKey(rope), "\n");
  for (const LayerSpec& layer : layers) absl::StrAppend(&key, "layer ", LayerKey(layer), "\n");
  for (const KvGroupSpec& group : kv_groups) absl::StrAppend(&key, "kv ", GroupKey(group), "\n");
  absl::StrAppend(&key, "quantization ", QuantizationKey(quantization), "\n");
  return key;
}

}  // namespace tessera

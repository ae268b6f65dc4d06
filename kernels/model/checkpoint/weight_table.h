// What the tensors of a model family are called in a checkpoint, as data: a row per tensor. Fused
// weights of ours are several rows of one slot; tensors that a family stores fused are one row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/model/model_spec.h"

namespace tessera {

// Where a tensor of the checkpoint goes. Rows of one slot are parts of one fused weight, in table
// order.
enum class WeightSlot : int32_t {
  kEmbed,
  kFinalNorm,
  kLmHead,
  // Per layer from here on.
  kAttentionNorm,
  kQkv,
  kQkvBias,
  kQNorm,
  kKNorm,
  kOut,
  kOutBias,
  kPostAttentionNorm,
  kMlpNorm,
  kGateUp,
  kGateUpBias,
  kDown,
  kDownBias,
  kPostMlpNorm,
  kNumSlots,
};

// Sizes that a tensor's shape is made of.
enum class WeightDim : int32_t {
  kOne,  // a vector has one "column" and is stored without it
  kVocab,
  kHidden,
  kIntermediate,
  kHeadDim,
  kQuery,     // heads * head_dim
  kKeyValue,  // kv_heads * head_dim
};

enum class WeightIf : int32_t {
  kAlways,
  kUntied,
  kQkvBias,
  kOutBias,
  kMlpBias,
  kQkNorm,
  kPostNorms,
};

struct WeightRow {
  WeightSlot slot;
  const char* pattern;  // Hugging Face's name; * stands for the layer
  WeightDim rows;
  WeightDim cols;
  WeightIf present = WeightIf::kAlways;
};

// A slot with the rows that are its parts.
struct SlotRows {
  WeightSlot slot;
  std::vector<const WeightRow*> rows;

  bool is_vector() const { return rows[0]->cols == WeightDim::kOne; }
};

// The table of ModelSpec::family.
const std::vector<WeightRow>& WeightTable(const std::string& family);

// The slots that this model has, in table order.
std::vector<SlotRows> PresentSlots(const ModelSpec& spec);
// 1 for slots outside the layers.
int NumLayers(const SlotRows& slot, const ModelSpec& spec);
// Of all its parts.
int64_t NumElements(const SlotRows& slot, const ModelSpec& spec);

int64_t DimSize(WeightDim dim, const ModelSpec& spec);
bool IsPresent(WeightIf condition, const ModelSpec& spec);
// `pattern` with the layer's number in place of *.
std::string WeightName(const WeightRow& row, int layer);
inline bool IsPerLayer(WeightSlot slot) { return slot >= WeightSlot::kAttentionNorm; }

}  // namespace tessera

// The names that a model family gives its tensors in a checkpoint, as a table with a row for each
// tensor. A weight that the model fuses from several tensors has several rows of one role; a tensor
// that the family stores fused has one row. The tables and the functions are constant and pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/model/checkpoint/quantization_targets.h"
#include "kernels/model/model_spec.h"

namespace tessera {

// Which matrix or vector of the model a tensor of the checkpoint belongs to. Rows of one role are
// the parts of one fused weight, in table order.
enum class WeightRole : int32_t {
  kEmbed,
  kFinalNorm,
  kLmHead,
  // All roles from here on exist once in each layer.
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
  kNumRoles,
};

// The sizes that occur in tensors' shapes.
enum class WeightDim : int32_t {
  kOne,  // number of columns of a vector, whose stored shape has only the rows
  kVocab,
  kHidden,
  kIntermediate,
  kHeadDim,
  kQuery,     // heads * head_dim
  kKeyValue,  // kv_heads * head_dim
};

// The condition under which a model has a tensor.
enum class WeightIf : int32_t {
  kAlways,
  kUntied,
  kQkvBias,
  kOutBias,
  kMlpBias,
  kQkNorm,
  kPostNorms,
  kNoPostNorms,
};

struct WeightRow {
  WeightRole role;
  const char* pattern;  // Hugging Face's name; * stands for the layer's number
  WeightDim rows;
  WeightDim cols;
  WeightIf present = WeightIf::kAlways;
};

// A matrix or vector of the model, with the table's rows that are its parts.
struct FusedWeight {
  WeightRole role;
  std::vector<const WeightRow*> rows;

  bool is_vector() const { return rows[0]->cols == WeightDim::kOne; }
};

// The table of all families, which use the same names.
const std::vector<WeightRow>& WeightTable();

// The weights that this model has, in table order.
std::vector<FusedWeight> PresentWeights(const ModelSpec& spec);
// Number of layers that have the weight; 1 for a weight outside the layers.
int NumLayers(const FusedWeight& weight, const ModelSpec& spec);
// Number of elements of one layer's weight, over all its parts.
int64_t NumElements(const FusedWeight& weight, const ModelSpec& spec);

// The modules that have a matrix in a model of so many layers. The output table is among them even
// if the model has none of its own.
std::vector<ModuleName> MatrixModules(int num_layers);

int64_t DimSize(WeightDim dim, const ModelSpec& spec);
bool IsPresent(WeightIf condition, const ModelSpec& spec);
// `pattern` with the layer's number in place of *.
std::string WeightName(const WeightRow& row, int layer);
inline bool IsPerLayer(WeightRole role) { return role >= WeightRole::kAttentionNorm; }

}  // namespace tessera

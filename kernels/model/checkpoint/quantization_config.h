// The `quantization_config` of config.json, which tells how another program quantised a checkpoint.
// GPTQ, AWQ and compressed-tensors are supported, each in the layout of its own library
// (stored_matrix.h). The tensors of a GPTQ or AWQ checkpoint show which modules are quantised, and
// the configuration gives the meaning of their numbers. The configuration of compressed-tensors
// names the modules of each of its groups (quantization_targets.h), and the tensors must agree.
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace tessera {

class JsonFile;
struct ModuleName;

enum class QuantMethod : int32_t { kNone = 0, kGptq = 1, kAwq = 2, kCompressedTensors = 3 };

// The name of the method in config.json.
const char* QuantMethodName(QuantMethod method);

// How GPTQ's checkpoint formats store zero points.
enum class GptqZeros : int32_t {
  // Format gptq_v2: zero points are stored unchanged.
  kAsTheyAre = 0,
  // Format gptq: each zero point is stored minus one. Writers encode a zero point of 0 differently.
  kMinusOne = 1,
  // Format gptq, written by GPTQModel: one was subtracted from every field of the packed word, and
  // borrows went to the next field.
  kMinusOneWord = 2
};

// The grid to which the weights of a module are quantised.
struct QuantGrid {
  int32_t bits = 4;  // 4 or 8
  // Number of inputs that share a scale, a multiple of kGroupGranule; 0: a whole row shares one.
  int32_t group_size = 0;
  // The checkpoint was quantised for int8 activations (W8A8, W4A8). If not, it was quantised for
  // activations that are not rounded further than to 16 bits (W8A16, W4A16).
  bool int8_activations = false;
  // The module was quantised with reordered inputs (desc_act, actorder), so it must store the group
  // of every input.
  bool needs_group_index = false;
};

struct QuantizationSpec {
  QuantMethod method = QuantMethod::kNone;
  GptqZeros gptq_zeros = GptqZeros::kAsTheyAre;
  // GPTQ and AWQ have one grid, for all quantised modules. compressed-tensors has one for each of
  // its config groups.
  std::vector<QuantGrid> grids;
  // Of compressed-tensors: the index in `grids` for each module that a config group quantises, and
  // -1 for each module that `ignore` names. Keys are names of modules
  // ("model.layers.0.mlp.up_proj").
  std::map<std::string, int32_t, std::less<>> grid_of;
  // Of compressed-tensors: the names of the config groups, which errors show.
  std::vector<std::string> group_names;  // [grids]
};

// Reads the configuration. `modules` are those of the model that have a matrix; `multimodal` tells
// that they lie in the language model of a multimodal model. Errors are recorded in `config` and
// name the field, its value and what to change.
QuantizationSpec ReadQuantization(const JsonFile& config, const std::vector<ModuleName>& modules,
                                  bool multimodal);

}  // namespace tessera

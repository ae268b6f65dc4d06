// The `quantization_config` of config.json, which tells how another program quantised a checkpoint.
// GPTQ, AWQ and compressed-tensors are supported, each in the layout of its own library
// (stored_matrix.h). The checkpoint's tensors show which modules are quantised; the configuration
// gives the meaning of their numbers. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera {

class JsonFile;

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

  bool operator==(const QuantGrid& other) const {
    return bits == other.bits && group_size == other.group_size &&
           int8_activations == other.int8_activations;
  }
};

struct QuantizationSpec {
  QuantMethod method = QuantMethod::kNone;
  std::vector<QuantGrid> grids;  // one grid; compressed-tensors may have several
  GptqZeros gptq_zeros = GptqZeros::kAsTheyAre;
  // The checkpoint was quantised with reordered inputs (desc_act, actorder), so each module must
  // store the group of every input.
  bool needs_group_index = false;
};

// Reads the configuration. Errors are recorded in `config` and name the field, its value and what
// to change.
QuantizationSpec ReadQuantization(const JsonFile& config);

}  // namespace tessera

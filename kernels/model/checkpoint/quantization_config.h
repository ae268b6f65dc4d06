// How a checkpoint was quantised by somebody else: the `quantization_config` of config.json. GPTQ,
// AWQ and compressed-tensors are read, each as its own library lays it out (stored_matrix.h).
// Tensors decide which modules are quantised; this says what their numbers mean. Pure functions.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera {

class JsonFile;

enum class QuantMethod : int32_t { kNone = 0, kGptq = 1, kAwq = 2, kCompressedTensors = 3 };

// As config.json spells it.
const char* QuantMethodName(QuantMethod method);

// Zero points of GPTQ's checkpoint formats.
enum class GptqZeros : int32_t {
  kAsTheyAre = 0,    // gptq_v2
  kMinusOne = 1,     // gptq: stored minus one. Writers disagree on what becomes of a zero of 0
  kMinusOneWord = 2  // gptq by GPTQModel: one was taken from each field of the word, with borrows
};

// What a quantised module may look like.
struct QuantGrid {
  int32_t bits = 4;  // 4 or 8
  int32_t group_size =
      0;  // inputs that share a scale, a multiple of kGroupGranule; 0: all of a row

  bool operator==(const QuantGrid& other) const {
    return bits == other.bits && group_size == other.group_size;
  }
};

struct QuantizationSpec {
  QuantMethod method = QuantMethod::kNone;
  std::vector<QuantGrid> grids;  // one, but for compressed-tensors
  GptqZeros gptq_zeros = GptqZeros::kAsTheyAre;
  // Quantised with its inputs reordered, so modules must say which group an input is in (desc_act,
  // actorder).
  bool needs_group_index = false;
};

// Errors stick in `config` and name the field, its value and what to do.
QuantizationSpec ReadQuantization(const JsonFile& config);

}  // namespace tessera

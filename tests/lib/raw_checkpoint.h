// The tensors of a checkpoint as bytes, to be changed and written again by tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace tessera::testing {

struct RawTensor {
  std::string dtype;  // as safetensors spells it
  std::vector<int64_t> shape;
  std::string bytes;
};
using RawTensors = std::map<std::string, RawTensor>;

// Aborts when the folder has no checkpoint.
RawTensors ReadRawTensors(const std::string& dir);

// DIR/model.safetensors. `header_padding` is the offset of the data within 16 bytes.
void WriteRawTensors(const std::string& dir, const RawTensors& tensors, size_t header_padding = 0);

}  // namespace tessera::testing

// Reads the tensors of a checkpoint as bytes, so that a test can change them and write them to a
// new checkpoint. Pure functions of the files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace tessera::testing {

struct RawTensor {
  std::string dtype;  // name of the dtype in the safetensors format
  std::vector<int64_t> shape;
  std::string bytes;
};
using RawTensors = std::map<std::string, RawTensor>;

// Reads all tensors of a folder. Aborts if the folder has no checkpoint.
RawTensors ReadRawTensors(const std::string& dir);

// Writes DIR/model.safetensors. The offset of the tensor data in the file, modulo 16, is
// header_padding.
void WriteRawTensors(const std::string& dir, const RawTensors& tensors, size_t header_padding = 0);

// Copies a model from one folder to another, which is created. The final norm of the copy
// multiplies by the largest float, so hidden states and logits overflow.
void WriteOverflowingModel(const std::string& from_dir, const std::string& dir);

}  // namespace tessera::testing

// Writes a safetensors file (the format that safetensors.h reads). Pure functions of the
// arguments; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace tessera {

// A tensor to write. The writer reads `data` and does not own it.
struct TensorToWrite {
  std::string name;
  std::string dtype_name;      // "F32", "BF16", "I32", ...
  std::vector<int64_t> shape;  // row-major
  const char* data = nullptr;
  int64_t num_bytes = 0;
};

// Writes the tensors to `path`, aligned to their types: first the tensors whose numbers have the
// most bytes, then in the order of their names. The file appears under its name when it is whole
// and on the disk. An error names the file and says what to change. REQUIRES: names differ;
// num_bytes follows from the shape and the type.
absl::Status WriteSafetensors(const std::string& path, std::vector<TensorToWrite> tensors);

}  // namespace tessera

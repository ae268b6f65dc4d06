// Quantised matrices as tensors of compressed-tensors' format pack-quantized, whose layout
// checkpoint/stored_matrix.h describes. Pure functions; the calling thread owns the data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/model/checkpoint/safetensors_writer.h"
#include "kernels/model/quantize/quantized_matrix.h"

namespace tessera {

// The tensors of one matrix: codes and zero points in 32-bit words, and scales in bf16.
class PackedTensors final {
 public:
  explicit PackedTensors(const QuantizedMatrix& matrix);

  // Describes the tensors of module "model.layers.0.mlp.up_proj". This object must outlive the
  // result.
  std::vector<TensorToWrite> Tensors(const std::string& module) const;

 private:
  int64_t rows_;
  int64_t groups_;
  int64_t words_per_row_;
  int64_t zero_words_;           // words of a group's zero points
  std::vector<uint32_t> codes_;  // [rows, words_per_row]
  std::vector<uint32_t> zeros_;  // [zero_words, groups]; empty if symmetric
  std::vector<BF16> scales_;     // [rows, groups]
  std::vector<int64_t> shape_;   // {rows, cols}
};

}  // namespace tessera

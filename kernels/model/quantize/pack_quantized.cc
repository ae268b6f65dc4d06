#include "kernels/model/quantize/pack_quantized.h"

#include <utility>

namespace tessera {
namespace {

constexpr int kWordBits = 32;

int BitsOf(const WeightFormat& format) { return format.dtype == DType::kI8 ? 8 : 4; }

template <class T>
TensorToWrite TensorOf(std::string name, const char* dtype_name, std::vector<int64_t> shape,
                       const std::vector<T>& numbers) {
  TensorToWrite tensor;
  tensor.name = std::move(name);
  tensor.dtype_name = dtype_name;
  tensor.shape = std::move(shape);
  tensor.data = reinterpret_cast<const char*>(numbers.data());
  tensor.num_bytes = static_cast<int64_t>(numbers.size() * sizeof(T));
  return tensor;
}

}  // namespace

PackedTensors::PackedTensors(const QuantizedMatrix& matrix)
    : rows_(matrix.rows), groups_(matrix.num_groups()), scales_(matrix.scales) {
  const int bits = BitsOf(matrix.format);
  const int64_t per_word = kWordBits / bits;
  words_per_row_ = CeilDiv(matrix.cols, per_word);
  zero_words_ = CeilDiv(matrix.rows, per_word);
  shape_ = {matrix.rows, matrix.cols};
  codes_.assign(static_cast<size_t>(rows_ * words_per_row_), 0);
  for (int64_t row = 0; row < rows_; ++row) {
    for (int64_t col = 0; col < matrix.cols; ++col) {
      const uint32_t code = matrix.codes[static_cast<size_t>(row * matrix.cols + col)];
      codes_[static_cast<size_t>(row * words_per_row_ + col / per_word)] |=
          code << (col % per_word * bits);
    }
  }
  if (matrix.zeros.empty()) return;
  zeros_.assign(static_cast<size_t>(zero_words_ * groups_), 0);
  for (int64_t row = 0; row < rows_; ++row) {
    for (int64_t group = 0; group < groups_; ++group) {
      const uint32_t zero = matrix.zeros[static_cast<size_t>(row * groups_ + group)];
      zeros_[static_cast<size_t>(row / per_word * groups_ + group)] |= zero
                                                                       << (row % per_word * bits);
    }
  }
}

std::vector<TensorToWrite> PackedTensors::Tensors(const std::string& module) const {
  std::vector<TensorToWrite> tensors = {
      TensorOf(module + ".weight_packed", "I32", {rows_, words_per_row_}, codes_),
      TensorOf(module + ".weight_scale", "BF16", {rows_, groups_}, scales_),
      TensorOf(module + ".weight_shape", "I64", {2}, shape_)};
  if (!zeros_.empty()) {
    tensors.push_back(
        TensorOf(module + ".weight_zero_point", "I32", {zero_words_, groups_}, zeros_));
  }
  return tensors;
}

}  // namespace tessera

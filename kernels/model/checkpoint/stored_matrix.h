// A matrix as its checkpoint stores it: floats, or the codes, scales and zero points of GPTQ, AWQ
// or compressed-tensors. Here they are found, checked against the shape that config.json makes
// them, and brought into the order of WeightView; the numbers stay what they were.
//
// Layouts, of a matrix with N outputs and K inputs; a word is an I32 of 32 / bits codes, the first
// in its lowest bits. [x, y] is row-major.
//   gptq   qweight [K / codes, N], words down the inputs; qzeros [groups, N / codes], words along
//          the outputs; scales [groups, N]; g_idx [K], the group of each input
//   awq    qweight [K, N / 8], words along the outputs, which lie in them in the order
//          0 2 4 6 1 3 5 7; qzeros [groups, N / 8] likewise; scales [groups, N]
//   compressed-tensors, pack-quantized: weight_packed [N, K / codes], words along the inputs;
//          weight_zero_point [N / codes, groups], words down the outputs, or I8 [N, groups];
//          weight_scale [N, groups]; weight_shape [2]; weight_g_idx [K]. Codes and zeros are stored
//          plus half the range, so that words are unsigned; I8 zeros are not
//   compressed-tensors, int-quantized: weight I8 [N, K]; weight_scale [N, groups];
//          weight_zero_point I8 [N, groups]
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/thread_team.h"
#include "kernels/device/tensor.h"
#include "kernels/device/weight_format.h"
#include "kernels/model/checkpoint/safetensors.h"
#include "kernels/model/model_spec.h"

namespace tessera {

enum class MatrixLayout : int32_t {
  kFloat = 0,
  kGptq = 1,
  kAwq = 2,
  kPackQuantized = 3,
  kIntQuantized = 4,
};

struct StoredMatrix {
  MatrixLayout layout = MatrixLayout::kFloat;
  int64_t rows = 0;  // N, outputs
  int64_t cols = 0;  // K, inputs
  // Quantised: the own grid, asymmetric if a zero point is not in the middle.
  WeightFormat format;
  const StoredTensor* weight = nullptr;  // null: the checkpoint has no such matrix
  const StoredTensor* scales = nullptr;
  std::vector<uint8_t> zeros;             // [rows, groups] if asymmetric, else empty
  std::vector<std::string> tensor_names;  // all that belong to it

  bool found() const { return weight != nullptr; }
  bool quantized() const { return layout != MatrixLayout::kFloat; }
  // Of what it takes in the checkpoint (zero points and group indices aside).
  int64_t num_bytes() const {
    return weight->num_bytes + (scales != nullptr ? scales->num_bytes : 0);
  }
};

// The matrix that is called `name` ("model.layers.0.mlp.up_proj.weight") where it is not quantised.
// Errors name the tensor: a wrong shape or type, parts that are missing, inputs in another order
// than their groups.
absl::StatusOr<StoredMatrix> FindMatrix(const ModelSpec& spec, const Checkpoint& checkpoint,
                                        const std::string& name, int64_t rows, int64_t cols);

// What a backend packs, with the memory it lies in where the checkpoint's own cannot be used.
struct UnpackedMatrix {
  WeightView view;
  std::unique_ptr<char[]> floats;  // floats that are not aligned in the file
  std::vector<uint8_t> codes;      // [rows, cols]
  std::vector<char> scales;        // [rows, groups]
};

// The view without its data: rows, cols and types. REQUIRES: matrix.found().
WeightView ShapeOf(const StoredMatrix& matrix);

// REQUIRES: matrix.found(); it and the checkpoint outlive the view.
UnpackedMatrix Unpack(const StoredMatrix& matrix, ThreadTeam* team);

}  // namespace tessera

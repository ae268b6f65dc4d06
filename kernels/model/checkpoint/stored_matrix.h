// A matrix as its checkpoint stores it: floats, or the codes, scales and zero points of GPTQ, AWQ
// or compressed-tensors. The functions find the matrix's tensors, check them against the shapes
// that config.json implies, and reorder them as WeightView wants them. The numbers do not change.
//
// Tensors of a quantised matrix with N outputs and K inputs, all row-major. A word is an I32 of
// C = 32 / bits codes; the first code is in the lowest bits.
//   gptq
//     qweight            [K / C, N]       a word has C consecutive inputs of one output
//     qzeros             [groups, N / C]  a word has C consecutive outputs of one group
//     scales             [groups, N]
//     g_idx              [K]              group of each input
//   awq
//     qweight            [K, N / 8]       a word has 8 consecutive outputs of one input, in the
//                                         order 0 2 4 6 1 3 5 7
//     qzeros             [groups, N / 8]  8 outputs in the same order
//     scales             [groups, N]
//   compressed-tensors, pack-quantized: codes and zero points in words are stored plus half the
//   range, so that they are unsigned; I8 zero points are stored signed
//     weight_packed      [N, K / C]       a word has C consecutive inputs of one output
//     weight_zero_point  [N / C, groups]  a word has C consecutive outputs of one group; or
//                        I8 [N, groups]
//     weight_scale       [N, groups]
//     weight_shape       [2]
//     weight_g_idx       [K]              group of each input
//   compressed-tensors, int-quantized
//     weight             I8 [N, K]
//     weight_zero_point  I8 [N, groups]
//     weight_scale       [N, groups]
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
  // Format of a quantised matrix: the checkpoint's own grid, and the activations for which it was
  // quantised. The format is asymmetric if any zero point differs from the middle code.
  WeightFormat format;
  const StoredTensor* weight = nullptr;  // null: the checkpoint has no such matrix
  const StoredTensor* scales = nullptr;
  std::vector<uint8_t> zeros;             // [rows, groups] if asymmetric, else empty
  std::vector<std::string> tensor_names;  // all tensors of the matrix

  bool found() const { return weight != nullptr; }
  bool quantized() const { return layout != MatrixLayout::kFloat; }
  // Bytes of the weight and the scales in the checkpoint, without zero points and group indices.
  int64_t num_bytes() const {
    return weight->num_bytes + (scales != nullptr ? scales->num_bytes : 0);
  }
};

// Finds the matrix whose unquantised tensor would be called `name`
// ("model.layers.0.mlp.up_proj.weight"). Wrong shapes or types, missing tensors and groups of
// reordered inputs are errors, which name the tensor.
absl::StatusOr<StoredMatrix> FindMatrix(const ModelSpec& spec, const Checkpoint& checkpoint,
                                        const std::string& name, int64_t rows, int64_t cols);

// A matrix in the order that Backend::Pack takes. The vectors hold the data that cannot be used
// where it lies in the checkpoint.
struct UnpackedMatrix {
  WeightView view;
  std::unique_ptr<char[]> floats;  // aligned copy of floats that are not aligned in the file
  std::vector<uint8_t> codes;      // [rows, cols]
  std::vector<char> scales;        // [rows, groups]
};

// The rows, columns and types of the matrix's view, without data. REQUIRES: matrix.found().
WeightView ShapeOf(const StoredMatrix& matrix);

// Reorders the matrix on the team's threads. REQUIRES: matrix.found(); the matrix and its
// checkpoint outlive the result's view.
UnpackedMatrix Unpack(const StoredMatrix& matrix, ThreadTeam* team);

}  // namespace tessera

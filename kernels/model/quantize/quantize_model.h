// Quantises the layers' matrices of a model with calibration text, layer after layer (GPTQ,
// 2210.17323, with the corrections of input_moments.h). The embedding table, the Logits weight and
// the vectors stay as they are. The codes are for bf16 activations and without a rotation, so a
// checkpoint can hold them in a format that other programs read.
//
// One step runs two copies of every calibration sequence, one with the original weights and one
// with the quantised ones. At each Linear, the inputs of both copies give the moments; the matrix
// is quantised; then the second copy continues with the quantised matrix. The calling thread is the
// rank thread of the model while the function runs.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/thread_team.h"
#include "kernels/base/types.h"
#include "kernels/device/weight_format.h"
#include "kernels/model/checkpoint/safetensors.h"
#include "kernels/model/model_spec.h"
#include "kernels/model/quantize/quantized_matrix.h"

namespace tessera {

struct QuantizeOptions {
  // kI4 or kI8. Groups of 0: the largest of 128, 64 and 32 that divides all columns.
  WeightFormat format = DType::kI4;
  // Share of the mean second moment that is added to every input's. Larger values trust the
  // calibration text less.
  double damping = 0.01;
  // Share of the correction for inputs that earlier quantised layers have changed, 0 to 1. The
  // whole correction fits the noise of few calibration tokens (bench/notes/weight_formats.md).
  double drift = 0.5;
  std::string backend;  // as in NewBackend
};

// What is known after each layer.
struct QuantizeProgress {
  int32_t num_layers_done = 0;
  int32_t num_layers = 0;
  // Squared error of the layer's linear outputs over the squared outputs, of the worst linear.
  double worst_error = 0.0;
};

// The format that QuantizeModel uses for the model, with the size of its groups. Returns
// INVALID_ARGUMENT, which names the number of columns, if the groups do not divide all matrices.
absl::StatusOr<WeightFormat> QuantizeFormatOf(const ModelSpec& spec, const WeightFormat& format);

// Calls `take` with each quantised matrix and the name of its tensor
// ("model.layers.0.mlp.up_proj.weight"), in the order of the layers, and `progress` (may be empty)
// after each layer. Returns the first error of `take`; INVALID_ARGUMENT for a checkpoint that is
// quantised already and for sequences with ids that the model does not have; RESOURCE_EXHAUSTED,
// which says what to lower, if there is not enough memory. REQUIRES: there are sequences, and none
// is empty.
absl::Status QuantizeModel(
    const ModelSpec& spec, const Checkpoint& checkpoint,
    const std::vector<std::vector<TokenId>>& sequences, const QuantizeOptions& options,
    ThreadTeam* team,
    const std::function<absl::Status(const std::string& name, const QuantizedMatrix& matrix)>& take,
    const std::function<void(const QuantizeProgress&)>& progress);

}  // namespace tessera

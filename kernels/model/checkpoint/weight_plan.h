// The formats in which a model's matrices are packed, and the memory that they need. The plan
// follows from the spec, the checkpoint and the requested type, and is made before any memory is
// allocated. The loader (weights.cc) and the memory planner own their plans. Pure functions; a plan
// is constant.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/weight_format.h"
#include "kernels/model/checkpoint/safetensors.h"
#include "kernels/model/checkpoint/weight_table.h"
#include "kernels/model/model_spec.h"

namespace tessera {

// The requested type of matrices that the checkpoint stores as floats. Matrices that the checkpoint
// has quantised keep their own format for every request.
enum class WeightDtype : int32_t {
  // bfloat16 when all matrices are stored as bfloat16; else float32, which represents float16
  // exactly.
  kAuto = 0,
  kF32 = 1,
  kBF16 = 2,  // rounded to nearest
  kI8 = 3,    // one scale for each output
  // One scale for each group of inputs. The attention's output projection, the embedding table and
  // the Logits weight are int8.
  kI4 = 4,
  kI5 = 5,
};

// The requested type of the activations that quantised matrices multiply.
enum class ActivationDtype : int32_t {
  // int8 for matrices that are quantised at load, and for those that the checkpoint has quantised
  // for int8 activations (compressed-tensors W8A8); bfloat16 for all others of the checkpoint.
  kAuto = 0,
  kBF16 = 1,
  kI8 = 2,
};

// The format of kI4 unless a WeightRequest gives another: 4.5 bits a weight. Larger groups need
// slightly less memory and are less exact; zero points need slightly more memory and are more
// exact.
inline constexpr WeightFormat kInt4Format(DType::kI4, 32);
inline constexpr WeightFormat kInt5Format(DType::kI5, 32);  // 5.5 bits a weight

inline constexpr int64_t kVectorAlign = 16;  // alignment of each norm and bias, in floats

// What a user asks of a model's matrices.
struct WeightRequest {
  WeightDtype dtype = WeightDtype::kAuto;
  ActivationDtype activations = ActivationDtype::kAuto;
  WeightFormat int4 = kInt4Format;  // format of kI4, without rotation
};

struct PackedFormat {
  WeightFormat format;
  DType group_scales = DType::kBF16;  // type of the groups' scales
};

struct WeightPlan {
  using Formats = std::array<PackedFormat, static_cast<size_t>(WeightRole::kNumRoles)>;

  DType dtype = DType::kF32;  // type of the layers' matrices: kF32, kBF16, kI8, kI5 or kI4
  // Type of the activations that they multiply: kI8 if any of them multiplies int8 activations.
  DType activations = DType::kF32;
  std::vector<Formats> layers;  // weights outside the layers are in the first element
  int64_t stored_bytes = 0;     // bytes of the checkpoint's tensors that the loader reads

  const PackedFormat& Of(WeightRole role, int layer) const {
    return layers[static_cast<size_t>(layer)][static_cast<size_t>(role)];
  }
};

// The plan of a model whose matrices are all stored as floats. `dtype` is kF32, kBF16, kI8, kI5 or
// kI4; the request's own dtype is not read. Under kI4 and kI5 some matrices are int8:
//   - The embedding table and the Logits weight (one table when they are tied). An error in them
//     reaches every logit directly, and a step reads only single rows of the embedding table.
//   - Out, the attention's output projection. Its inputs are sums of values, which no norm has
//     scaled. Where a value channel is large, Out's weights for that channel are small; they share
//     a scale with larger weights and lose most of their bits where precision matters most. Keeping
//     Out in int8 adds 3 to 6 % to the layers' bytes. On models with such channels it cuts the
//     quality loss of int4 and int5 to a half or a third (bench/notes/weight_formats.md).
WeightPlan PlanFloatWeights(const ModelSpec& spec, DType dtype, const WeightRequest& request = {});

// Clears spec->tied_embeddings if the checkpoint has an output table of its own whose bytes are not
// those of the embedding table, as transformers does, and logs a warning. Call it before the spec
// is used for anything that depends on the output table. Reads both tables if both are stored.
void UntieStoredHead(const Checkpoint& checkpoint, ModelSpec* spec);

// Plans the weights of a checkpoint. Missing tensors, wrong shapes and tensors that the model does
// not use are errors, which name the tensors.
absl::StatusOr<WeightPlan> PlanWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                       const WeightRequest& request);

// Upper bound of the packed weights' bytes on the backends that serve, including padding and the
// rounding to whole memory pages.
int64_t PlannedWeightBytes(const ModelSpec& spec, const WeightPlan& plan);

}  // namespace tessera

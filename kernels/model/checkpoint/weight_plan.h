// What the matrices of a model are packed as, and what that takes: decided before anything is
// allocated, from the spec, the checkpoint and the type that was asked for. Pure functions; a plan
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

// Of matrices that are stored as floats. Those that a checkpoint has quantised are taken as they
// are, whatever is asked for.
enum class WeightDtype : int32_t {
  kAuto = 0,  // bfloat16 when all matrices are stored so; else float32, which float16 fits exactly
  kF32 = 1,
  kBF16 = 2,  // rounded to nearest
  kI8 = 3,    // a scale per output
  kI4 = 4,    // scales per group; Out and the tables at both ends are int8
};

// What kI4 means unless WeightOptions says otherwise: 4.5 bits a weight. Larger groups are a little
// smaller and coarser, zero points a little larger and finer.
inline constexpr WeightFormat kInt4Format(DType::kI4, 32);

inline constexpr int64_t kVectorAlign = 16;  // floats; of each norm and bias

struct PackedFormat {
  WeightFormat format;
  DType group_scales = DType::kBF16;  // type that holds the scales of groups
};

struct WeightPlan {
  using Formats = std::array<PackedFormat, static_cast<size_t>(WeightRole::kNumRoles)>;

  DType dtype = DType::kF32;    // of the layers' matrices: kF32, kBF16, kI8 or kI4
  std::vector<Formats> layers;  // weights outside the layers are in the first
  int64_t stored_bytes = 0;     // of the tensors that are read

  const PackedFormat& Of(WeightRole role, int layer) const {
    return layers[static_cast<size_t>(layer)][static_cast<size_t>(role)];
  }
};

// The plan of a model whose matrices are all stored as floats. `dtype` is kF32, kBF16, kI8 or kI4.
// Under kI4 some matrices are int8:
//   - the embedding table and the Logits weight (one table when they are tied): an error there
//     reaches every logit directly, and of the table a step reads single rows;
//   - Out: its inputs are sums of values, which no norm has evened out. Where a value channel is
//     large, Out's weights for it are small, share a scale with larger ones, and lose most of their
//     bits just where they count. It adds 4 to 6 % to the layers' bytes; on models with such
//     channels int4 then costs a half to a third of what it did
//     (bench/notes/weight_formats.md).
WeightPlan PlanFloatWeights(const ModelSpec& spec, DType dtype,
                            const WeightFormat& int4 = kInt4Format);

// Checks that all tensors are there, have the right shapes, and no others are; errors name the
// tensors.
absl::StatusOr<WeightPlan> PlanWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                       WeightDtype dtype, const WeightFormat& int4 = kInt4Format);

// Bytes that the packed weights take at most on the backends that serve, with their padding and
// whole pages.
int64_t PlannedWeightBytes(const ModelSpec& spec, const WeightPlan& plan);

}  // namespace tessera

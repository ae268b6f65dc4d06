// A model's weights in the backend's own layout. LoadWeights finds the tensors of a checkpoint by
// the family's name table, checks them against the spec, fuses them (q | k | v, gate | up) and
// packs them once at start. The Model owns its weights. Constant after load; the rank thread reads
// them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "kernels/model/checkpoint/pack_cache.h"
#include "kernels/model/checkpoint/safetensors.h"
#include "kernels/model/checkpoint/weight_plan.h"
#include "kernels/model/model_spec.h"

namespace tessera {

// The weights of one layer. Vectors (norms and biases) are fp32 and lie in ModelWeights::vectors. A
// weight that the model does not have is null.
struct LayerWeights {
  const float* attention_norm = nullptr;  // [hidden]
  std::unique_ptr<PackedWeight> qkv;      // [q + 2 kv, hidden]
  const float* qkv_bias = nullptr;
  const float* q_norm = nullptr;  // [head_dim]
  const float* k_norm = nullptr;
  std::unique_ptr<PackedWeight> out;  // [hidden, q]
  const float* out_bias = nullptr;
  const float* post_attention_norm = nullptr;
  const float* mlp_norm = nullptr;
  std::unique_ptr<PackedWeight> gate_up;  // [2 intermediate, hidden]
  const float* gate_up_bias = nullptr;    // bias of gate, then bias of up
  std::unique_ptr<PackedWeight> down;     // [hidden, intermediate]
  const float* down_bias = nullptr;
  const float* post_mlp_norm = nullptr;
};

struct ModelWeights {
  DType dtype = DType::kF32;  // type of the layers' matrices
  std::unique_ptr<DeviceBuffer> vectors;
  std::unique_ptr<PackedWeight> embed;    // [vocab, hidden]
  std::unique_ptr<PackedWeight> lm_head;  // null if the model uses embed for its logits
  const float* final_norm = nullptr;
  std::vector<LayerWeights> layers;
  // Hash of all tensors that were read (content_hash.h). The formats into which the tensors were
  // packed do not count.
  std::string content_hash;

  const PackedWeight* head() const { return lm_head != nullptr ? lm_head.get() : embed.get(); }
  int64_t num_bytes() const;
};

struct WeightOptions {
  WeightRequest request;
  // The team that unpacks quantised matrices of the checkpoint; null: the calling thread unpacks
  // them. Must be the backend's own team or an idle one.
  ThreadTeam* team = nullptr;
  // Packed weights of earlier loads; null: no cache. Must outlive the load.
  PackCache* pack_cache = nullptr;
  // Called after each weight with the number of bytes that have been read and the number of bytes
  // that the load reads in total. May be empty.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
};

// Loads the weights in the formats of PlanWeights, and returns its errors. Returns
// RESOURCE_EXHAUSTED with the number of bytes when memory is short, and INVALID_ARGUMENT that names
// the file when a tensor has NaN or infinity or a file changed meanwhile. The mapped file pages of
// a matrix are dropped once the matrix is packed.
absl::StatusOr<ModelWeights> LoadWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                         Backend* backend, const WeightOptions& options);

// Reads the tensors that LoadWeights would read and returns the errors that it would return because
// of their bytes. Takes the time of reading the files and little memory.
absl::Status CheckWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                          const WeightOptions& options);

}  // namespace tessera

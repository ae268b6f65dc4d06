// A model's weights in the backend's own layout: read from a checkpoint by the family's name table,
// checked against the spec, fused (q | k | v, gate | up) and packed once at start. Constant after
// load; the rank thread reads them.
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

// Vectors (norms, biases) are fp32 and lie in ModelWeights::vectors; null where the model has none.
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
  const float* gate_up_bias = nullptr;    // gate's, then up's
  std::unique_ptr<PackedWeight> down;     // [hidden, intermediate]
  const float* down_bias = nullptr;
  const float* post_mlp_norm = nullptr;
};

struct ModelWeights {
  DType dtype = DType::kF32;  // of the layers' matrices
  std::unique_ptr<DeviceBuffer> vectors;
  std::unique_ptr<PackedWeight> embed;    // [vocab, hidden]
  std::unique_ptr<PackedWeight> lm_head;  // null: tied to embed
  const float* final_norm = nullptr;
  std::vector<LayerWeights> layers;
  // Of all tensors that were read (content_hash.h); not of what they were packed as.
  std::string content_hash;

  const PackedWeight* head() const { return lm_head != nullptr ? lm_head.get() : embed.get(); }
  int64_t num_bytes() const;
};

struct WeightOptions {
  WeightDtype dtype = WeightDtype::kAuto;
  WeightFormat int4 = kInt4Format;  // of kI4
  // Unpacks what the checkpoint has quantised; null: the calling thread does. Must be the backend's
  // own or idle.
  ThreadTeam* team = nullptr;
  // Packed weights of earlier loads; null: none. Must outlive the load.
  PackCache* pack_cache = nullptr;
  // Called after each packed weight, with bytes of the checkpoint. May be empty.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
};

// As PlanWeights plans it, with its checks. RESOURCE_EXHAUSTED, with the numbers, when memory is
// short. Mapped pages are dropped as they are packed.
absl::StatusOr<ModelWeights> LoadWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                         Backend* backend, const WeightOptions& options);

}  // namespace tessera

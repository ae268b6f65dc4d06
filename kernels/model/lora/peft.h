// Reads a LoRA adapter in PEFT's layout: adapter_config.json and adapter_model.safetensors, as on
// the Hub. Taken: any rank, rank and alpha patterns, rank-stabilised scaling, any subset of the
// layers' seven linears. What would compute something else (DoRA, modules_to_save, biases,
// fan_in_fan_out, ...) is refused by name. Everything is checked against the model; errors name the
// file and the key or tensor. Immutable after Open; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/sha256.h"
#include "kernels/model/checkpoint/safetensors.h"
#include "kernels/model/model_spec.h"
#include "kernels/step/adapter_layout.h"

namespace tessera {

inline constexpr int32_t kMaxLoraRank = 4096;

class PeftAdapter final {
 public:
  static absl::StatusOr<std::unique_ptr<PeftAdapter>> Open(const ModelSpec& spec,
                                                           const std::string& dir);

  // [layers, kNumLoraTargets]; 0: not adapted.
  const std::vector<int32_t>& ranks() const { return ranks_; }
  int32_t max_rank() const;
  // SHA-256 of the tensors as they are stored and of the ranks and scales that the configuration
  // gives them. Metadata of files does not count.
  Sha256Digest ContentHash() const;
  // Weights of one target of a layer, times `weight`. REQUIRES: its rank is not 0.
  LoraTensors Read(int layer, LoraTarget target, float weight) const;

 private:
  struct Matrices {
    const StoredTensor* a = nullptr;
    const StoredTensor* b = nullptr;
    float scale = 0.0f;
  };

  PeftAdapter() = default;
  size_t Index(int layer, LoraTarget target) const {
    return static_cast<size_t>(layer) * kNumLoraTargets + static_cast<size_t>(target);
  }
  absl::Status TakeTensors(const ModelSpec& spec, const std::string& file);
  absl::Status CheckShapes(const ModelSpec& spec, const std::string& file) const;

  std::unique_ptr<Checkpoint> checkpoint_;
  std::vector<Matrices> matrices_;  // [layers, kNumLoraTargets]
  std::vector<int32_t> ranks_;
};

// "model.layers.LAYER.self_attn.q_proj", ...: what Hugging Face calls the linear.
std::string LoraModuleName(int layer, LoraTarget target);

// One adapter of a blend.
struct WeightedAdapter {
  const PeftAdapter* adapter = nullptr;
  float weight = 1.0f;
};

// An adapter as it will lie in the pool.
struct AdapterImage {
  AdapterLayout layout;
  std::vector<char> pages;  // [num_pages, page_bytes]
};

// Places the adapters' weighted sum, exactly: their ranks lie side by side. Where they sum up to
// more than `max_rank` (0: no bound) it is the nearest of that rank (blend_svd.h), which takes
// time. RESOURCE_EXHAUSTED when a row does not fit into a page. REQUIRES: all were opened with
// `spec`; dtype is kF32, kBF16 or kI8.
absl::StatusOr<AdapterImage> BuildAdapterImage(const ModelSpec& spec,
                                               const std::vector<WeightedAdapter>& adapters,
                                               DType dtype, int64_t page_bytes,
                                               int32_t max_rank = 0);

}  // namespace tessera

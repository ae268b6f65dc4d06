// Reads a LoRA adapter in PEFT's layout: adapter_config.json and adapter_model.safetensors, as the
// Hugging Face Hub holds them. Adapters may have any rank, rank and alpha patterns, rank-stabilised
// scaling, and may change any subset of a layer's seven linears. Open refuses by name every setting
// under which the adapter computes something else (DoRA, modules_to_save, biases, fan_in_fan_out,
// ...). Open checks all tensors against the model and refuses values that are not finite; an error
// names the file and the key or tensor. The layers may be named as in a model of text alone, or as
// in a multimodal model by the older or newer versions of transformers; of an adapter of a
// multimodal model, the tensors of the other parts (vision) are left out, as those of its
// checkpoint are. Immutable after Open; any thread.
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

class PeftConfig;

class PeftAdapter final {
 public:
  // The files must lie below one of `roots` (kernels/base/foreign_file.h; empty: anywhere).
  static absl::StatusOr<std::unique_ptr<PeftAdapter>> Open(
      const ModelSpec& spec, const std::string& dir, const std::vector<std::string>& roots = {});
  // Checks the configuration and the header of the tensors as Open does, without reading the
  // tensors, and returns what ranks() would be. Logs a warning if tensors are left out.
  static absl::StatusOr<std::vector<int32_t>> ReadRanks(const ModelSpec& spec,
                                                        const std::string& dir,
                                                        const std::vector<std::string>& roots = {});

  // [layers, kNumLoraTargets]; 0: the adapter does not change this linear.
  const std::vector<int32_t>& ranks() const { return ranks_; }
  int32_t max_rank() const;
  // The number of tensors of a multimodal model's other parts. They change no text without images.
  int64_t num_left_out() const { return num_left_out_; }
  // SHA-256 of the tensors as they are stored and of the ranks and scales that the configuration
  // gives them. The metadata of the files does not count.
  Sha256Digest ContentHash() const;
  // The matrices A and B of one target of a layer; the scales are multiplied by `weight`.
  // REQUIRES: the target's rank in this layer is not 0.
  LoraTensors Read(int layer, LoraTarget target, float weight) const;

 private:
  struct Matrices {
    std::string module;  // the linear's name in the file; the configuration's patterns match it
    const StoredTensor* a = nullptr;
    const StoredTensor* b = nullptr;
    float scale = 0.0f;
  };

  PeftAdapter() = default;
  size_t Index(int layer, LoraTarget target) const {
    return static_cast<size_t>(layer) * kNumLoraTargets + static_cast<size_t>(target);
  }
  // Takes the matrices out of `tensors`, and their ranks and scales out of the configuration.
  absl::Status Take(const ModelSpec& spec, const std::string& dir, const PeftConfig& config,
                    const StoredTensors& tensors);
  absl::Status TakeTensors(const ModelSpec& spec, const std::string& file,
                           const StoredTensors& tensors);
  absl::Status CheckShapes(const ModelSpec& spec, const std::string& file) const;

  std::string bytes_;  // content of adapter_model.safetensors
  StoredTensors tensors_;
  std::vector<Matrices> matrices_;  // [layers, kNumLoraTargets]
  std::vector<int32_t> ranks_;
  int64_t num_left_out_ = 0;
};

// Hugging Face's name of the linear in a model of text alone:
// "model.layers.LAYER.self_attn.q_proj", ...
std::string LoraModuleName(int layer, LoraTarget target);

// One adapter of a blend.
struct WeightedAdapter {
  const PeftAdapter* adapter = nullptr;
  float weight = 1.0f;
};

// The bytes of an adapter as they will lie in the page pool.
struct AdapterImage {
  AdapterLayout layout;
  std::vector<char> pages;  // [num_pages, page_bytes]
};

// Plans the places of an adapter with these ranks [layers, kNumLoraTargets] in pages. Returns
// RESOURCE_EXHAUSTED when a row does not fit into a page.
absl::StatusOr<AdapterLayout> PlanImage(const ModelSpec& spec, const std::vector<int32_t>& ranks,
                                        DType dtype, int64_t page_bytes);

// Builds the image of the adapters' weighted sum. The sum is exact: the rank rows of all adapters
// are concatenated. A linear whose ranks add up to more than `max_rank` (0: no bound) gets the
// nearest matrices of rank `max_rank` instead (blend_svd.h), which are slow to compute. Errors are
// those of PlanImage and of TruncateRank. REQUIRES: all adapters were opened with
// `spec`; dtype is kF32, kBF16 or kI8. `nearest` (null: none) receives the bytes of all nearest
// matrices, which depend on the code that computes them and not on the adapters alone.
absl::StatusOr<AdapterImage> BuildAdapterImage(const ModelSpec& spec,
                                               const std::vector<WeightedAdapter>& adapters,
                                               DType dtype, int64_t page_bytes,
                                               int32_t max_rank = 0, Sha256* nearest = nullptr);

}  // namespace tessera

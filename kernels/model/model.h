// The one forward. A Model is a spec, packed weights and an arena of activations over a backend; it
// issues five backend calls a dense layer and knows nothing of prefill, decode or where KV pages
// come from. A step is run in one or several layer ranges (Begin, RunLayers..., Finish): the
// residual stream stays in the arena between ranges, so policies may act there.
//
// Owned by the runner; all calls after Create come from its rank thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/backend.h"
#include "kernels/model/checkpoint/weights.h"
#include "kernels/model/model_spec.h"
#include "kernels/step/batch.h"
#include "kernels/step/page_layout.h"
#include "kernels/step/step_result.h"

namespace tessera {

// Of the linears that adapters may change.
LoraShape LoraShapeOf(const ModelSpec& spec);

struct ModelLimits {
  int32_t max_tokens = 2048;   // rows of one step; the arena grows with it
  int32_t max_num_seqs = 256;  // slots
};

// Where a step's keys and values lie.
struct KvView {
  PoolView pool;
  const PageLayout* layout = nullptr;
};

class Model final {
 public:
  // `backend` must outlive the model. RESOURCE_EXHAUSTED when the arena does not fit.
  static absl::StatusOr<std::unique_ptr<Model>> Create(Backend* backend, ModelSpec spec,
                                                       ModelWeights weights,
                                                       const ModelLimits& limits);

  // Bytes of a model's arena.
  static int64_t ArenaBytes(const ModelSpec& spec, const ModelLimits& limits);
  // Bytes of the buffer that a step's outputs lie in: sampled rows, their log-probabilities and the
  // hidden rows of an embedding, on the device and again on the host.
  static int64_t OutputBytes(const ModelSpec& spec, const ModelLimits& limits);
  // What decides how much working memory a step takes. `weight_dtype` is that of the layers.
  static StepShape ShapeOf(const ModelSpec& spec, DType weight_dtype);

  const ModelSpec& spec() const { return spec_; }
  const ModelWeights& weights() const { return weights_; }
  const ModelLimits& limits() const { return limits_; }

  // A step: Begin; RunLayers over [0, num_layers) in ascending adjoining ranges; Finish. *result is
  // overwritten; it and `batch` must stay until Finish has returned. A batch without tokens does
  // its slot updates and page ops. REQUIRES: at most limits().max_tokens tokens, kv.layout of this
  // model.
  void Begin(const BatchView& batch, const KvView& kv, StepResult* result);
  void RunLayers(int first, int last);
  void Finish();

  // The residual stream of the step's rows, [tokens, hidden]: device memory.
  Tensor residual() const { return Activations(residual_, spec_.hidden); }

  // Logits of these rows of the last step (after Finish, before the next Begin), [rows, vocab].
  // REQUIRES: at most kLogitBlock rows.
  std::vector<float> ComputeLogits(const std::vector<int32_t>& token_rows);

 private:
  Model(Backend* backend, ModelSpec spec, ModelWeights weights, const ModelLimits& limits);

  bool AllocateArena();
  void MakeRopeTable();
  // Rows of the current step.
  Tensor Activations(float* data, int64_t cols) const;
  void RunLayer(int layer);
  // Adapters on a linear of the layer whose fused weight has these parts.
  LoraArgs Lora(int layer, std::initializer_list<LoraTarget> parts) const;
  void Attend(int layer);
  void RunMlp(int layer);
  // The first layer boundary after `first` (at most `last`) where a hidden tap wants the residual.
  int NextTapped(int first, int last) const;
  void TapHidden(int layer);
  // Makes room for the outputs of the current step and places them.
  void PlaceOutputs();
  Tensor RunLogits(const int32_t* token_rows, int64_t count);

  Backend* const backend_;
  const ModelSpec spec_;
  const LoraShape lora_shape_;
  const ModelWeights weights_;
  const StepShape shape_;
  const ModelLimits limits_;

  std::unique_ptr<DeviceBuffer> arena_;
  float* residual_ = nullptr;                  // [max_tokens, hidden]
  float* qkv_ = nullptr;                       // [max_tokens, q + 2 kv]
  float* attended_ = nullptr;                  // [max_tokens, q]
  float* gated_ = nullptr;                     // [max_tokens, intermediate]
  float* logits_ = nullptr;                    // [kLogitBlock, vocab]
  int32_t* token_rows_ = nullptr;              // [max_tokens] of the sampler rows
  std::unique_ptr<DeviceBuffer> slot_tokens_;  // [max_num_seqs], lives from step to step
  std::unique_ptr<DeviceBuffer> outputs_;      // of the current step: rows_, top_, taps_

  // Of the current step.
  BatchView batch_;
  int32_t num_tokens_ = 0;  // outlives the batch
  KvView kv_;
  StepResult* result_ = nullptr;
  int next_layer_ = 0;
  SampledRow* rows_ = nullptr;      // [sampler rows], device memory
  TokenLogprob* top_ = nullptr;     // [NumTop], likewise
  float* taps_ = nullptr;           // [num_tap_floats], likewise; null: none
  std::vector<int32_t> host_rows_;  // what token_rows_ is uploaded from
  ApplyArgs apply_;                 // ropes are made once
};

}  // namespace tessera

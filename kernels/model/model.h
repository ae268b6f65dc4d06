// A Model computes the forward pass, by the same code for all model families and backends. A Model
// has a spec, packed weights and an arena of activations on a backend, and issues five backend
// calls for each dense layer. Its code does not distinguish prefill from decode, and does not
// depend on where KV pages come from. A step runs in one or several layer ranges (Begin,
// RunLayers..., Finish). Between two ranges the residual stream stays in the arena, where a policy
// may read or change it.
//
// The runner owns a Model; the runner's rank thread makes all calls after Create.
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

// Returns the shapes of the linears that adapters may change.
LoraShape LoraShapeOf(const ModelSpec& spec);

struct ModelLimits {
  int32_t max_tokens = 2048;   // largest number of rows of a step
  int32_t max_num_seqs = 256;  // number of slots
};

// The pages of a step's keys and values.
struct KvView {
  PoolView pool;
  const PageLayout* layout = nullptr;
};

class Model final {
 public:
  // `backend` must outlive the model. Returns RESOURCE_EXHAUSTED if there is not enough memory for
  // the arena.
  static absl::StatusOr<std::unique_ptr<Model>> Create(Backend* backend, ModelSpec spec,
                                                       ModelWeights weights,
                                                       const ModelLimits& limits);

  // The number of bytes of a model's arena.
  static int64_t ArenaBytes(const ModelSpec& spec, const ModelLimits& limits);
  // The number of bytes of the buffer of a step's outputs: sampled rows, their log-probabilities
  // and the hidden rows of an embedding. There is one such buffer on the device and one on the
  // host.
  static int64_t OutputBytes(const ModelSpec& spec, const ModelLimits& limits);
  // Returns the dimensions on which the working memory of a step depends. `weight_dtype` is the
  // type of the layers' weights.
  static StepShape ShapeOf(const ModelSpec& spec, DType weight_dtype);

  const ModelSpec& spec() const { return spec_; }
  const ModelWeights& weights() const { return weights_; }
  const ModelLimits& limits() const { return limits_; }

  // The calls of a step are Begin, then RunLayers for adjoining ascending ranges that cover [0,
  // num_layers), then Finish. The step overwrites *result; *result and the batch must exist until
  // Finish has returned. For a batch without tokens, a step executes only the slot updates and page
  // ops. REQUIRES: the batch has at most limits().max_tokens tokens; kv.layout is the layout of
  // this model.
  void Begin(const BatchView& batch, const KvView& kv, StepResult* result);
  void RunLayers(int first, int last);
  void Finish();

  // The residual stream of the step's rows, [tokens, hidden], in device memory.
  Tensor residual() const { return Activations(residual_, spec_.hidden); }

  // Returns the logits [rows, vocab] of the rows `token_rows` of the last step. REQUIRES: Finish
  // has returned, and Begin was not called since; there are at most kLogitBlock rows.
  std::vector<float> ComputeLogits(const std::vector<int32_t>& token_rows);

 private:
  Model(Backend* backend, ModelSpec spec, ModelWeights weights, const ModelLimits& limits);

  bool AllocateArena();
  void MakeRopeTable();
  // Returns `data` as a tensor with a row of `cols` floats for each token of the current step.
  Tensor Activations(float* data, int64_t cols) const;
  void RunLayer(int layer);
  // Returns the step's adapters on a linear of the layer. `parts` are the parts of the linear's
  // fused weight.
  LoraArgs Lora(int layer, std::initializer_list<LoraTarget> parts) const;
  void Attend(int layer);
  void RunMlp(int layer);
  // Returns the first layer boundary after `first`, at most `last`, at which a hidden tap copies
  // the residual stream (TapKind::kHidden).
  int NextTapped(int first, int last) const;
  void TapHidden(int layer);
  // Sets rows_, top_ and taps_ to their places in outputs_, which grows if necessary, and uploads
  // token_rows_.
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
  int32_t* token_rows_ = nullptr;              // [max_tokens] row of each sampler row
  std::unique_ptr<DeviceBuffer> slot_tokens_;  // [max_num_seqs] last token of each slot
  std::unique_ptr<DeviceBuffer> outputs_;      // memory of rows_, top_ and taps_

  // The members below belong to the current step.
  BatchView batch_;
  int32_t num_tokens_ = 0;  // valid after Finish, too, when the batch may be gone
  KvView kv_;
  StepResult* result_ = nullptr;
  int next_layer_ = 0;
  SampledRow* rows_ = nullptr;      // [sampler rows], device memory
  TokenLogprob* top_ = nullptr;     // [NumTop], device memory
  float* taps_ = nullptr;           // [num_tap_floats], device memory; null: no taps
  std::vector<int32_t> host_rows_;  // host copy of token_rows_
  ApplyArgs apply_;                 // its `ropes` are set once, by the constructor
};

}  // namespace tessera

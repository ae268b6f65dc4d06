// The arguments of a backend's ops. Tensors, weights, norms, biases and pools are in device memory;
// the batch is the batch of BeginStep. Plain data; one step uses it on the rank thread. This header
// includes neither absl nor spdlog, because CUDA sources include it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/types.h"
#include "kernels/device/device_memory.h"
#include "kernels/device/tensor.h"
#include "kernels/step/batch.h"
#include "kernels/step/page_layout.h"
#include "kernels/step/step_result.h"

namespace tessera {

inline constexpr int kAttentionBlock = 256;  // key positions per attention block
inline constexpr int kLogitBlock = 64;       // largest number of rows of one Logits call

enum class Activation : int32_t { kSilu = 0, kGeluTanh = 1 };

enum class Epilogue : int32_t {
  kStore = 0,        // out = y
  kResidualAdd = 1,  // out += y (after the post norm, if any)
  kGatedAct = 2,     // y = [gate | up] interleaved by Pack: out = act(gate) * up, N / 2 columns
};

// RMSNorm: x * rsqrt(mean(x^2) + eps) * weight. The weight is fp32 [cols]; the loader adds the 1
// that Gemma's norm adds to its weights.
struct NormArgs {
  const float* weight = nullptr;  // null: no norm
  float eps = 0.0f;
};

// The LoRA adapters of a step's segments on one linear. A row x of a segment with an adapter (fp32
// after the norm, neither rounded nor quantised) adds the product with the adapter's A and B to the
// row's output y:
//   z = scale * (A x), y += B z,   before bias, activation and post norm
// Sums are fp32, in an order that depends on the matrices alone. Rows without an adapter cost no
// time.
struct LoraArgs {
  BatchView batch;
  PoolView pool;
  int64_t page_bytes = 0;
  int32_t layer = 0;
  // The targets of the fused weight's parts, in order, and the rows of each part, which are a
  // multiple of kLoraPanel if there is more than one part.
  int32_t num_parts = 0;  // 0: no adapters
  LoraTarget targets[3] = {};
  int32_t part_rows[3] = {};
};

struct LinearArgs {
  Tensor x;  // fp32 [T, K]
  const PackedWeight* weight = nullptr;
  NormArgs pre_norm;            // norm of x's rows
  const float* bias = nullptr;  // fp32 [N], in the order of Pack's parts; or null
  Epilogue epilogue = Epilogue::kStore;
  Activation activation = Activation::kSilu;
  LoraArgs lora;
  // The weight's columns are split over the ranks of the backend's Comm, and y is summed over the
  // ranks before bias, post norm and epilogue.
  bool all_reduce = false;
  NormArgs post_norm;  // norm of y's rows, before y is stored or added (Gemma 2, 3)
  Tensor out;          // fp32 [T, N] (kGatedAct: [T, N / 2]); may not alias x
};

// Rotary embedding (RoFormer, with the half-split pairs of Hugging Face): dimension i < rotary_dim
// / 2 is rotated with dimension i + rotary_dim / 2 by the angle float(position) * inv_freq[i] in
// fp32. The angle's cos and sin are multiplied by attention_factor.
struct RopeSpec {
  int32_t rotary_dim = 0;       // 0: no rotary embedding
  std::vector<float> inv_freq;  // [rotary_dim / 2]
  float attention_factor = 1.0f;
};

struct AttentionArgs {
  BatchView batch;
  Tensor qkv;         // fp32 [T, (heads + 2 * kv_heads) * head_dim]: q, k, v; overwritten
  Tensor out;         // fp32 [T, heads * head_dim]
  int32_t layer = 0;  // layer of the model, for taps
  int32_t group = 0;  // KV group of the layer
  int32_t layer_in_group = 0;
  int32_t heads = 0;
  float scale = 0.0f;    // factor of q.k
  float softcap = 0.0f;  // 0: off; else scores = softcap * tanh(scores / softcap)
  NormArgs q_norm;       // norm of each head
  NormArgs k_norm;
  const RopeSpec* rope = nullptr;
  const GroupLayout* layout = nullptr;  // kv_heads, head_dim, window, page format
  PoolView pool;
  float* taps = nullptr;  // [StepBatch::num_tap_floats] output of the taps; null: no taps
};

// The arguments of Backend::TapHidden, which copies the rows of the residual stream that the
// batch's hidden taps (TapKind::kHidden) of `layer` select.
struct HiddenTapArgs {
  BatchView batch;
  Tensor hidden;          // fp32 [T, hidden]
  int32_t layer = 0;      // layer of the tap; num_layers: the state after the final norm
  NormArgs norm;          // the final norm if `layer` is num_layers; otherwise no norm
  float* taps = nullptr;  // [StepBatch::num_tap_floats]
};

struct LogitsArgs {
  Tensor hidden;                        // fp32 [T, hidden]: the residual stream
  const int32_t* token_rows = nullptr;  // [R] indices of rows of `hidden`; device memory
  int64_t num_rows = 0;                 // R <= kLogitBlock
  NormArgs final_norm;
  const PackedWeight* weight = nullptr;  // [vocab, hidden]
  float softcap = 0.0f;
  Tensor out;  // fp32 [R, vocab]
};

struct SampleArgs {
  BatchView batch;
  // The call samples rows [row_begin, row_begin + num_rows) of batch->sampler_rows. Row r of
  // sampler_rows has row r - row_begin of `logits`.
  int32_t row_begin = 0;
  int32_t num_rows = 0;
  Tensor logits;                   // fp32 [num_rows, vocab]; overwritten
  TokenId* slot_tokens = nullptr;  // [max_num_seqs] last sampled token of each slot
  SampledRow* rows = nullptr;      // [StepBatch::sampler_rows]; the call's rows are written
  // [NumTop(batch)] most probable tokens of all rows, in the order of rows.
  TokenLogprob* top = nullptr;
};

struct EmbedArgs {
  BatchView batch;
  const PackedWeight* table = nullptr;  // [vocab, hidden]
  float scale = 1.0f;                   // Gemma: sqrt(hidden)
  const TokenId* slot_tokens = nullptr;
  Tensor out;  // fp32 [T, hidden]
};

// The arguments of Backend::Apply, which performs the batch's slot_updates and then its page_ops.
struct ApplyArgs {
  BatchView batch;
  const PageLayout* layout = nullptr;
  PoolView pool;
  // [group][layer in group] rotary embeddings, for kRopeShift.
  std::vector<std::vector<const RopeSpec*>> ropes;
  TokenId* slot_tokens = nullptr;
};

}  // namespace tessera

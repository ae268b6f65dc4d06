// The arguments of a backend's ops. Tensors, weights, norms, biases and pools are device memory; a
// batch lies in the arena that BeginStep was given. Plain data. Free of absl and spdlog (CUDA
// sources see it).
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
inline constexpr int kLogitBlock = 64;       // rows of logits that exist at a time

enum class Activation : int32_t { kSilu = 0, kGeluTanh = 1 };

enum class Epilogue : int32_t {
  kStore = 0,        // out = y
  kResidualAdd = 1,  // out += y (after the post norm, if any)
  kGatedAct = 2,     // y = [gate | up] interleaved by Pack: out = act(gate) * up, N / 2 columns
};

// RMSNorm: x * rsqrt(mean(x^2) + eps) * weight, fp32 [cols]; Gemma's +1 is folded in at load.
struct NormArgs {
  const float* weight = nullptr;  // null: no norm
  float eps = 0.0f;
};

// The adapters of a step's segments on one linear: with A and B of the row's adapter and the normed
// row x in fp32 (never rounded or quantised),
//   z = scale * (A x), y += B z,   before bias, activation and post norm
// fp32 sums, in an order that depends on the matrices alone. Rows of segments without an adapter
// cost nothing, and nor does a step in which no segment has one.
struct LoraArgs {
  BatchView batch;
  PoolView pool;
  int64_t page_bytes = 0;
  int32_t layer = 0;
  // Of the fused weight's parts in their order: which target each is, and its rows, a multiple of
  // kLoraPanel where there is more than one.
  int32_t num_parts = 0;  // 0: no adapters
  LoraTarget targets[3] = {};
  int32_t part_rows[3] = {};
};

struct LinearArgs {
  Tensor x;  // fp32 [T, K]
  const PackedWeight* weight = nullptr;
  NormArgs pre_norm;            // over x's columns
  const float* bias = nullptr;  // fp32 [N], in the order of Pack's parts; or null
  Epilogue epilogue = Epilogue::kStore;
  Activation activation = Activation::kSilu;
  LoraArgs lora;
  // The weight's columns are shared out over the ranks of the backend's Comm: y is summed over them
  // before bias, post norm and epilogue.
  bool all_reduce = false;
  NormArgs post_norm;  // over y's columns, before it is stored or added (Gemma 2, 3)
  Tensor out;          // fp32 [T, N] (kGatedAct: [T, N / 2]); may not alias x
};

// Rotary embedding (RoFormer, half-split pairs as Hugging Face has them): dimension i < rotary_dim
// / 2 pairs with i + rotary_dim / 2; angle = float(position) * inv_freq[i] in fp32, cos and sin of
// it times attention_factor.
struct RopeSpec {
  int32_t rotary_dim = 0;       // 0: no rotary embedding
  std::vector<float> inv_freq;  // [rotary_dim / 2]
  float attention_factor = 1.0f;
};

struct AttentionArgs {
  BatchView batch;
  Tensor qkv;         // fp32 [T, (heads + 2 * kv_heads) * head_dim]: q, k, v; overwritten
  Tensor out;         // fp32 [T, heads * head_dim]
  int32_t layer = 0;  // of the model (taps)
  int32_t group = 0;  // KV group
  int32_t layer_in_group = 0;
  int32_t heads = 0;
  float scale = 0.0f;    // of the scores
  float softcap = 0.0f;  // 0: off; else scores = softcap * tanh(scores / softcap)
  NormArgs q_norm;       // per head, over head_dim
  NormArgs k_norm;
  const RopeSpec* rope = nullptr;
  const GroupLayout* layout = nullptr;  // kv_heads, head_dim, window, page format
  PoolView pool;
  float* taps = nullptr;  // [StepBatch::num_tap_floats], or null
};

// Rows of the residual stream that the batch's hidden taps of `layer` want.
struct HiddenTapArgs {
  BatchView batch;
  Tensor hidden;          // fp32 [T, hidden]
  int32_t layer = 0;      // as Tap counts layers: num_layers means after the final norm
  NormArgs norm;          // the final norm if `layer` is num_layers, else none
  float* taps = nullptr;  // [StepBatch::num_tap_floats]
};

struct LogitsArgs {
  Tensor hidden;                        // fp32 [T, hidden]: the residual stream
  const int32_t* token_rows = nullptr;  // [R] rows of hidden; device memory
  int64_t num_rows = 0;                 // R <= kLogitBlock
  NormArgs final_norm;
  const PackedWeight* weight = nullptr;  // [vocab, hidden]
  float softcap = 0.0f;
  Tensor out;  // fp32 [R, vocab]
};

struct SampleArgs {
  BatchView batch;
  int32_t row_begin = 0;  // of batch->sampler_rows; out row r belongs to logits row r - row_begin
  int32_t num_rows = 0;
  Tensor logits;                   // fp32 [num_rows, vocab]; overwritten
  TokenId* slot_tokens = nullptr;  // [max_num_seqs] last sampled token of each slot
  SampledRow* rows = nullptr;      // [StepBatch::sampler_rows]; those from row_begin on are written
  // [NumTop(batch)]: what row r wants of it follows what the rows before r want.
  TokenLogprob* top = nullptr;
};

struct EmbedArgs {
  BatchView batch;
  const PackedWeight* table = nullptr;  // [vocab, hidden]
  float scale = 1.0f;                   // Gemma: sqrt(hidden)
  const TokenId* slot_tokens = nullptr;
  Tensor out;  // fp32 [T, hidden]
};

// The batch's slot_updates and page_ops, in that order.
struct ApplyArgs {
  BatchView batch;
  const PageLayout* layout = nullptr;
  PoolView pool;
  // [group][layer in group], for kRopeShift.
  std::vector<std::vector<const RopeSpec*>> ropes;
  TokenId* slot_tokens = nullptr;
};

}  // namespace tessera

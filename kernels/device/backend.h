// The backend seam: five fused semantic ops per layer, plus what surrounds a step. Three backends
// implement it: `ref` (scalar fp32, obviously right, the judge), `cpu` (AVX2 / AVX-512 / AMX) and,
// later, `cuda`. Everything above is shared.
//
// Numbers. Activations between ops are fp32 rows. A Linear rounds its input rows (after the norm)
// to bf16 when its weight is bf16 and accumulates in fp32 over k in ascending order, in an order
// that does not depend on the number of rows; with fp32 weights nothing is rounded; with int8 and
// int4 weights rows are quantised as kernels/device/weight_format.h says. K and V are rounded to
// the pages' dtype, or quantised by row (kernels/step/page_layout.h), when appended. Attention
// computes in fp32 over fixed absolute blocks of kAttentionBlock key positions per stream (see
// KvRun); each block gives (output, log-sum-exp), merged in position order. `ref` rounds at the
// same points, so it judges bf16 tightly too.
//
// Batch invariance: on ref and cpu a row has the same bits alone, in any batch, on any threads.
//
// Threads: all calls come from one rank thread. This header is free of absl and spdlog (CUDA
// sources see it).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/types.h"
#include "kernels/device/device_memory.h"
#include "kernels/device/tensor.h"
#include "kernels/device/weight_format.h"
#include "kernels/step/batch.h"
#include "kernels/step/page_layout.h"
#include "kernels/step/step_result.h"

namespace tessera {

class ThreadTeam;

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
  float* taps = nullptr;  // StepBatch::num_tap_floats floats, or null
};

struct LogitsArgs {
  Tensor hidden;                        // fp32 [T, hidden]: the residual stream
  const int32_t* token_rows = nullptr;  // [R] rows of hidden
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
  StepResult* result = nullptr;    // rows[row_begin ...] are filled, top is appended
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

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;  // "ref", "cpu/avx2", ...

  // Zeroed memory of the device. Null when there is not enough.
  virtual std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) = 0;

  // Packs the rows of `parts` (equal cols), one below the other, into one weight of `format`: parts
  // of floats are rounded or quantised, parts that are quantised already keep their codes, scales
  // and zeros. REQUIRES: format.valid(); quantised parts have the format's dtype, its groups, and
  // zeros only if it is asymmetric. With interleave_gate REQUIRES two parts of equal rows, gate and
  // up, for Epilogue::kGatedAct. The parts may be unmapped afterwards. The same weight may serve
  // both Logits and Embed (tied embeddings). Null when memory is short.
  virtual std::unique_ptr<PackedWeight> Pack(const std::vector<WeightView>& parts,
                                             const WeightFormat& format, bool interleave_gate) = 0;

  // Pack of parts without data: `fill` brings what packed() had in this build and backend, or null.
  virtual std::unique_ptr<PackedWeight> Restore(const std::vector<WeightView>& parts,
                                                const WeightFormat& format, bool interleave_gate,
                                                const FillPacked& fill) {
    return nullptr;
  }

  // Once per step, before anything else: rope tables, work splits. `batch` must outlive the step.
  virtual void Plan(const BatchView& batch) = 0;
  virtual void Apply(const ApplyArgs& args) = 0;
  virtual void Embed(const EmbedArgs& args) = 0;
  virtual void Linear(const LinearArgs& args) = 0;
  virtual void Attention(const AttentionArgs& args) = 0;
  virtual void Logits(const LogitsArgs& args) = 0;
  virtual void Sample(const SampleArgs& args) = 0;
  // Runs `body`, which issues the ops of layers [first, last). CUDA replays it as a graph.
  virtual void RunLayers(int first, int last, const std::function<void()>& body) { body(); }
};

std::unique_ptr<Backend> NewRefBackend();

// The CPU backend for the best instruction set this machine has, or the one `isa` names ("avx2",
// "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx"; "" = best). Null when the machine lacks
// it. "amxtwin" is amx with its tile registers in plain code, slow and for tests only. `team` must
// outlive the backend.
std::unique_ptr<Backend> NewCpuBackend(const std::string& isa, ThreadTeam* team);

// Instruction sets of NewCpuBackend that this machine can run, best first.
std::vector<std::string> CpuIsas();

}  // namespace tessera

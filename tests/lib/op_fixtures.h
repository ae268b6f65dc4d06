// Random inputs for backend ops, built from a few numbers and a seed: batches with several segments
// over scattered pages, weights and activations. The same case and seed give the same bytes, so two
// backends (or two ways to cut the same work) are compared by building twice.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/device/backend.h"

namespace tessera::testing {

// Keys at other positions that a segment attends to before its own: a parallel context, a reused
// chunk.
struct StreamCase {
  int count = 0;
  int pos_begin = 0;
  int pos_delta = 0;
  float temperature = 1.0f;
  float scale = 1.0f;
};

struct SegmentCase {
  int prefix = 0;                   // tokens that are in the pages already
  int num_tokens = 1;               // query rows
  int num_runs = 1;                 // consecutive pieces its own keys are cut into
  std::vector<StreamCase> streams;  // its own keys follow at the largest position these reach
};

struct AttentionCase {
  std::string name;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 32;
  int page_tokens = 16;
  DType kv_dtype = DType::kF32;
  std::vector<int> windows = {0};  // one KV group each
  int layers_per_group = 1;
  std::vector<SegmentCase> segments;
  float softcap = 0.0f;
  bool qk_norm = false;
  int rotary_dim = -1;       // -1: head_dim
  bool trim_windows = true;  // pages wholly behind a group's window are not in its runs
};

// A batch, its pool and its activations. Not copied (views point into it).
struct BuiltBatch {
  AttentionCase attention;
  StepBatch batch;
  BatchArena arena;
  PageLayout layout;
  std::vector<uint64_t> pool_words;
  int64_t num_slabs = 0;
  RopeSpec rope;
  std::vector<float> q_norm;  // [head_dim]
  std::vector<float> k_norm;
  std::vector<float> qkv;  // [T, (heads + 2 kv_heads) * head_dim]

  BatchView view() const { return {&batch, arena.base()}; }
  int num_tokens() const { return static_cast<int>(batch.tokens.count); }
  int qkv_cols() const { return (attention.heads + 2 * attention.kv_heads) * attention.head_dim; }
  int out_cols() const { return attention.heads * attention.head_dim; }
  PoolView pool() {
    return {reinterpret_cast<char*>(pool_words.data()), layout.slab_bytes, num_slabs};
  }
  StepShape shape() const;
  // `qkv_rows` is overwritten by the op.
  AttentionArgs Args(int group, int layer_in_group, float* qkv_rows, float* out);
};

// The pool holds random rows everywhere (FillPool). Positions of a segment's own tokens start where
// its streams end, else at 0.
std::unique_ptr<BuiltBatch> BuildBatch(const AttentionCase& attention, uint64_t seed);

// Makes the first num_pages pages of a segment those of another (of one run), in group 0. REQUIRES:
// both begin at position 0.
void SharePages(BuiltBatch* built, int segment, int with_segment, int num_pages);

// Six segments of one token (one of four) and long prefixes that share pages as branches of a tree
// do: 1 has 4 blocks (kAttentionBlock) in common with 0, 2 has 3, 3 has 2, 4 has 1, 5 has none.
std::unique_ptr<BuiltBatch> BuildSharingBatch(DType kv_dtype, uint64_t seed);

// Random K and V in all pages but the null page.
void FillPool(BuiltBatch* built, uint64_t seed);

// Plan and BeginStep.
void BeginStep(Backend* backend, const BatchView& batch, const StepShape& shape);

// Makes room for the outputs of the batch's sampler rows and points `args` there.
void PlaceOutputs(const BatchView& batch, StepResult* result, SampleArgs* args);

// BeginStep and Attention on a copy of built->qkv; returns [T, heads * head_dim]. The pool takes
// the new K and V. `taps`, when given, is resized to the batch's tap floats.
std::vector<float> RunAttention(Backend* backend, BuiltBatch* built, int group = 0,
                                int layer_in_group = 0, std::vector<float>* taps = nullptr);

// Head dims 16 to 256, GQA 1 to 7, page sizes, dtypes, windows, runs, streams, softcap, qk-norm,
// partial rotary.
std::vector<AttentionCase> AttentionGrid();

// "float32", "int4_g32_asymmetric", ...
std::string FormatName(const WeightFormat& format);
// What is quantised: both widths, groups up to the whole row, with and without zero points.
std::vector<WeightFormat> QuantizedFormats();

struct LinearCase {
  int64_t rows = 1;
  int64_t n = 16;
  int64_t k = 32;
  WeightFormat format = DType::kF32;
  bool pre_norm = false;
  bool bias = false;
  bool post_norm = false;
  Epilogue epilogue = Epilogue::kStore;
  Activation activation = Activation::kSilu;

  std::string name() const;
};

// The inputs of one Linear; with kGatedAct the two parts have n / 2 rows each.
struct BuiltLinear {
  LinearCase linear;
  std::vector<float> x;       // [rows, k]
  std::vector<float> weight;  // [n, k]; representable in the dtype
  std::vector<float> bias;    // [n], in the order of the parts
  std::vector<float> pre_norm;
  std::vector<float> post_norm;
  std::vector<float> out;  // [rows, out cols]: what kResidualAdd adds to

  int64_t out_cols() const {
    return linear.epilogue == Epilogue::kGatedAct ? linear.n / 2 : linear.n;
  }
  std::unique_ptr<PackedWeight> Pack(Backend* backend) const;
};

BuiltLinear BuildLinear(const LinearCase& linear, uint64_t seed);

// Runs rows [begin, begin + count) (all by default) and returns their output.
std::vector<float> RunLinear(Backend* backend, const BuiltLinear& built, int64_t begin = 0,
                             int64_t count = -1);

std::vector<LinearCase> LinearGrid();

// Normal numbers with this standard deviation.
std::vector<float> RandomFloats(size_t count, float stddev, uint64_t seed);
void RoundToBF16(std::vector<float>* values);

// Element-wise |actual - expected| <= abs + rel * |expected|; reports the worst element.
void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected, double abs,
                 double rel, const std::string& what = "");
// Bit for bit; reports the first difference.
void ExpectSameBits(const std::vector<float>& actual, const std::vector<float>& expected,
                    const std::string& what = "");

}  // namespace tessera::testing

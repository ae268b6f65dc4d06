// Random inputs for backend ops, built from a case and a seed: batches with several segments over
// scattered pages, weights and activations. The same case and seed give the same bytes, so a test
// that compares two backends (or two divisions of the same work) builds the inputs twice. One
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/device/backend.h"

namespace tessera::testing {

// Additional keys to which a segment attends before its own keys, for example a parallel context or
// a reused chunk.
struct StreamCase {
  int count = 0;
  int pos_begin = 0;
  int pos_delta = 0;
  float temperature = 1.0f;
  float scale = 1.0f;
};

struct SegmentCase {
  int prefix = 0;      // tokens whose KV is already in the pages
  int num_tokens = 1;  // query rows
  int num_runs = 1;    // number of runs into which the segment's own keys are cut
  // The segment's own keys start at the largest position that these streams reach.
  std::vector<StreamCase> streams;
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
  int rotary_dim = -1;            // -1: head_dim
  float attention_factor = 1.0f;  // of the rotary embedding
  // If true, the runs of a windowed group omit pages that lie wholly before the window.
  bool trim_windows = true;
};

// A batch, its pool and its activations. Views point into the object and are valid while the object
// stays in place.
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
  // Returns the arguments of Attention, which overwrites `qkv_rows`.
  AttentionArgs Args(int group, int layer_in_group, float* qkv_rows, float* out);
};

// Builds a batch whose pool is filled with random rows (FillPool). The positions of a segment's own
// tokens start where its streams end, or at 0 without streams.
std::unique_ptr<BuiltBatch> BuildBatch(const AttentionCase& attention, uint64_t seed);

// Replaces the first num_pages pages of a segment by those of with_segment, in group 0. REQUIRES:
// both segments start at position 0; with_segment has one run.
void SharePages(BuiltBatch* built, int segment, int with_segment, int num_pages);

// Builds six segments with long prefixes. Five of them have one token, one has four. They share
// pages like branches of a tree: segments 1 to 4 share their first 4, 3, 2 and 1 blocks
// (kAttentionBlock) with segment 0; segment 5 shares none.
std::unique_ptr<BuiltBatch> BuildSharingBatch(DType kv_dtype, uint64_t seed);

// Writes random K and V to all pages except the null page.
void FillPool(BuiltBatch* built, uint64_t seed);

// Calls Plan and BeginStep.
void BeginStep(Backend* backend, const BatchView& batch, const StepShape& shape);

// Makes room for the outputs of the batch's sampler rows and points `args` there.
void PlaceOutputs(const BatchView& batch, StepResult* result, SampleArgs* args);

// Calls BeginStep and Attention with a copy of built->qkv and returns the output
// [T, heads * head_dim]. The new K and V are written to the pool. If `taps` is not null, it
// receives the batch's taps.
std::vector<float> RunAttention(Backend* backend, BuiltBatch* built, int group = 0,
                                int layer_in_group = 0, std::vector<float>* taps = nullptr);

// Returns cases that cover head dims 16 to 256, 1 to 7 heads per KV head, page sizes, dtypes,
// windows, runs, streams, softcap, qk-norm and partial rotary embedding.
std::vector<AttentionCase> AttentionGrid();

// Returns a name such as "float32" or "int4_g32_asymmetric".
std::string FormatName(const WeightFormat& format);
// Returns quantised formats: both widths, groups up to the whole row, with and without zero points.
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
  std::vector<float> weight;  // [n, k]; if the format is bf16, the values are bf16 values
  std::vector<float> bias;    // [n], in the order of the parts
  std::vector<float> pre_norm;
  std::vector<float> post_norm;
  std::vector<float> out;  // [rows, out_cols()] initial output, to which kResidualAdd adds

  int64_t out_cols() const {
    return linear.epilogue == Epilogue::kGatedAct ? linear.n / 2 : linear.n;
  }
  std::unique_ptr<PackedWeight> Pack(Backend* backend) const;
};

BuiltLinear BuildLinear(const LinearCase& linear, uint64_t seed);

// Runs rows [begin, begin + count) (all by default) and returns their output.
std::vector<float> RunLinear(Backend* backend, const BuiltLinear& built, int64_t begin = 0,
                             int64_t count = -1);

// Expects that the backend computes the rows of a batch, and runs of 1 to 30 of them, with the bits
// that `alone` computes for each row alone.
void ExpectRowsAsAlone(Backend* backend, Backend* alone, const LinearCase& linear, uint64_t seed);

// Returns the instruction sets and, unless there are none, the AMX kernels with emulated tile
// registers.
std::vector<std::string> WithTwin(std::vector<std::string> isas);

std::vector<LinearCase> LinearGrid();

// Returns normally distributed numbers with mean 0 and this standard deviation.
std::vector<float> RandomFloats(size_t count, float stddev, uint64_t seed);
void RoundToBF16(std::vector<float>* values);

// Expects |actual - expected| <= abs + rel * |expected| for each element. Reports the worst
// element.
void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected, double abs,
                 double rel, const std::string& what = "");
// Expects equal bits. Reports the first difference.
void ExpectSameBits(const std::vector<float>& actual, const std::vector<float>& expected,
                    const std::string& what = "");

}  // namespace tessera::testing

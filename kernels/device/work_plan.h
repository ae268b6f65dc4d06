// A WorkPlan has the sizes of the working memory that a step takes in a backend, known before the
// step runs. Backend::Plan computes the WorkPlan of a batch. PlanWork (backend.h) computes the
// WorkPlan of the largest step that an engine will build, before a backend exists, for the memory
// plan of a device. A backend reserves the memory before the step's first op, so that no op
// allocates. Plain values; any thread. This header includes neither absl nor spdlog, because CUDA
// sources include it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tessera {

// The dimensions of a model on which the working memory of its steps depends.
struct StepShape {
  // Attention in the layers of one KV group.
  struct Attention {
    int32_t heads = 0;
    int32_t kv_heads = 0;
    int32_t head_dim = 0;
    int32_t window = 0;  // tokens; 0: unlimited
  };

  int64_t hidden = 0;
  // Columns of the widest input that a linear norms, rounds or quantises.
  int64_t widest_input = 0;
  int64_t post_norm_cols = 0;      // columns of the widest output that is normed; 0: none
  std::vector<Attention> groups;   // [KV groups]
  std::vector<int32_t> rope_dims;  // rotary_dim of each RopeSpec
};

// The size of a step. Every number is an upper bound, and the sizes in a WorkPlan never decrease
// when a number grows.
struct StepBounds {
  int64_t num_tokens = 0;
  int64_t num_segments = 0;
  int64_t num_blocks = 0;    // largest number of attention blocks of a segment
  int64_t adapter_rank = 0;  // LoRA rank of an adapter on one linear, summed over fused parts
  // Whether the step has a tap (an optional output, kernels/step/batch.h) of log-sum-exps.
  bool taps_log_sum_exp = false;
  // The largest number of KV streams (kernels/step/attention_plan.h) of a segment if the step has a
  // tap of attention mass, otherwise 0.
  int64_t tapped_streams = 0;
};

// The purpose of a part of the working memory.
enum class WorkPart : int32_t {
  kRows = 0,     // rows of a linear's input, normed, rounded or quantised
  kRowValues,    // for each thread, one fp32 row that is normed and rotated before it is quantised
  kOutputs,      // rows of a linear's output before its post norm
  kRotations,    // cosines and sines, one part of this size for each rope
  kAdapterRows,  // normed fp32 rows, which adapters read
  kAdapterSums,  // the product A x of each row that has an adapter
  kPartials,     // attention partials of blocks that are merged later
  kLogSumExps,   // log-sum-exp of each row and head
  kTiles,        // queries, keys and scores of one thread, one part of this size for each thread
  kTapSums,      // log-sum-exps of one thread's tapped streams, one part for each thread
};
inline constexpr size_t kNumWorkParts = 10;

struct WorkPlan {
  std::array<int64_t, kNumWorkParts> bytes{};    // bytes of one part of each WorkPart
  std::array<int32_t, kNumWorkParts> num_parts;  // number of parts of that size

  WorkPlan() { num_parts.fill(1); }
  int64_t Bytes(WorkPart part) const { return bytes[static_cast<size_t>(part)]; }
  void Set(WorkPart part, int64_t part_bytes, int32_t count = 1) {
    bytes[static_cast<size_t>(part)] = part_bytes;
    num_parts[static_cast<size_t>(part)] = count;
  }
  // Grows this plan so that it also covers `other`.
  void Include(const WorkPlan& other) {
    for (size_t i = 0; i < kNumWorkParts; ++i) {
      bytes[i] = std::max(bytes[i], other.bytes[i]);
      num_parts[i] = std::max(num_parts[i], other.num_parts[i]);
    }
  }
  // Bytes of all parts together.
  int64_t total() const {
    int64_t sum = 0;
    for (size_t i = 0; i < kNumWorkParts; ++i) sum += bytes[i] * num_parts[i];
    return sum;
  }
};

}  // namespace tessera

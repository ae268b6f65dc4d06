// The size-only pass of a step: what the step takes of a backend's working memory, known before it
// runs. A WorkPlan is a plain value. Backend::Plan makes one for a batch; PlanWork (backend.h)
// makes one for the largest step that an engine will build, before there is a backend, so that the
// plan of memory counts it. A backend sets the memory aside before the step's first op; no op takes
// more. Free of absl and spdlog (CUDA sources see it).
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

// How large a step is, or may become. Every number is an upper bound, and Backend::Plan is
// monotonic in each of them.
struct StepBounds {
  int64_t num_tokens = 0;
  int64_t num_segments = 0;
  int64_t num_blocks = 0;    // attention blocks of the segment that sees the most
  int64_t adapter_rank = 0;  // ranks of one adapter on one linear, summed over the fused parts
  bool taps_log_sum_exp = false;
  int64_t tapped_streams = 0;  // KV streams of the segment with the most, if it taps attention mass
};

// What a part of the working memory holds.
enum class WorkPart : int32_t {
  kRows = 0,     // rows of a linear's input, normed, rounded or quantised
  kOutputs,      // rows of a linear's output before its post norm
  kRotations,    // cosines and sines, one part of this size for each rope
  kAdapterRows,  // normed rows in fp32 that adapters read
  kAdapterSums,  // A x of each row with an adapter
  kPartials,     // attention partials of blocks that are merged later
  kLogSumExps,   // log-sum-exp of each row and head
  kTiles,        // queries, keys and scores of one thread, one part of this size for each thread
  kTapSums,      // log-sum-exps of one thread's tapped streams, likewise
};
inline constexpr size_t kNumWorkParts = 9;

struct WorkPlan {
  std::array<int64_t, kNumWorkParts> bytes{};    // of one part
  std::array<int32_t, kNumWorkParts> num_parts;  // equal parts of that size

  WorkPlan() { num_parts.fill(1); }
  int64_t Bytes(WorkPart part) const { return bytes[static_cast<size_t>(part)]; }
  void Set(WorkPart part, int64_t part_bytes, int32_t count = 1) {
    bytes[static_cast<size_t>(part)] = part_bytes;
    num_parts[static_cast<size_t>(part)] = count;
  }
  // What is enough for this plan and for `other`.
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

// The key under which the layers of a step are captured as a graph (CUDA graph) and replayed. Two
// steps with equal keys issue the same ops with the same addresses. Such steps differ only in the
// contents of the batch arena and in the number of rows, which a graph pads to the number in the
// key. Plain values; any thread. This header includes neither absl nor spdlog, because CUDA sources
// include it.
#pragma once

#include <cstdint>

#include "kernels/base/types.h"
#include "kernels/step/batch.h"

namespace tessera {

// The device memory that the ops of a model's layers use. Only addresses are compared.
struct GraphMemory {
  const void* activations = nullptr;  // different for each model of a backend
  const void* pool = nullptr;
  const void* taps = nullptr;

  friend bool operator==(const GraphMemory&, const GraphMemory&) = default;
};

struct GraphKey {
  GraphMemory memory;
  int32_t first_layer = 0;
  int32_t last_layer = 0;    // exclusive
  int32_t num_tokens = 0;    // rows of the step, rounded up by GraphBucket
  int32_t num_segments = 0;  // rounded up by GraphBucket
  bool has_adapters = false;

  friend bool operator==(const GraphKey&, const GraphKey&) = default;
};

// Rounds a count up to a bucket: 1, 2, 4, 8, multiples of 8 up to 256, then multiples of 256.
// Padding therefore adds fewer than 8 rows to a decode step of at most 256 rows, and a bounded
// number of graphs covers all steps.
constexpr int32_t GraphBucket(int32_t count) {
  if (count > 256) return RoundUp(count, 256);
  if (count > 4) return RoundUp(count, 8);
  return count > 2 ? 4 : count;
}

inline GraphKey GraphKeyOf(const BatchView& view, const GraphMemory& memory, int32_t first_layer,
                           int32_t last_layer) {
  const StepBatch& batch = *view.batch;
  GraphKey key;
  key.memory = memory;
  key.first_layer = first_layer;
  key.last_layer = last_layer;
  key.num_tokens = GraphBucket(view.num_tokens());
  key.num_segments = GraphBucket(view.num_segments());
  key.has_adapters = batch.adapters.count > 0;
  return key;
}

}  // namespace tessera

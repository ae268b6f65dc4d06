// What a step takes of the cpu backend's working memory (kernels/device/work_plan.h). Pure
// functions; any thread.
#pragma once

#include <cstdint>

#include "kernels/device/work_plan.h"
#include "kernels/step/batch.h"

namespace tessera::cpu {

WorkPlan PlanWork(const StepShape& shape, const StepBounds& bounds, int num_threads);

// How large the step of this batch is.
StepBounds BoundsOf(const BatchView& batch, const StepShape& shape);

// Floats of one attention partial: its maximum, its sum and its output of head_dim numbers, padded.
int64_t PartialFloats(int32_t head_dim);

// Partials that tiles take at most because they are cut into pieces for balance.
int64_t MaxCutPartials(int32_t heads_per_kv, int64_t num_blocks, int num_threads);

// Floats of one TileWorker's memory. `rope_half` is rotary_dim / 2.
int64_t TileFloats(int32_t heads_per_kv, int32_t head_dim, int64_t rope_half);

}  // namespace tessera::cpu

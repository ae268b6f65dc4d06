// Computes the sizes of the working memory that a step takes in the cpu backend
// (kernels/device/work_plan.h). Pure functions; any thread.
#pragma once

#include <cstdint>

#include "kernels/device/work_plan.h"
#include "kernels/step/batch.h"

namespace tessera::cpu {

WorkPlan PlanWork(const StepShape& shape, const StepBounds& bounds, int num_threads);

// Returns the size of the step of this batch.
StepBounds BoundsOf(const BatchView& batch);

// The number of floats of one attention partial: maximum, sum and the padded output of head_dim
// numbers.
int64_t PartialFloats(int32_t head_dim);

// The largest number of partials that tiles take because they are cut into pieces to balance the
// load of threads.
int64_t MaxCutPartials(int32_t heads_per_kv, int32_t head_dim, int64_t num_blocks, int num_threads);

// The number of floats of one TileWorker's memory. `rope_half` is rotary_dim / 2.
int64_t TileFloats(int32_t heads_per_kv, int32_t head_dim, int64_t rope_half);

}  // namespace tessera::cpu

// Counts of slabs that the planner and the scheduler share. Pure functions; engine thread only.
#pragma once

#include <cstdint>

#include "kvstore/kv_manager.h"
#include "scheduler/plan/scheduler_options.h"

namespace tessera {

// Slabs that only running sequences may take: `outstanding_slabs`, which their prompts still need,
// and the watermark.
int64_t ReserveSlabs(const SchedulerOptions& options, const KvManager& kv,
                     int64_t outstanding_slabs);

// The number of slabs of the pages that the state holds.
int64_t HeldSlabs(const KvState& state, const PageLayout& layout);

}  // namespace tessera

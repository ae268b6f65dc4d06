// The counters, gauges and histograms of an engine, which server/metrics exports. The engine writes
// them on its thread, `refused` on any thread; any thread may read them.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "kernels/base/stats.h"
#include "scheduler/plan/scheduler_options.h"
#include "scheduler/request.h"

namespace tessera {

// Histogram bounds are the bounds of the exported metrics; times are in seconds.
struct EngineStats : SchedulerStats {
  explicit EngineStats(size_t num_models);

  struct PerModel {
    std::array<Counter, kNumFinishReasons> finished;  // finished sequences, by FinishReason
    Counter nonfinite_results;  // sequences that ended because a result was NaN or infinite
  };
  std::vector<PerModel> models;
  Counter sequences_running;
  Counter sequences_waiting;  // sequences that are queued or preempted
  Counter sequences_paused;   // sequences that gave up their slot because their reader is slow
  Counter generated_tokens;
  Counter adapter_loads;      // adapters read from disk
  Counter adapter_evictions;  // adapters that left the pool, for room or by an operator
  Counter refused;            // requests that the queue policy or the full queue refused
  Counter steps;
  // The fields of KvUsage.
  Counter slabs_total, slabs_free, slabs_cached, slabs_kv, slabs_adapter, slabs_staging;
  Gauge queue_delay_us;
  Histogram ttft_s;
  Histogram itl_s;
  Histogram queue_s;
  Histogram e2e_s;
  Histogram step_s;
  Histogram batch_tokens;
};

}  // namespace tessera

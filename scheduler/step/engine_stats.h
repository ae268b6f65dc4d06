// What an engine counts; server/metrics exports it.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "kernels/base/stats.h"
#include "scheduler/plan/scheduler_options.h"
#include "scheduler/request.h"

namespace tessera {

// Written by the engine, read by any thread. Histogram bounds are those of the exported metrics.
struct EngineStats : SchedulerStats {
  explicit EngineStats(size_t num_models);

  struct PerModel {
    std::array<Counter, kNumFinishReasons> finished;  // requests' sequences, by FinishReason
  };
  std::vector<PerModel> models;
  Counter sequences_running;
  Counter sequences_waiting;  // queued, preempted or paused
  Counter generated_tokens;
  Counter adapter_loads;      // read from disk
  Counter adapter_evictions;  // out of the pool, to make room or by an operator
  Counter refused;            // queue full
  Counter steps;
  // As KvUsage, in slabs.
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

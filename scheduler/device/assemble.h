// Puts a device together: backend, weights, page pool, KV manager, runner, and the engine options
// that fit them. What the daemon, the benchmarks and the engine tests all start from. Called once,
// from main.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/model/checkpoint/pack_cache.h"
#include "kernels/model/runner.h"
#include "kvstore/kv_manager.h"
#include "scheduler/device/memory_plan.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "scheduler/step/engine_options.h"

namespace tessera {

struct Device {
  std::unique_ptr<AdapterRegistry> adapters;  // outlives the engine
  EngineOptions engine;                       // with models and adapters
  std::unique_ptr<KvManager> kv;
  std::unique_ptr<Runner> runner;
  std::string backend_name;  // "ref", "cpu/avx512bf16", ...
  int32_t num_threads = 0;
  PackCacheStats pack_cache;
};

// Loads everything as planned.
absl::StatusOr<Device> Assemble(const AssembleOptions& options, const MemoryPlan& plan);

}  // namespace tessera

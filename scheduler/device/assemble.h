// Creates the parts of a device: backend, weights, page pool, KV manager and runner, and the engine
// options that fit them. The daemon, the benchmarks and the engine tests all start with these
// functions. PrepareDevice makes the parts that take little time, so that a check without weights
// finds their errors too; Assemble adds the weights and the pool. The caller owns the parts and
// calls the functions on one thread, at start.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/model/checkpoint/pack_cache.h"
#include "kernels/model/local_runner.h"
#include "kernels/model/runner.h"
#include "kvstore/kv_manager.h"
#include "scheduler/device/memory_plan.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "scheduler/step/engine_options.h"

namespace tessera {

struct Device {
  std::unique_ptr<AdapterRegistry> adapters;  // must outlive the engine
  EngineOptions engine;                       // the options with models and adapters set
  std::unique_ptr<KvManager> kv;
  std::unique_ptr<Runner> runner;
  std::string backend_name;  // "ref", "cpu/avx512bf16", ...
  int32_t num_threads = 0;
  PackCacheStats pack_cache;
};

// The parts of a device that need no weights.
struct DeviceParts {
  RunnerDevice runner;                        // threads, ranks and backend
  std::unique_ptr<PackCache> pack_cache;      // null: there is none
  std::unique_ptr<AdapterRegistry> adapters;  // without adapters
};

absl::StatusOr<DeviceParts> PrepareDevice(const AssembleOptions& options, const MemoryPlan& plan);

// Reads the weights of all models and the adapters of `parts` and checks the values in them, as a
// load does. Changes nothing.
absl::Status CheckFiles(const AssembleOptions& options, const MemoryPlan& plan,
                        const DeviceParts& parts);

// Loads the weights and allocates the page pool, as planned. REQUIRES: `parts` was made for the
// same options and plan.
absl::StatusOr<Device> Assemble(const AssembleOptions& options, const MemoryPlan& plan,
                                DeviceParts parts);
// The same with new parts.
absl::StatusOr<Device> Assemble(const AssembleOptions& options, const MemoryPlan& plan);

}  // namespace tessera

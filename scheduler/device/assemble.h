// Creates the parts of a device: backend, weights, page pool, KV manager and runner, and the engine
// options that fit them. The daemon, the benchmarks and the engine tests all start with these
// functions. The caller owns the parts and calls the functions on one thread, at start.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/model/checkpoint/pack_cache.h"
#include "kernels/model/checkpoint/weights.h"
#include "kernels/model/model_spec.h"
#include "kernels/model/runner.h"
#include "kvstore/kv_manager.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "scheduler/step/engine_options.h"

namespace tessera {

enum class KvDtype : int32_t {
  kAuto = 0,  // bfloat16, but float32 for models computed in float32
  kF32 = 1,
  kBF16 = 2,
  kI8 = 3,  // a scale per token and head
};

// Of adapters in the pool.
enum class AdapterDtype : int32_t {
  kAuto = 0,  // bfloat16, but float32 for models computed in float32
  kF32 = 1,
  kBF16 = 2,
  kI8 = 3,
};

struct AssembleModel {
  std::string name;
  std::string dir;  // Hugging Face layout
};

struct AssembleOptions {
  std::vector<AssembleModel> models;
  // "ref", or an instruction set of CpuIsas(); empty: the best this machine has (or
  // TESSERA_CPU_ISA's).
  std::string backend;
  int32_t num_threads = 0;  // 0: NumUsableCores()
  WeightDtype weight_dtype = WeightDtype::kAuto;
  KvDtype kv_dtype = KvDtype::kAuto;
  AdapterDtype adapter_dtype = AdapterDtype::kAuto;
  // Bytes of the page pool. 0: what max_num_seqs sequences of max_model_len need, at most a quarter
  // of the memory that is available once the weights are loaded.
  int64_t kv_cache_bytes = 0;
  // Tokens of prompt and output of one sequence; 0: the model's own context. Cut to what the pool
  // holds.
  int64_t max_model_len = 0;
  // Tokens a page holds; 0: planned for all models together (PlanPool). REQUIRES: 0 unless there is
  // one model.
  int32_t page_tokens = 0;
  PackCacheOptions pack_cache;  // without a dir: none
  EngineOptions engine;         // `models` is filled in
  // Called while weights are packed. May be empty.
  std::function<void(const std::string& model, int64_t done_bytes, int64_t total_bytes)> progress;
};

// What a device will need, before anything is allocated.
struct MemoryPlan {
  struct PerModel {
    ModelSpec spec;
    DType weight_dtype = DType::kF32;
    DType kv_dtype = DType::kF32;
    PageLayout layout;
    int64_t weight_bytes = 0;  // packed
    int64_t arena_bytes = 0;   // activations and the backend's working space
    int64_t max_model_len = 0;
  };
  std::vector<PerModel> models;
  int64_t num_slabs = 0;  // with the null page's
  int64_t slab_bytes = 0;
  int32_t max_slabs_per_page = 1;
  int64_t available_bytes = 0;  // when the plan was made

  int64_t pool_bytes() const { return num_slabs * slab_bytes; }
  int64_t total_bytes() const;
};

// Reads configs and tensor names, computes every default. Errors say what to change (a bad model,
// not enough memory).
absl::StatusOr<MemoryPlan> PlanMemory(const AssembleOptions& options);

struct Device {
  std::unique_ptr<AdapterRegistry> adapters;  // outlives the engine
  EngineOptions engine;                       // with models and adapters
  std::unique_ptr<KvManager> kv;
  std::unique_ptr<Runner> runner;
  std::string backend_name;  // "ref", "cpu/avx512bf16", ...
  int32_t num_threads = 0;
  PackCacheStats pack_cache;
};

// Loads the weights and allocates the page pool, as planned.
absl::StatusOr<Device> Assemble(const AssembleOptions& options, const MemoryPlan& plan);

}  // namespace tessera

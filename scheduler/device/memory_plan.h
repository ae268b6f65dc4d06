// What a device will need, planned before anything is allocated: page layouts, weights,
// activations, the backend's working memory and the page pool. Pure but for reading configs, tensor
// names and the memory that is available. Called at start, from main.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "kernels/device/work_plan.h"
#include "kernels/model/checkpoint/pack_cache.h"
#include "kernels/model/checkpoint/weight_plan.h"
#include "kernels/model/model.h"
#include "kernels/model/model_spec.h"
#include "kernels/step/page_layout.h"
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
  // Makes the backend that `backend` names; empty: NewBackend does. Null, and *error, when there is
  // no such backend.
  std::function<std::unique_ptr<Backend>(const std::string& name, ThreadTeam* team,
                                         std::string* error)>
      new_backend;
  // Called while weights are packed. May be empty.
  std::function<void(const std::string& model, int64_t done_bytes, int64_t total_bytes)> progress;
};

// The memory of one device.
struct MemoryPlan {
  struct PerModel {
    ModelSpec spec;
    DType weight_dtype = DType::kF32;
    DType kv_dtype = DType::kF32;
    PageLayout layout;
    int64_t weight_bytes = 0;  // packed
    int64_t arena_bytes = 0;   // activations and outputs of a step
    int64_t max_model_len = 0;
  };
  std::vector<PerModel> models;
  WorkPlan work;  // working memory of the backend, for the largest step of any model
  int32_t num_threads = 1;
  int64_t num_slabs = 0;  // with the null page's
  int64_t slab_bytes = 0;
  int32_t max_slabs_per_page = 1;
  int64_t available_bytes = 0;  // when the plan was made

  int64_t pool_bytes() const { return num_slabs * slab_bytes; }
  int64_t total_bytes() const;
};

// The limits of each model's steps.
ModelLimits LimitsOf(const AssembleOptions& options);

// Reads configs and tensor names, computes every default. Errors say what to change (a bad model,
// not enough memory).
absl::StatusOr<MemoryPlan> PlanMemory(const AssembleOptions& options);

}  // namespace tessera

// The memory plan of a device, made before anything is allocated: page layouts, weights,
// activations, the backend's working memory and the page pool. Planning has no side effects; it
// reads configs, tensor names and the size of the available memory. The caller owns the plan and
// makes it on one thread, at start.
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

// The dtype of K and V in the pool.
enum class KvDtype : int32_t {
  kAuto = 0,  // float32 for models with float32 weights, bfloat16 for all others
  kF32 = 1,
  kBF16 = 2,
  kI8 = 3,  // int8 with a scale per token and head
};

// The dtype of adapters in the pool.
enum class AdapterDtype : int32_t {
  kAuto = 0,  // float32 for models with float32 weights, bfloat16 for all others
  kF32 = 1,
  kBF16 = 2,
  kI8 = 3,
};

struct AssembleModel {
  std::string name;
  std::string dir;  // a folder in Hugging Face's layout
};

struct AssembleOptions {
  std::vector<AssembleModel> models;
  // "ref", or an instruction set of CpuIsas(). Empty: the instruction set that TESSERA_CPU_ISA
  // names, or else the best of this machine.
  std::string backend;
  int32_t num_threads = 0;  // 0: NumUsableCores()
  WeightDtype weight_dtype = WeightDtype::kAuto;
  ActivationDtype activations = ActivationDtype::kAuto;
  KvDtype kv_dtype = KvDtype::kAuto;
  AdapterDtype adapter_dtype = AdapterDtype::kAuto;
  // The bytes of the page pool. 0: the bytes that max_num_seqs sequences of max_model_len need, but
  // at most a quarter of the memory that weights and buffers leave available, and at least the
  // bytes that one sequence needs if max_model_len is given.
  int64_t kv_cache_bytes = 0;
  // The largest number of tokens of a sequence, prompt and output, for every model; a model with a
  // shorter context keeps its context. The plan fails if the pool cannot hold such a sequence. 0:
  // each model's context length, which the plan reduces to the longest sequence that the pool
  // holds.
  int64_t max_model_len = 0;
  // The number of tokens of a page. 0: PlanPool chooses it for each model. REQUIRES: 0 unless there
  // is one model.
  int32_t page_tokens = 0;
  PackCacheOptions pack_cache;  // without a dir, there is no pack cache
  EngineOptions engine;         // Assemble sets `models` and `adapters`
  // Makes the backend that `backend` names. Returns null and sets *error if this machine has no
  // such backend. Empty: NewBackend is called instead.
  std::function<std::unique_ptr<Backend>(const std::string& name, ThreadTeam* team,
                                         std::string* error)>
      new_backend;
  // Called repeatedly while weights are packed. May be empty.
  std::function<void(const std::string& model, int64_t done_bytes, int64_t total_bytes)> progress;

  WeightRequest weight_request() const { return {weight_dtype, activations, kInt4Format}; }
};

// The memory of one device.
struct MemoryPlan {
  struct PerModel {
    ModelSpec spec;
    DType weight_dtype = DType::kF32;
    DType activations = DType::kF32;
    DType kv_dtype = DType::kF32;
    PageLayout layout;
    int64_t weight_bytes = 0;  // bytes of the packed weights
    int64_t arena_bytes = 0;   // bytes of the activations and outputs of a step
    int64_t max_model_len = 0;
  };
  std::vector<PerModel> models;
  WorkPlan work;  // working memory of the backend, for the largest step of any model
  int32_t num_threads = 1;
  int64_t num_slabs = 0;  // includes the slabs of the null page
  int64_t slab_bytes = 0;
  int32_t max_slabs_per_page = 1;
  int64_t available_bytes = 0;  // available memory at the time of planning
  std::string available_bound;  // what bounds available_bytes, for messages

  int64_t pool_bytes() const { return num_slabs * slab_bytes; }
  int64_t total_bytes() const;
};

// The limits of each model's steps.
ModelLimits LimitsOf(const AssembleOptions& options);

// Reads configs and tensor names, and computes every default. The message of an error tells what to
// change (a bad model, not enough memory).
absl::StatusOr<MemoryPlan> PlanMemory(const AssembleOptions& options);

}  // namespace tessera

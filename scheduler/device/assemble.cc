#include "scheduler/device/assemble.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/model/checkpoint/content_hash.h"
#include "kernels/model/model.h"
#include "kernels/model/model_spec_key.h"
#include "kernels/model/numerics.h"

namespace tessera {
namespace {

DType AdapterDtypeOf(AdapterDtype asked, DType weight_dtype) {
  if (asked == AdapterDtype::kF32) return DType::kF32;
  if (asked == AdapterDtype::kBF16) return DType::kBF16;
  if (asked == AdapterDtype::kI8) return DType::kI8;
  return weight_dtype == DType::kF32 ? DType::kF32 : DType::kBF16;
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const AssembleOptions& options,
                                                     ThreadTeam* team, Comm* comm) {
  std::string error;
  std::unique_ptr<Backend> backend = options.new_backend
                                         ? options.new_backend(options.backend, team, &error)
                                         : NewBackend(options.backend, team, comm, &error);
  if (backend == nullptr) return absl::InvalidArgumentError(error);
  return backend;
}

// Loads the model's weights and allocates its activations, both on the runner's backend.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const AssembleOptions& options,
                                                 const AssembleModel& source, const ModelSpec& spec,
                                                 PackCache* pack_cache, RunnerDevice* runner) {
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::OpenDir(source.dir));
  WeightOptions weight_options;
  weight_options.request = options.weight_request();
  weight_options.team = runner->team.get();
  weight_options.pack_cache = pack_cache;
  if (options.progress) {
    weight_options.progress = [&options, &source](int64_t done_bytes, int64_t total_bytes) {
      options.progress(source.name, done_bytes, total_bytes);
    };
  }
  ASSIGN_OR_RETURN(ModelWeights weights,
                   LoadWeights(spec, *checkpoint, runner->backend.get(), weight_options));
  return Model::Create(runner->backend.get(), spec, std::move(weights), LimitsOf(options));
}

absl::StatusOr<ModelIdentity> IdentityOf(Backend* backend, Model* model, const PageLayout& layout) {
  ModelIdentity identity;
  identity.weights = model->weights().content_hash;
  identity.spec = HashText(ModelSpecKey(model->spec()));
  ASSIGN_OR_RETURN(identity.numerics, NumericsKey(backend, model, layout));
  return identity;
}

EngineModel MakeEngineModel(const AssembleModel& source, const MemoryPlan::PerModel& plan,
                            ModelIdentity identity) {
  EngineModel model;
  model.name = source.name;
  model.vocab_size = plan.spec.vocab_size;
  model.hidden = plan.spec.hidden;
  model.num_layers = plan.spec.num_layers;
  model.max_model_len = plan.max_model_len;
  model.layout = plan.layout;
  model.identity = std::move(identity);
  return model;
}

// Allocates the working memory of a step and the page pool.
absl::Status AllocateMemory(const MemoryPlan& plan, RunnerDevice* runner) {
  if (!runner->backend->Reserve(plan.work)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the working memory of a step, ", plan.work.total() >> 20,
                     " MiB, could not be allocated: lower --max-num-batched-tokens"));
  }
  runner->pool_memory = runner->backend->Allocate(plan.pool_bytes());
  if (runner->pool_memory == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the KV cache of ", plan.pool_bytes() >> 20,
                     " MiB could not be allocated: lower --kv-cache-bytes"));
  }
  runner->pool = {static_cast<char*>(runner->pool_memory->data()), plan.slab_bytes, plan.num_slabs};
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DeviceParts> PrepareDevice(const AssembleOptions& options, const MemoryPlan& plan) {
  DeviceParts parts;
  RunnerDevice& runner = parts.runner;
  runner.team = std::make_unique<ThreadTeam>(plan.num_threads);
  runner.comm = NewSingleRankComm();
  ASSIGN_OR_RETURN(runner.backend, MakeBackend(options, runner.team.get(), runner.comm.get()));
  if (!options.pack_cache.dir.empty()) {
    ASSIGN_OR_RETURN(parts.pack_cache, PackCache::Open(options.pack_cache));
  }
  std::vector<AdapterModel> models;
  for (size_t i = 0; i < plan.models.size(); ++i) {
    const MemoryPlan::PerModel& m = plan.models[i];
    models.push_back({options.models[i].name, m.spec, m.layout.page_bytes(),
                      AdapterDtypeOf(options.adapter_dtype, m.weight_dtype)});
  }
  parts.adapters = std::make_unique<AdapterRegistry>(std::move(models));
  return parts;
}

absl::Status CheckFiles(const AssembleOptions& options, const MemoryPlan& plan,
                        const DeviceParts& parts) {
  for (size_t i = 0; i < plan.models.size(); ++i) {
    ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::OpenDir(options.models[i].dir));
    WeightOptions weight_options;
    weight_options.request = options.weight_request();
    weight_options.team = parts.runner.team.get();
    RETURN_IF_ERROR(CheckWeights(plan.models[i].spec, *checkpoint, weight_options));
  }
  return parts.adapters->CheckValues();
}

absl::StatusOr<Device> Assemble(const AssembleOptions& options, const MemoryPlan& plan,
                                DeviceParts parts) {
  RunnerDevice& runner = parts.runner;
  Device device;
  device.num_threads = plan.num_threads;
  device.engine = options.engine;
  device.kv = NewKvManager(plan.num_slabs, plan.slab_bytes, plan.max_slabs_per_page);
  device.backend_name = runner.backend->name();
  for (size_t i = 0; i < plan.models.size(); ++i) {
    const MemoryPlan::PerModel& m = plan.models[i];
    const AssembleModel& source = options.models[i];
    RunnerModel runner_model{nullptr, m.layout};
    ASSIGN_OR_RETURN(runner_model.model,
                     LoadModel(options, source, m.spec, parts.pack_cache.get(), &runner));
    ASSIGN_OR_RETURN(ModelIdentity identity,
                     IdentityOf(runner.backend.get(), runner_model.model.get(), m.layout));
    runner.models.push_back(std::move(runner_model));
    device.engine.models.push_back(MakeEngineModel(source, m, std::move(identity)));
    device.kv->AddModel(m.layout);
  }
  if (parts.pack_cache != nullptr) device.pack_cache = parts.pack_cache->stats();
  device.adapters = std::move(parts.adapters);
  device.engine.adapters = device.adapters.get();
  RETURN_IF_ERROR(AllocateMemory(plan, &runner));
  device.runner = NewLocalRunner(std::move(runner), RunnerOptions{});
  return device;
}

absl::StatusOr<Device> Assemble(const AssembleOptions& options, const MemoryPlan& plan) {
  ASSIGN_OR_RETURN(DeviceParts parts, PrepareDevice(options, plan));
  return Assemble(options, plan, std::move(parts));
}

}  // namespace tessera

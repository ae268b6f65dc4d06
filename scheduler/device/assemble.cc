#include "scheduler/device/assemble.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/cores.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/device/footprint.h"
#include "kernels/model/checkpoint/content_hash.h"
#include "kernels/model/local_runner.h"
#include "kernels/model/memory.h"
#include "kernels/model/model.h"
#include "kernels/model/model_spec_key.h"
#include "kernels/model/numerics.h"
#include "kvstore/pool_plan.h"

namespace tessera {
namespace {

// Share of the available memory that a computed pool may take.
constexpr int64_t kPoolShare = 4;

DType KvDtypeOf(KvDtype asked, DType weight_dtype) {
  if (asked == KvDtype::kF32) return DType::kF32;
  if (asked == KvDtype::kBF16) return DType::kBF16;
  if (asked == KvDtype::kI8) return DType::kI8;
  return weight_dtype == DType::kF32 ? DType::kF32 : DType::kBF16;
}

DType AdapterDtypeOf(AdapterDtype asked, DType weight_dtype) {
  if (asked == AdapterDtype::kF32) return DType::kF32;
  if (asked == AdapterDtype::kBF16) return DType::kBF16;
  if (asked == AdapterDtype::kI8) return DType::kI8;
  return weight_dtype == DType::kF32 ? DType::kF32 : DType::kBF16;
}

// Slabs that a sequence of `num_tokens` of this model may hold, by the KV manager's own count.
int64_t SlabsFor(const MemoryPlan::PerModel& model, const MemoryPlan& plan, int64_t num_tokens,
                 int64_t step_tokens) {
  auto kv = NewKvManager(2 * plan.max_slabs_per_page, plan.slab_bytes, plan.max_slabs_per_page);
  const int32_t id = kv->AddModel(model.layout);
  return kv->SlabsFor(id, num_tokens, step_tokens);
}

// The longest sequence, up to `wanted`, that a pool of `num_slabs` holds.
int64_t LongestThatFits(const MemoryPlan::PerModel& model, const MemoryPlan& plan,
                        int64_t num_slabs, int64_t wanted, int64_t step_tokens) {
  if (SlabsFor(model, plan, wanted, step_tokens) <= num_slabs) return wanted;
  int64_t low = 0;
  int64_t high = wanted;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (SlabsFor(model, plan, middle, step_tokens) <= num_slabs ? low : high) = middle;
  }
  return low;
}

// A step's embeddings lie in one array of floats, whose positions are 32 bits wide
// (Tap::out_begin).
absl::Status CheckStepTokens(const AssembleModel& model, int64_t hidden, int64_t step_tokens) {
  const int64_t most = std::numeric_limits<int32_t>::max() / hidden;
  if (step_tokens <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("steps of ", step_tokens, " tokens are too large for model ", model.name, " of ",
                   hidden, " hidden dimensions: lower --max-num-batched-tokens to ", most));
}

absl::Status PlanLayouts(const AssembleOptions& options, MemoryPlan* plan) {
  std::vector<int64_t> page_bytes;
  for (const MemoryPlan::PerModel& m : plan->models) {
    page_bytes.push_back(MakePageLayout(m.spec, m.kv_dtype, 16).groups[0].page_bytes());
  }
  const PoolPlan pool = PlanPool(page_bytes);
  plan->slab_bytes = pool.slab_bytes;
  for (size_t i = 0; i < plan->models.size(); ++i) {
    MemoryPlan::PerModel& m = plan->models[i];
    const bool own_size = options.page_tokens > 0;
    m.layout =
        MakePageLayout(m.spec, m.kv_dtype, own_size ? options.page_tokens : pool.page_tokens[i]);
    if (own_size) plan->slab_bytes = RoundUp<int64_t>(m.layout.groups[0].page_bytes(), 64);
    m.layout.slabs_per_page = own_size ? 1 : pool.slabs_per_page[i];
    m.layout.slab_bytes = plan->slab_bytes;
    plan->max_slabs_per_page = std::max(plan->max_slabs_per_page, m.layout.slabs_per_page);
  }
  return absl::OkStatus();
}

absl::Status PlanPoolSize(const AssembleOptions& options, MemoryPlan* plan) {
  const int64_t step_tokens = options.engine.max_num_batched_tokens;
  int64_t fixed_bytes = 0;
  int64_t wanted_slabs = 0;
  for (const MemoryPlan::PerModel& m : plan->models) {
    fixed_bytes += m.weight_bytes + m.arena_bytes;
    const int64_t len = options.max_model_len > 0
                            ? std::min(options.max_model_len, m.spec.max_positions)
                            : m.spec.max_positions;
    wanted_slabs = std::max(wanted_slabs, SlabsFor(m, *plan, len, step_tokens));
  }
  wanted_slabs *= options.engine.max_num_seqs;
  const int64_t left = std::max<int64_t>(0, plan->available_bytes - fixed_bytes);
  int64_t pool_bytes = options.kv_cache_bytes;
  if (pool_bytes == 0) pool_bytes = std::min(wanted_slabs * plan->slab_bytes, left / kPoolShare);
  // The null page comes on top.
  plan->num_slabs = pool_bytes / plan->slab_bytes + plan->max_slabs_per_page;
  plan->num_slabs = plan->num_slabs / plan->max_slabs_per_page * plan->max_slabs_per_page;
  if (plan->total_bytes() > plan->available_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "not enough memory: weights and buffers take ", fixed_bytes >> 20, " MiB and the KV cache ",
        plan->pool_bytes() >> 20, " MiB, but only ", plan->available_bytes >> 20,
        " MiB are available; lower --kv-cache-bytes or --max-num-batched-tokens, use "
        "--dtype bfloat16, int8 or int4, or serve fewer models"));
  }
  const int64_t usable_slabs = plan->num_slabs - plan->max_slabs_per_page;
  for (size_t i = 0; i < plan->models.size(); ++i) {
    MemoryPlan::PerModel& m = plan->models[i];
    const int64_t wanted = options.max_model_len > 0
                               ? std::min(options.max_model_len, m.spec.max_positions)
                               : m.spec.max_positions;
    m.max_model_len = LongestThatFits(m, *plan, usable_slabs, wanted, step_tokens);
    if (m.max_model_len < 2) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the KV cache of ", plan->pool_bytes(), " bytes holds no sequence of model ",
          options.models[i].name, ": raise --kv-cache-bytes to at least ",
          (SlabsFor(m, *plan, 2 * m.layout.page_tokens(), step_tokens) + plan->max_slabs_per_page) *
              plan->slab_bytes));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const std::string& name, ThreadTeam* team) {
  if (name == "ref") return NewRefBackend();
  auto backend = NewCpuBackend(name, team);
  if (backend != nullptr) return backend;
  std::string known = "ref";
  for (const std::string& isa : CpuIsas()) absl::StrAppend(&known, ", ", isa);
  const char* forced = std::getenv("TESSERA_CPU_ISA");
  return absl::InvalidArgumentError(absl::StrCat("this machine has no CPU backend \"",
                                                 name.empty() && forced != nullptr ? forced : name,
                                                 "\"; it has: ", known));
}

// Weights and activations on the runner's backend.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const AssembleOptions& options,
                                                 const AssembleModel& source, const ModelSpec& spec,
                                                 PackCache* pack_cache, RunnerDevice* runner) {
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::OpenDir(source.dir));
  WeightOptions weight_options;
  weight_options.dtype = options.weight_dtype;
  weight_options.team = runner->team.get();
  weight_options.pack_cache = pack_cache;
  if (options.progress) {
    weight_options.progress = [&options, &source](int64_t done_bytes, int64_t total_bytes) {
      options.progress(source.name, done_bytes, total_bytes);
    };
  }
  ASSIGN_OR_RETURN(ModelWeights weights,
                   LoadWeights(spec, *checkpoint, runner->backend.get(), weight_options));
  const ModelLimits limits{options.engine.max_num_batched_tokens, options.engine.max_num_seqs};
  return Model::Create(runner->backend.get(), spec, std::move(weights), limits);
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

absl::Status AllocatePool(const MemoryPlan& plan, RunnerDevice* runner) {
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

int64_t MemoryPlan::total_bytes() const {
  int64_t bytes = pool_bytes();
  for (const PerModel& m : models) bytes += m.weight_bytes + m.arena_bytes;
  return bytes;
}

absl::StatusOr<MemoryPlan> PlanMemory(const AssembleOptions& options) {
  CHECK(!options.models.empty());
  MemoryPlan plan;
  plan.available_bytes = AvailableMemoryBytes();
  for (const AssembleModel& model : options.models) {
    MemoryPlan::PerModel m;
    ASSIGN_OR_RETURN(m.spec, LoadModelSpec(model.dir));
    RETURN_IF_ERROR(CheckStepTokens(model, m.spec.hidden, options.engine.max_num_batched_tokens));
    ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::OpenDir(model.dir));
    ASSIGN_OR_RETURN(const WeightPlan weights,
                     PlanWeights(m.spec, *checkpoint, options.weight_dtype));
    m.weight_dtype = weights.dtype;
    m.kv_dtype = KvDtypeOf(options.kv_dtype, m.weight_dtype);
    m.weight_bytes = PlannedWeightBytes(m.spec, weights);
    const ModelLimits limits{options.engine.max_num_batched_tokens, options.engine.max_num_seqs};
    m.arena_bytes = BufferBytes(Model::ArenaBytes(m.spec, limits)) +
                    Model::StepBytes(m.spec, limits, m.weight_dtype);
    plan.models.push_back(std::move(m));
  }
  RETURN_IF_ERROR(PlanLayouts(options, &plan));
  RETURN_IF_ERROR(PlanPoolSize(options, &plan));
  return plan;
}

absl::StatusOr<Device> Assemble(const AssembleOptions& options, const MemoryPlan& plan) {
  Device device;
  device.num_threads = options.num_threads > 0 ? options.num_threads : NumUsableCores();
  device.engine = options.engine;
  device.kv = NewKvManager(plan.num_slabs, plan.slab_bytes, plan.max_slabs_per_page);

  RunnerDevice runner;
  if (options.backend == "ref") device.num_threads = 1;
  runner.team = std::make_unique<ThreadTeam>(device.num_threads);
  ASSIGN_OR_RETURN(runner.backend, MakeBackend(options.backend, runner.team.get()));
  device.backend_name = runner.backend->name();
  std::unique_ptr<PackCache> pack_cache;
  if (!options.pack_cache.dir.empty()) {
    ASSIGN_OR_RETURN(pack_cache, PackCache::Open(options.pack_cache));
  }
  std::vector<AdapterRegistry::Model> adapter_models;
  for (size_t i = 0; i < plan.models.size(); ++i) {
    const MemoryPlan::PerModel& m = plan.models[i];
    const AssembleModel& source = options.models[i];
    RunnerModel runner_model{nullptr, m.layout};
    ASSIGN_OR_RETURN(runner_model.model,
                     LoadModel(options, source, m.spec, pack_cache.get(), &runner));
    ASSIGN_OR_RETURN(ModelIdentity identity,
                     IdentityOf(runner.backend.get(), runner_model.model.get(), m.layout));
    runner.models.push_back(std::move(runner_model));
    device.engine.models.push_back(MakeEngineModel(source, m, std::move(identity)));
    device.kv->AddModel(m.layout);
    adapter_models.push_back({source.name, m.spec, m.layout.page_bytes(),
                              AdapterDtypeOf(options.adapter_dtype, m.weight_dtype)});
  }
  if (pack_cache != nullptr) device.pack_cache = pack_cache->stats();
  device.adapters = std::make_unique<AdapterRegistry>(std::move(adapter_models));
  device.engine.adapters = device.adapters.get();
  RETURN_IF_ERROR(AllocatePool(plan, &runner));
  device.runner = NewLocalRunner(std::move(runner), RunnerOptions{});
  return device;
}

}  // namespace tessera

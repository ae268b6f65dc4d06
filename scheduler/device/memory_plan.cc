#include "scheduler/device/memory_plan.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/cores.h"
#include "kernels/base/log.h"
#include "kernels/base/memory.h"
#include "kernels/base/status.h"
#include "kernels/device/footprint.h"
#include "kvstore/kv_manager.h"
#include "kvstore/pool_plan.h"

namespace tessera {
namespace {

// A pool of computed size takes at most 1 / kPoolShare of the memory that weights and buffers
// leave.
constexpr int64_t kPoolShare = 4;

DType KvDtypeOf(KvDtype asked, DType weight_dtype) {
  if (asked == KvDtype::kF32) return DType::kF32;
  if (asked == KvDtype::kBF16) return DType::kBF16;
  if (asked == KvDtype::kI8) return DType::kI8;
  return weight_dtype == DType::kF32 ? DType::kF32 : DType::kBF16;
}

// The largest number of slabs that a sequence of `num_tokens` of the model holds, as the KV manager
// counts them.
int64_t SlabsFor(const MemoryPlan::PerModel& model, const MemoryPlan& plan, int64_t num_tokens,
                 int64_t step_tokens) {
  auto kv = NewKvManager(2 * plan.max_slabs_per_page, plan.slab_bytes, plan.max_slabs_per_page);
  const int32_t id = kv->AddModel(model.layout);
  return kv->SlabsFor(id, num_tokens, step_tokens);
}

// The length of the longest sequence, at most `wanted`, that a pool of `num_slabs` holds.
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

// The smallest pool, in bytes, that holds a sequence of `num_tokens` of the model.
int64_t PoolBytesFor(const MemoryPlan::PerModel& model, const MemoryPlan& plan, int64_t num_tokens,
                     int64_t step_tokens) {
  return RoundUp<int64_t>(SlabsFor(model, plan, num_tokens, step_tokens), plan.max_slabs_per_page) *
         plan.slab_bytes;
}

// The hidden states that a step returns for embeddings are in one array of floats, whose indices
// have 32 bits (Tap::out_begin). This limits the tokens of a step.
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

// The LoRA rank of one adapter on one linear for which the working memory is planned. A step that
// has an adapter of a larger rank allocates more memory when the step starts.
constexpr int64_t kPlannedAdapterRank = 192;

// The length in tokens of the longest sequence that the model, the options and the pool allow.
// While the pool is not planned yet, only the model and the options limit the length.
int64_t LongestSequence(const AssembleOptions& options, const MemoryPlan::PerModel& model) {
  int64_t longest = model.spec.max_positions;
  if (options.max_model_len > 0) longest = std::min(longest, options.max_model_len);
  return model.max_model_len > 0 ? std::min(longest, model.max_model_len) : longest;
}

void PlanWorkingMemory(const AssembleOptions& options, MemoryPlan* plan) {
  plan->work = {};
  for (const MemoryPlan::PerModel& m : plan->models) {
    StepBounds bounds;
    bounds.num_tokens = options.engine.max_num_batched_tokens;
    bounds.num_segments = options.engine.max_num_seqs;
    bounds.num_blocks = CeilDiv<int64_t>(LongestSequence(options, m), kAttentionBlock);
    bounds.adapter_rank = kPlannedAdapterRank;
    plan->work.Include(PlanWork(options.backend, Model::ShapeOf(m.spec, m.weight_dtype), bounds,
                                plan->num_threads));
  }
}

// Checks that a given max_model_len is within the longest context of the models.
absl::Status CheckMaxModelLen(const AssembleOptions& options, const MemoryPlan& plan) {
  const auto longest = std::max_element(
      plan.models.begin(), plan.models.end(),
      [](const auto& a, const auto& b) { return a.spec.max_positions < b.spec.max_positions; });
  const int64_t context = longest->spec.max_positions;
  if (options.max_model_len <= context) return absl::OkStatus();
  const auto index = static_cast<size_t>(longest - plan.models.begin());
  return absl::InvalidArgumentError(absl::StrCat(
      "--max-model-len is ", options.max_model_len, ", but the context of model ",
      options.models[index].name, " is ", context,
      " tokens (max_position_embeddings in config.json): lower --max-model-len to at most ",
      context));
}

// Sets the size of the pool. A computed size holds a sequence of a given max_model_len.
absl::Status PlanPoolSize(const AssembleOptions& options, MemoryPlan* plan) {
  const int64_t step_tokens = options.engine.max_num_batched_tokens;
  int64_t fixed_bytes = plan->work.total();
  int64_t longest_bytes = 0;  // of a pool that holds one sequence of any model
  for (const MemoryPlan::PerModel& m : plan->models) {
    fixed_bytes += m.weight_bytes + m.arena_bytes;
    longest_bytes =
        std::max(longest_bytes, PoolBytesFor(m, *plan, LongestSequence(options, m), step_tokens));
  }
  const int64_t left = std::max<int64_t>(0, plan->available_bytes - fixed_bytes);
  int64_t pool_bytes = options.kv_cache_bytes;
  if (pool_bytes == 0) {
    pool_bytes = std::min(longest_bytes * options.engine.max_num_seqs, left / kPoolShare);
    if (options.max_model_len > 0) pool_bytes = std::max(pool_bytes, longest_bytes);
  }
  // The pool has the slabs of the null page in addition.
  plan->num_slabs = pool_bytes / plan->slab_bytes + plan->max_slabs_per_page;
  plan->num_slabs = plan->num_slabs / plan->max_slabs_per_page * plan->max_slabs_per_page;
  if (plan->total_bytes() <= plan->available_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "not enough memory: weights and buffers take ", fixed_bytes >> 20, " MiB and the KV cache ",
      plan->pool_bytes() >> 20, " MiB, but only ", plan->available_bytes >> 20,
      " MiB are available (", plan->available_bound,
      "); lower --kv-cache-bytes, --max-model-len or --max-num-batched-tokens, use --dtype "
      "bfloat16, int8, int5 or int4, or serve fewer models"));
}

// Sets each model's longest sequence: a given max_model_len, or what the pool holds.
absl::Status PlanLengths(const AssembleOptions& options, MemoryPlan* plan) {
  const int64_t step_tokens = options.engine.max_num_batched_tokens;
  const int64_t usable_slabs = plan->num_slabs - plan->max_slabs_per_page;
  for (size_t i = 0; i < plan->models.size(); ++i) {
    MemoryPlan::PerModel& m = plan->models[i];
    const std::string& name = options.models[i].name;
    const int64_t wanted = LongestSequence(options, m);
    m.max_model_len = LongestThatFits(m, *plan, usable_slabs, wanted, step_tokens);
    if (m.max_model_len < 2) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the KV cache of ", plan->pool_bytes(), " bytes holds no sequence of model ",
                       name, ": raise --kv-cache-bytes to at least ",
                       PoolBytesFor(m, *plan, 2 * m.layout.page_tokens(), step_tokens)));
    }
    if (options.max_model_len > 0 && m.max_model_len < wanted) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "a sequence of ", wanted, " tokens of model ", name, " needs a KV cache of ",
          PoolBytesFor(m, *plan, wanted, step_tokens), " bytes, but --kv-cache-bytes ",
          options.kv_cache_bytes, " holds ", m.max_model_len,
          " tokens: raise --kv-cache-bytes, or lower --max-model-len to ", m.max_model_len));
    }
  }
  return absl::OkStatus();
}

}  // namespace

int64_t MemoryPlan::total_bytes() const {
  int64_t bytes = pool_bytes() + work.total();
  for (const PerModel& m : models) bytes += m.weight_bytes + m.arena_bytes;
  return bytes;
}

ModelLimits LimitsOf(const AssembleOptions& options) {
  return {options.engine.max_num_batched_tokens, options.engine.max_num_seqs};
}

absl::StatusOr<MemoryPlan> PlanMemory(const AssembleOptions& options) {
  CHECK(!options.models.empty());
  MemoryPlan plan;
  plan.num_threads = options.num_threads > 0 ? options.num_threads : NumUsableCores();
  if (options.backend == "ref") plan.num_threads = 1;
  AvailableMemory available = FindAvailableMemory();
  plan.available_bytes = available.bytes;
  plan.available_bound = std::move(available.bound);
  for (const AssembleModel& model : options.models) {
    MemoryPlan::PerModel m;
    ASSIGN_OR_RETURN(m.spec, LoadModelSpec(model.dir));
    RETURN_IF_ERROR(CheckStepTokens(model, m.spec.hidden, options.engine.max_num_batched_tokens));
    ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::OpenDir(model.dir));
    if (checkpoint->num_left_out() > 0) {
      TLOG_WARN(
          "{}: {} tensors of other parts than the language model (vision, for example) are "
          "left out; requests can have text only",
          model.dir, checkpoint->num_left_out());
    }
    UntieStoredHead(*checkpoint, &m.spec);
    ASSIGN_OR_RETURN(const WeightPlan weights,
                     PlanWeights(m.spec, *checkpoint, options.weight_request()));
    m.weight_dtype = weights.dtype;
    m.activations = weights.activations;
    m.kv_dtype = KvDtypeOf(options.kv_dtype, m.weight_dtype);
    m.weight_bytes = PlannedWeightBytes(m.spec, weights);
    const ModelLimits limits = LimitsOf(options);
    // Outputs are on the device and, after the step, in a copy on the host.
    m.arena_bytes = BufferBytes(Model::ArenaBytes(m.spec, limits)) +
                    2 * BufferBytes(Model::OutputBytes(m.spec, limits));
    plan.models.push_back(std::move(m));
  }
  RETURN_IF_ERROR(CheckMaxModelLen(options, plan));
  RETURN_IF_ERROR(PlanLayouts(options, &plan));
  PlanWorkingMemory(options, &plan);
  RETURN_IF_ERROR(PlanPoolSize(options, &plan));
  RETURN_IF_ERROR(PlanLengths(options, &plan));
  PlanWorkingMemory(options, &plan);  // again, for the longest sequences that the pool holds
  return plan;
}

}  // namespace tessera

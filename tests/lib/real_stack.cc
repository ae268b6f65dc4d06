#include "tests/lib/real_stack.h"

#include <cstring>

#include "kernels/base/log.h"
#include "kernels/model/local_runner.h"
#include "kernels/model/weights.h"

namespace tessera::testing {
namespace {

class ResultSink final : public TokenSink {
 public:
  ResultSink(std::vector<std::map<int32_t, Generated>>* results, int request)
      : results_(results), request_(request) {}
  void Push(TokenEvent event) override {
    Generated& out = (*results_)[request_][event.index];
    switch (event.kind) {
      case TokenEvent::Kind::kPromptLogprobs:
        out.prompt_logprobs = std::move(event.tokens);
        break;
      case TokenEvent::Kind::kToken:
        for (OutputToken& token : event.tokens) out.tokens.push_back(std::move(token));
        break;
      case TokenEvent::Kind::kEmbedding:
        out.embedding = std::move(event.embedding);
        break;
      case TokenEvent::Kind::kFinished:
        ++out.num_finished;
        out.reason = event.reason;
        out.usage = event.usage;
        break;
    }
  }

 private:
  std::vector<std::map<int32_t, Generated>>* const results_;
  const int request_;
};

bool SameFloat(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

bool SameTokens(const std::vector<OutputToken>& a, const std::vector<OutputToken>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].token != b[i].token || !SameFloat(a[i].logprob, b[i].logprob)) return false;
    if (a[i].top.size() != b[i].top.size()) return false;
    for (size_t t = 0; t < a[i].top.size(); ++t) {
      if (a[i].top[t].token != b[i].top[t].token) return false;
      if (!SameFloat(a[i].top[t].logprob, b[i].top[t].logprob)) return false;
    }
  }
  return true;
}

}  // namespace

bool SameResults(const Generated& a, const Generated& b) {
  if (a.num_finished != b.num_finished || a.reason != b.reason) return false;
  if (a.embedding.size() != b.embedding.size()) return false;
  for (size_t i = 0; i < a.embedding.size(); ++i) {
    if (!SameFloat(a.embedding[i], b.embedding[i])) return false;
  }
  return SameTokens(a.tokens, b.tokens) && SameTokens(a.prompt_logprobs, b.prompt_logprobs);
}

RealStack::RealStack(const RealStackOptions& options) {
  RunnerDevice device;
  device.team = std::make_unique<ThreadTeam>(options.num_threads);
  device.backend = options.backend == "ref" ? NewRefBackend()
                                            : NewCpuBackend(options.backend, device.team.get());
  CHECK(device.backend != nullptr) << options.backend;
  const DType kv_dtype = options.bf16 ? DType::kBF16 : DType::kF32;

  std::vector<int64_t> page_bytes;
  std::vector<ModelSpec> specs;
  for (const std::string& dir : options.model_dirs) {
    auto spec = LoadModelSpec(dir);
    CHECK(spec.ok()) << spec.status();
    page_bytes.push_back(MakePageLayout(*spec, kv_dtype, 16).groups[0].page_bytes());
    specs.push_back(*std::move(spec));
  }
  const PoolPlan plan = PlanPool(page_bytes);
  int32_t max_slabs = 1;
  for (size_t m = 0; m < specs.size(); ++m) {
    auto checkpoint = Checkpoint::OpenDir(options.model_dirs[m]);
    CHECK(checkpoint.ok()) << checkpoint.status();
    WeightOptions weight_options;
    weight_options.dtype = options.bf16 ? WeightDtype::kBF16 : WeightDtype::kF32;
    auto weights = LoadWeights(specs[m], **checkpoint, device.backend.get(), weight_options);
    CHECK(weights.ok()) << weights.status();
    const ModelLimits limits{options.engine.max_num_batched_tokens, options.engine.max_num_seqs};
    auto model = Model::Create(device.backend.get(), specs[m], *std::move(weights), limits);
    CHECK(model.ok()) << model.status();

    EngineModel engine_model;
    engine_model.name = options.model_dirs[m];
    engine_model.revision = "test";
    engine_model.vocab_size = specs[m].vocab_size;
    engine_model.hidden = specs[m].hidden;
    engine_model.num_layers = specs[m].num_layers;
    engine_model.max_model_len = specs[m].max_positions;
    // One model may try other page sizes; several follow the plan.
    const int32_t page_tokens = specs.size() == 1 ? options.page_tokens : plan.page_tokens[m];
    engine_model.layout = MakePageLayout(specs[m], kv_dtype, page_tokens);
    engine_model.layout.slabs_per_page = plan.slabs_per_page[m];
    engine_model.layout.slab_bytes =
        specs.size() == 1 ? engine_model.layout.groups[0].page_bytes() : plan.slab_bytes;
    max_slabs = std::max(max_slabs, plan.slabs_per_page[m]);
    models_.push_back(engine_model);
    device.models.push_back({*std::move(model), engine_model.layout});
  }

  const int64_t slab_bytes = models_[0].layout.slab_bytes;
  device.pool_memory = device.backend->Allocate(options.num_slabs * slab_bytes);
  CHECK(device.pool_memory != nullptr);
  device.pool = {static_cast<char*>(device.pool_memory->data()), slab_bytes, options.num_slabs};
  auto kv = NewKvManager(options.num_slabs, slab_bytes, max_slabs);
  for (const EngineModel& model : models_) kv->AddModel(model.layout);

  EngineOptions engine = options.engine;
  engine.models = models_;
  stats_ = std::make_unique<EngineStats>(models_.size());
  core_ = std::make_unique<EngineCore>(engine, std::move(kv),
                                       NewLocalRunner(std::move(device), RunnerOptions{}), &clock_,
                                       stats_.get(), nullptr);
}

RealStack::~RealStack() = default;

int RealStack::Submit(const Request& request) {
  const int number = static_cast<int>(results_.size());
  results_.emplace_back();
  auto copy = std::make_unique<Request>(request);
  copy->id = engine_id(number);
  copy->arrival_us = clock_.NowUs();
  copy->sink = std::make_shared<ResultSink>(&results_, number);
  core_->Submit(std::move(copy));
  return number;
}

void RealStack::RunAll() {
  while (core_->RunOnce()) {
  }
  core_->CheckInvariants();
}

const Generated& RealStack::Run(const Request& request) {
  const int number = Submit(request);
  RunAll();
  return result(number);
}

}  // namespace tessera::testing

#include "bench/scheduler_rig.h"

#include <utility>
#include <vector>

#include "kernels/base/log.h"
#include "kvstore/kv_manager.h"

namespace tessera::bench {
namespace {

constexpr TokenId kSampledToken = 7;
// A prompt's first token names its request, so the vocabulary is larger than any bench has
// requests.
constexpr int64_t kVocabSize = 10'000'000;
// Later than any request's age.
constexpr int64_t kStartUs = 1'000'000'000;

// Samples one token for every row, at once.
class NullRunner final : public Runner {
 public:
  NullRunner(const RigOptions& options, ManualClock* clock)
      : step_us_(options.step_us), token_us_(options.token_us), clock_(clock) {}

  void SetOnDone(std::function<void(Completion)> /*on_done*/) override {}
  void Launch(const StepBatch* batch, const BatchArena* /*arena*/, LayerRange /*layers*/,
              StepResult* result) override {
    *result = {};
    result->step_id = batch->step_id;
    result->model = batch->model;
    result->rows.resize(batch->sampler_rows.count);
    for (SampledRow& row : result->rows) row.token = kSampledToken;
    result->step_us = step_us_ + token_us_ * static_cast<int64_t>(batch->tokens.count);
    clock_->Advance(result->step_us);
  }
  Transfer* transfer() override { return nullptr; }  // no adapters
  int depth() const override { return 1; }

 private:
  const int64_t step_us_;
  const int64_t token_us_;
  ManualClock* const clock_;
};

class NullSink final : public TokenSink {
 public:
  void Push(TokenEvent /*event*/) override {}
};

EngineModel MakeModel(const std::string& name, int32_t page_tokens) {
  EngineModel model;
  model.name = name;
  model.identity.weights = name;
  model.vocab_size = kVocabSize;
  model.hidden = 4;
  model.num_layers = 1;
  model.max_model_len = kRigContextTokens;
  GroupLayout group;
  group.num_layers = 1;
  group.kv_heads = 1;
  group.head_dim = 4;
  group.page_tokens = page_tokens;
  model.layout.groups.push_back(group);
  model.layout.slab_bytes = group.page_bytes();
  return model;
}

}  // namespace

SchedulerRig::SchedulerRig(const RigOptions& options)
    : stats_(static_cast<size_t>(options.num_models)), sink_(std::make_shared<NullSink>()) {
  clock_.Advance(kStartUs);
  EngineOptions engine;
  for (int32_t m = 0; m < options.num_models; ++m) {
    engine.models.push_back(MakeModel("model" + std::to_string(m), options.page_tokens));
  }
  engine.max_num_seqs = options.max_num_seqs;
  engine.max_num_batched_tokens = options.max_num_batched_tokens;
  engine.deployment_secret = "bench";
  auto kv = NewKvManager(options.num_pages + 1, engine.models[0].layout.slab_bytes, 1);
  for (const EngineModel& model : engine.models) kv->AddModel(model.layout);
  kv_ = kv.get();
  core_ = std::make_unique<EngineCore>(
      engine, std::move(kv), std::make_unique<NullRunner>(options, &clock_), nullptr, &stats_,
      /*on_left_queue=*/nullptr);
  core_->set_plan_observer([this](const StepPlan& plan) {
    if (step_watch_ != nullptr) step_times_.plan_ms = step_watch_->ElapsedMs();
    step_times_.num_entries = static_cast<int64_t>(plan.entries.size());
  });
}

void SchedulerRig::Submit(const RigRequest& asked) {
  auto request = std::make_unique<Request>();
  request->id = next_request_id_++;
  request->model = asked.model;
  request->tenant = asked.tenant;
  request->prompt.assign(asked.num_prompt_tokens, kSampledToken);
  request->prompt[0] = static_cast<TokenId>(request->id % kVocabSize);
  request->stopping.max_tokens = asked.num_output_tokens;
  request->priority = asked.priority;
  request->arrival_us = clock_.NowUs() - asked.age_us;
  request->sink = sink_;
  core_->Submit(std::move(request));
}

StepTimes SchedulerRig::Step() {
  step_times_ = {};
  const StopWatch watch;
  step_watch_ = &watch;
  core_->BeginRound(clock_.NowUs());
  CHECK(core_->LaunchStep());
  core_->BeginRound(clock_.NowUs());
  core_->OnStepDone(++num_steps_);
  core_->EndRound();
  step_times_.whole_ms = watch.ElapsedMs();
  step_watch_ = nullptr;
  return step_times_;
}

void SchedulerRig::TakeFreePages() {
  std::vector<PageId> pages;
  CHECK(kv_->AllocateAdapter(0, kv_->usage().free_slabs, 0, &pages));
}

}  // namespace tessera::bench

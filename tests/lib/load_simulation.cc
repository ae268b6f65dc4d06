#include "tests/lib/load_simulation.h"

#include <algorithm>

#include "kernels/base/log.h"

namespace tessera::testing {
namespace {

constexpr int32_t kPageTokens = 16;
constexpr TokenId kEos = 1;
constexpr TokenId kText = 2;
constexpr int64_t kVocabSize = 1'000'000'000;

EngineModel SimulatedModel(int64_t max_model_len) {
  EngineModel model;
  model.name = "simulated";
  model.identity.weights = model.name;
  model.vocab_size = kVocabSize;
  model.hidden = 4;
  model.num_layers = 1;
  model.max_model_len = max_model_len;
  GroupLayout group;
  group.num_layers = 1;
  group.kv_heads = 1;
  group.head_dim = 4;
  group.page_tokens = kPageTokens;
  model.layout.groups.push_back(group);
  model.layout.slab_bytes = group.page_bytes();
  return model;
}

}  // namespace

// A request's seed is the position of its last token, which the device samples as EOS.
class LoadSimulation::Device final : public Runner {
 public:
  Device(const SimulatedDevice& speed, const Clock* clock) : speed_(speed), clock_(clock) {}

  void SetOnDone(std::function<void(Completion)> /*on_done*/) override {}
  void Launch(const StepBatch* batch, const BatchArena* arena, LayerRange /*layers*/,
              StepResult* result) override {
    const BatchView view{batch, arena->base()};
    *result = {};
    result->step_id = batch->step_id;
    result->model = batch->model;
    const SamplerRow* const rows = view.data(batch->sampler_rows);
    for (uint32_t r = 0; r < batch->sampler_rows.count; ++r) {
      const bool is_last = static_cast<uint64_t>(rows[r].position) >= rows[r].seed;
      result->rows.emplace_back().token = is_last ? kEos : kText;
    }
    double num_keys = 0.0;
    for (uint32_t r = 0; r < batch->runs.count; ++r) num_keys += view.runs()[r].count;
    result->step_us = static_cast<int64_t>(speed_.step_us + speed_.token_us * batch->tokens.count +
                                           speed_.key_us * num_keys);
    end_us_ = clock_->NowUs() + result->step_us;
  }
  Transfer* transfer() override { return nullptr; }  // no adapters
  int depth() const override { return 1; }
  // Time at which the step in flight ends.
  int64_t end_us() const { return end_us_; }

 private:
  const SimulatedDevice speed_;
  const Clock* const clock_;
  int64_t end_us_ = 0;
};

class LoadSimulation::Sink final : public TokenSink {
 public:
  // `to_pause` gets the id of the request at its first token; null: never.
  Sink(uint64_t id, SimulatedResult* result, std::vector<uint64_t>* to_pause, const Clock* clock)
      : id_(id), result_(result), to_pause_(to_pause), clock_(clock) {}
  void Push(TokenEvent event) override {
    if (event.kind == TokenEvent::Kind::kToken && to_pause_ != nullptr) {
      to_pause_->push_back(id_);
      to_pause_ = nullptr;
    }
    if (event.kind != TokenEvent::Kind::kFinished || event.timing.ttft_us == 0) return;
    result_->queue_us = event.timing.queue_us;
    result_->ttft_us = event.timing.ttft_us;
    if (event.reason != FinishReason::kCancelled) result_->end_us = clock_->NowUs();
  }

 private:
  const uint64_t id_;
  SimulatedResult* const result_;
  std::vector<uint64_t>* to_pause_;
  const Clock* const clock_;
};

LoadSimulation::LoadSimulation(const SimulationOptions& options)
    : options_(options), engine_options_(options.engine) {
  engine_options_.models = {SimulatedModel(options.max_model_len)};
  engine_options_.deployment_secret = "test";
  const EngineModel& model = engine_options_.models[0];
  auto kv = NewKvManager(options.num_pages + 1, model.layout.slab_bytes, 1);
  kv->AddModel(model.layout);
  stats_ = std::make_unique<EngineStats>(1);
  gate_ = std::make_unique<QueueGate>(engine_options_, stats_.get());
  auto device = std::make_unique<Device>(options.device, &clock_);
  device_ = device.get();
  core_ = std::make_unique<EngineCore>(engine_options_, std::move(kv), std::move(device), nullptr,
                                       stats_.get(), [this] { gate_->Leave(1); });
}

LoadSimulation::~LoadSimulation() = default;

void LoadSimulation::Arrive(const SimulatedRequest& asked, SimulatedResult* result) {
  result->predicted_us = static_cast<int64_t>(stats_->queue_delay_us.value());
  const absl::Status status = gate_->Enter(1, core_->scheduler().policy());
  if (!status.ok()) {
    result->refused = true;
    result->retry_us = RetryAfterUs(status);
    return;
  }
  auto request = std::make_unique<Request>();
  request->id = next_id_++;
  for (int32_t i = 0; i < asked.num_prompt_tokens; ++i) {
    const auto own = static_cast<TokenId>(10 + request->id);
    request->prompt.push_back(i < asked.num_shared_tokens ? asked.shared_token : own);
  }
  request->stopping.max_tokens = asked.max_tokens;
  request->stopping.eos_ids = {kEos};
  request->sampling.seed =
      static_cast<uint64_t>(asked.num_prompt_tokens + asked.num_output_tokens - 1);
  request->arrival_us = asked.arrival_us;
  request->tenant = asked.tenant;
  request->salt = asked.salt;
  request->sink =
      std::make_shared<Sink>(request->id, result, asked.pauses ? &to_pause_ : nullptr, &clock_);
  core_->Submit(std::move(request));
}

void LoadSimulation::Round(const SimulatedRequest* asked, SimulatedResult* result, bool step_ends) {
  core_->BeginRound(clock_.NowUs());
  if (step_ends) core_->OnStepDone(next_step_++);
  for (const uint64_t id : to_pause_) core_->Throttle(id, true);
  to_pause_.clear();
  if (asked != nullptr) Arrive(*asked, result);
  while (core_->LaunchStep()) {
  }
  core_->EndRound();
  gate_->Observe(clock_.NowUs());
}

std::vector<SimulatedResult> LoadSimulation::Run(const std::vector<SimulatedRequest>& requests,
                                                 int64_t end_us) {
  std::vector<SimulatedResult> results(requests.size());
  size_t next = 0;
  while (clock_.NowUs() < end_us) {
    const bool computes = core_->num_inflight() > 0;
    if (!computes && next == requests.size()) break;
    const bool arrives =
        next < requests.size() && (!computes || requests[next].arrival_us < device_->end_us());
    const int64_t at_us = arrives ? requests[next].arrival_us : device_->end_us();
    clock_.Advance(std::max<int64_t>(0, at_us - clock_.NowUs()));
    if (arrives) {
      Round(&requests[next], &results[next], false);
      ++next;
    } else {
      Round(nullptr, nullptr, true);
    }
  }
  core_->CheckInvariants();
  core_->CancelAll(CancelReason::kClient);
  return results;
}

}  // namespace tessera::testing

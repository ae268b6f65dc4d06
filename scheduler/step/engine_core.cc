#include "scheduler/step/engine_core.h"

#include <openssl/rand.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/base/log.h"

namespace tessera {
namespace {

std::string DrawSecret() {
  std::string secret(32, '\0');
  CHECK_EQ(RAND_bytes(reinterpret_cast<unsigned char*>(secret.data()), 32), 1);
  return secret;
}

EngineOptions WithSecret(EngineOptions options) {
  if (options.deployment_secret.empty()) options.deployment_secret = DrawSecret();
  return options;
}

OutputToken MakeOutputToken(const StepResult& result, const SampledRow& row) {
  OutputToken token;
  token.token = row.token;
  token.logprob = row.logprob;
  const auto begin = result.top.begin() + row.top.begin;
  token.top.assign(begin, begin + row.top.count);
  return token;
}

bool Contains(const std::vector<TokenId>& ids, TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

EngineCore::EngineCore(EngineOptions options, std::unique_ptr<KvManager> kv,
                       std::unique_ptr<Runner> runner, const Clock* clock, EngineStats* stats,
                       std::function<void()> on_left_queue)
    : options_(WithSecret(std::move(options))),
      kv_(std::move(kv)),
      runner_(std::move(runner)),
      clock_(clock),
      stats_(stats),
      on_left_queue_(std::move(on_left_queue)),
      scheduler_(options_, static_cast<int32_t>(options_.models.size()), kv_.get(), clock, stats),
      builder_(&options_.models) {
  PublishGauges();
}

EngineCore::~EngineCore() {
  CancelAll(CancelReason::kShutdown);
  while (!inflight_.empty()) RetireOldest();
}

void EngineCore::Submit(std::unique_ptr<Request> request) {
  const uint64_t id = request->id;
  RequestState& state = requests_[id];
  CHECK(state.request == nullptr) << "request id " << id << " is in use";
  state.request = std::move(request);
  const Request& r = *state.request;
  CHECK(!r.prompt.empty());
  CHECK(r.adapter.id == kNoAdapter || adapters_ != nullptr);
  CHECK_LT(static_cast<int64_t>(r.prompt.size()), options_.models[r.model].max_model_len);

  const bool scores_prompt = r.kind == RequestKind::kEmbed || r.prompt_logprobs >= 0;
  const EngineModel& model = options_.models[r.model];
  PrefixRoot root{options_.deployment_secret,
                  model.name + '\0' + model.revision,
                  PageLayoutKey(model.layout),
                  r.adapter.key,
                  /*kv_policy=*/"",
                  r.salt};
  // Copies of one request share its prompt; nobody else may.
  if (r.bypass_prefix) root.kv_policy = "private " + std::to_string(next_private_root_++);
  const PageHash root_hash = HashRoot(root);

  std::shared_ptr<const std::vector<TokenCount>> prompt_counts;
  if (r.sampling.repetition_penalty != 1.0f) {
    prompt_counts = std::make_shared<const std::vector<TokenCount>>(CountPrompt(r.prompt));
  }

  for (int32_t index = 0; index < r.sampling.n; ++index) {
    auto sequence = std::make_unique<Sequence>();
    sequence->request = &r;
    sequence->index = index;
    sequence->num_prompt = static_cast<int64_t>(r.prompt.size());
    sequence->kv.model = r.model;
    sequence->kv.root = root_hash;
    sequence->kv.cacheable =
        !(scores_prompt && index == 0) && !(r.bypass_prefix && r.sampling.n == 1);
    sequence->prompt_counts = prompt_counts;
    if (r.kind == RequestKind::kEmbed) sequence->hidden_sum.resize(model.hidden);
    scheduler_.Enqueue(sequence.get());
    state.sequences.push_back(std::move(sequence));
  }
  state.num_alive = r.sampling.n;
  num_unfinished_ += r.sampling.n;
  if (r.stopping.time_limit_us > 0) {
    time_limits_.insert({r.arrival_us + r.stopping.time_limit_us, id});
  }
}

void EngineCore::StartAdapters(std::unique_ptr<AdapterLoader> loader) {
  CHECK(options_.adapters != nullptr && adapters_ == nullptr);
  loader_ = std::move(loader);
  adapters_ = std::make_unique<AdapterStore>(AdapterStoreOptions{options_.adapter_host_bytes},
                                             options_.adapters, kv_.get(), loader_.get(), clock_);
  scheduler_.set_adapters(adapters_.get());
  builder_.set_adapters(adapters_.get());
  kv_->SetReclaim([this](bool must, int32_t model, uint64_t idle_ticks) {
    const PageLayout& layout = options_.models[model].layout;
    const double us = scheduler_.PredictPrefillUs(model, layout.page_tokens());
    return adapters_->Reclaim(must, us / layout.slabs_per_page, idle_ticks);
  });
}

void EngineCore::LoadAdapter(AdapterId id, bool pin, AdapterWait wait) {
  if (pin) adapters_->Pin(id);
  awaited_adapters_.push_back({id, std::move(wait)});
}

void EngineCore::UnpinAdapter(AdapterId id) { adapters_->Unpin(id); }

void EngineCore::UnloadAdapter(AdapterId id) { adapters_->Unload(id); }

void EngineCore::OnAdapterRead(AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us) {
  adapters_->OnRead(id, std::move(image), read_us);
}

void EngineCore::OnAdapterCopied(AdapterId id) { adapters_->OnCopied(id); }

bool EngineCore::SettleAdapters() {
  if (adapters_ == nullptr) return false;
  bool settled = false;
  for (AwaitedAdapter& awaited : awaited_adapters_) {
    const bool gone = awaited.wait.gone != nullptr && awaited.wait.gone();
    if (!gone && scheduler_.BringAdapter(awaited.id) != AdapterStore::Access::kReady) continue;
    if (!gone) awaited.wait.done(absl::OkStatus());
    awaited.id = kNoAdapter;
  }
  for (const auto& [id, status] : adapters_->TakeFailures()) {
    settled = true;
    for (AwaitedAdapter& awaited : awaited_adapters_) {
      if (awaited.id != id) continue;
      awaited.wait.done(status);
      awaited.id = kNoAdapter;
    }
    const std::vector<Sequence*> waiting = scheduler_.waiting();  // finishing changes it
    for (Sequence* s : waiting) {
      if (s->request->adapter.id != id) continue;
      TokenEvent event;
      event.status = status;
      Finish(s, std::move(event), FinishReason::kError);
    }
  }
  awaited_adapters_.erase(
      std::remove_if(awaited_adapters_.begin(), awaited_adapters_.end(),
                     [](const AwaitedAdapter& awaited) { return awaited.id == kNoAdapter; }),
      awaited_adapters_.end());
  return settled;
}

void EngineCore::Cancel(uint64_t request_id, int32_t index, CancelReason reason) {
  const auto it = requests_.find(request_id);
  if (it == requests_.end()) return;
  const FinishReason finish =
      reason == CancelReason::kStopText ? FinishReason::kStop : FinishReason::kCancelled;
  // Finishing may forget the whole request, so the list is copied first.
  std::vector<Sequence*> sequences;
  for (const auto& s : it->second.sequences) {
    if (s != nullptr && (index < 0 || s->index == index)) sequences.push_back(s.get());
  }
  for (Sequence* s : sequences) {
    if (s->state != SequenceState::kFinished) FinishSimple(s, finish);
  }
}

void EngineCore::CancelAll(CancelReason reason) {
  std::vector<uint64_t> ids;
  for (const auto& [id, state] : requests_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  for (const uint64_t id : ids) Cancel(id, -1, reason);
  if (reason != CancelReason::kShutdown) return;
  for (const AwaitedAdapter& awaited : std::exchange(awaited_adapters_, {})) {
    awaited.wait.done(absl::UnavailableError("the server is shutting down"));
  }
}

void EngineCore::Throttle(uint64_t request_id, bool paused) {
  const auto it = requests_.find(request_id);
  if (it == requests_.end()) return;
  for (const auto& s : it->second.sequences) {
    if (s == nullptr || s->state == SequenceState::kFinished) continue;
    scheduler_.SetPaused(s.get(), paused);
  }
}

ProbeResult EngineCore::Probe(const ProbeQuery& query) {
  const EngineModel& model = options_.models[query.model];
  KvState state;
  state.model = query.model;
  state.root = HashRoot({options_.deployment_secret, model.name + '\0' + model.revision,
                         PageLayoutKey(model.layout), query.adapter_key, "", query.salt});
  ProbeResult result;
  result.matched_tokens = kv_->Match(&state, query.prompt).hit_tokens;
  result.queue_delay_us = scheduler_.PredictQueueDelayUs();
  const int64_t to_compute = static_cast<int64_t>(query.prompt.size()) - result.matched_tokens;
  result.predicted_ttft_us =
      result.queue_delay_us +
      static_cast<int64_t>(scheduler_.PredictPrefillUs(query.model, to_compute));
  return result;
}

int64_t EngineCore::NextDeadlineUs() const {
  return time_limits_.empty() ? -1 : time_limits_.begin()->first;
}

void EngineCore::ExpireTimeLimits() {
  const int64_t now_us = clock_->NowUs();
  while (!time_limits_.empty() && time_limits_.begin()->first <= now_us) {
    const uint64_t id = time_limits_.begin()->second;
    time_limits_.erase(time_limits_.begin());
    const auto it = requests_.find(id);
    if (it == requests_.end()) continue;
    std::vector<Sequence*> sequences;
    for (const auto& s : it->second.sequences) {
      if (s != nullptr && s->state != SequenceState::kFinished) sequences.push_back(s.get());
    }
    for (Sequence* s : sequences) FinishSimple(s, FinishReason::kTimeLimit);
  }
}

bool EngineCore::RunOnce() {
  ExpireTimeLimits();
  bool launched = false;
  if (static_cast<int>(inflight_.size()) < runner_->depth()) {
    StepPlan plan = scheduler_.Schedule();
    if (!plan.empty()) {
      Launch(std::move(plan));
      launched = true;
    }
  }
  if (SettleAdapters()) launched = true;
  const bool full = static_cast<int>(inflight_.size()) == runner_->depth();
  if (full || (!launched && !inflight_.empty())) {
    RetireOldest();
    launched = true;
  }
  PublishGauges();
  return launched;
}

void EngineCore::Launch(StepPlan plan) {
  if (plan_observer_) plan_observer_(plan);
  const int64_t now_us = clock_->NowUs();
  std::unique_ptr<BuiltBatch> built;
  if (spare_batches_.empty()) {
    built = std::make_unique<BuiltBatch>();
  } else {
    built = std::move(spare_batches_.back());
    spare_batches_.pop_back();
  }
  builder_.Build(plan, kv_->TakePageOps(plan.model), next_step_id_++, built.get());
  for (const PlanEntry& entry : plan.entries) {
    Sequence* s = entry.sequence;
    s->num_inflight += entry.num_tokens;
    if (entry.samples) ++s->num_pending;
    if (s->first_step_us == 0) {
      s->first_step_us = now_us;
      stats_->queue_s.Observe(static_cast<double>(now_us - s->request->arrival_us) * 1e-6);
      LeaveQueue(s);
    }
  }
  runner_->Launch(&built->batch, &built->arena);
  inflight_.push_back({std::move(plan), std::move(built)});
}

void EngineCore::LeaveQueue(Sequence* sequence) {
  if (!std::exchange(sequence->counts_in_queue, false)) return;
  if (on_left_queue_) on_left_queue_();
}

void EngineCore::RetireOldest() {
  const StepResult result = runner_->Wait();
  InflightStep step = std::move(inflight_.front());
  inflight_.pop_front();
  CHECK_EQ(result.step_id, step.built->batch.step_id);
  scheduler_.OnStepDone(step.plan, result.step_us);
  stats_->steps.Add();
  stats_->step_s.Observe(static_cast<double>(result.step_us) * 1e-6);
  stats_->batch_tokens.Observe(static_cast<double>(step.plan.cost.num_tokens));

  const int64_t now_us = clock_->NowUs();
  int32_t next_row = 0;
  int64_t next_tap = 0;
  for (const PlanEntry& entry : step.plan.entries) {
    RetireEntry(entry, result, &next_row, &next_tap, now_us);
  }
  spare_batches_.push_back(std::move(step.built));
}

void EngineCore::RetireEntry(const PlanEntry& entry, const StepResult& result, int32_t* next_row,
                             int64_t* next_tap, int64_t now_us) {
  Sequence* s = entry.sequence;
  const int32_t first_row = *next_row;
  const int64_t first_float = *next_tap;
  *next_row += entry.num_targets + (entry.samples ? 1 : 0);
  const bool embeds = s->request->kind == RequestKind::kEmbed;
  if (embeds) *next_tap += entry.num_tokens * static_cast<int64_t>(s->hidden_sum.size());

  s->num_inflight -= entry.num_tokens;
  s->num_computed += entry.num_tokens;
  if (entry.samples) --s->num_pending;
  if (s->state == SequenceState::kFinished) {
    ForgetIfIdle(s);
    return;
  }
  if (s->request->prompt_logprobs >= 0 && s->index == 0)
    TakePromptLogprobs(entry, result, first_row);
  if (embeds) TakeHidden(entry, result, first_float);
  kv_->Advance(&s->kv, s->tokens, s->num_computed);
  if (embeds && s->num_computed == s->num_prompt) {
    FinishEmbedding(s);
    return;
  }
  if (entry.samples && !TakeToken(s, result, result.rows[first_row + entry.num_targets], now_us)) {
    return;  // it has finished and may be gone
  }
  if (s->paused && s->num_inflight == 0) scheduler_.Park(s);
}

void EngineCore::FinishEmbedding(Sequence* s) {
  TokenEvent event;
  event.kind = TokenEvent::Kind::kEmbedding;
  double sum_of_squares = 0.0;
  for (const double v : s->hidden_sum) sum_of_squares += v * v;
  // The mean's direction is the sum's.
  const double scale = sum_of_squares > 0.0 ? 1.0 / std::sqrt(sum_of_squares) : 0.0;
  event.embedding.reserve(s->hidden_sum.size());
  for (const double v : s->hidden_sum) event.embedding.push_back(static_cast<float>(v * scale));
  s->request->sink->Push(std::move(event));
  FinishSimple(s, FinishReason::kStop);
}

void EngineCore::TakePromptLogprobs(const PlanEntry& entry, const StepResult& result,
                                    int32_t first_row) {
  Sequence* s = entry.sequence;
  for (int32_t t = 0; t < entry.num_targets; ++t) {
    s->prompt_logprobs.push_back(MakeOutputToken(result, result.rows[first_row + t]));
  }
  s->num_scored += entry.num_targets;
  if (s->prompt_scored || s->num_scored + 1 < s->num_prompt) return;
  s->prompt_scored = true;
  TokenEvent event;
  event.kind = TokenEvent::Kind::kPromptLogprobs;
  event.index = s->index;
  event.tokens = std::exchange(s->prompt_logprobs, {});
  s->request->sink->Push(std::move(event));
}

void EngineCore::TakeHidden(const PlanEntry& entry, const StepResult& result, int64_t first_float) {
  std::vector<double>& sum = entry.sequence->hidden_sum;
  const float* row = result.taps.data() + first_float;
  // After a preemption the prompt is computed from its begin again.
  if (entry.begin == 0) std::fill(sum.begin(), sum.end(), 0.0);
  for (int32_t t = 0; t < entry.num_tokens; ++t, row += sum.size()) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += row[i];
  }
}

bool EngineCore::TakeToken(Sequence* s, const StepResult& result, const SampledRow& row,
                           int64_t now_us) {
  const Request& request = *s->request;
  s->TakeToken(row.token);
  stats_->generated_tokens.Add();
  if (s->first_token_us == 0) {
    s->first_token_us = now_us;
    stats_->ttft_s.Observe(static_cast<double>(now_us - request.arrival_us) * 1e-6);
  } else {
    stats_->itl_s.Observe(static_cast<double>(now_us - s->last_token_us) * 1e-6);
  }
  s->last_token_us = now_us;

  const StoppingParams& stopping = request.stopping;
  const int64_t num_generated = static_cast<int64_t>(s->tokens.size()) - s->num_prompt;
  TokenEvent finished;
  if (!stopping.ignore_eos && Contains(stopping.eos_ids, row.token)) {
    finished.matched_eos = row.token;
  } else if (Contains(stopping.stop_ids, row.token)) {
    finished.matched_stop = row.token;
  }
  const bool stopped = finished.matched_eos.has_value() || finished.matched_stop.has_value();

  TokenEvent event;
  event.kind = TokenEvent::Kind::kToken;
  event.index = s->index;
  event.ends_with_stop = stopped;
  event.tokens.push_back(MakeOutputToken(result, row));
  request.sink->Push(std::move(event));

  const int64_t max_len = options_.models[request.model].max_model_len;
  const bool full =
      num_generated >= stopping.max_tokens || static_cast<int64_t>(s->tokens.size()) >= max_len;
  if (!stopped && !full) return true;
  Finish(s, std::move(finished), stopped ? FinishReason::kStop : FinishReason::kLength);
  return false;
}

void EngineCore::FinishSimple(Sequence* sequence, FinishReason reason) {
  Finish(sequence, TokenEvent{}, reason);
}

void EngineCore::Finish(Sequence* s, TokenEvent event, FinishReason reason) {
  const Request& request = *s->request;
  const int64_t now_us = clock_->NowUs();
  event.kind = TokenEvent::Kind::kFinished;
  event.index = s->index;
  event.reason = reason;
  event.usage.prompt_tokens = s->num_prompt;
  event.usage.cached_prompt_tokens = s->cached_prompt_tokens;
  event.usage.completion_tokens = s->num_known() - s->num_prompt;
  const int64_t first_step_us = s->first_step_us > 0 ? s->first_step_us : now_us;
  event.timing.queue_us = first_step_us - request.arrival_us;
  if (s->first_token_us > 0) {
    event.timing.prefill_us = s->first_token_us - first_step_us;
    event.timing.decode_us = s->last_token_us - s->first_token_us;
    event.timing.ttft_us = s->first_token_us - request.arrival_us;
  }
  stats_->e2e_s.Observe(static_cast<double>(now_us - request.arrival_us) * 1e-6);
  stats_->models[request.model].finished[static_cast<size_t>(reason)].Add();
  --num_unfinished_;
  s->state = SequenceState::kFinished;
  request.sink->Push(std::move(event));
  ForgetIfIdle(s);
}

void EngineCore::ForgetIfIdle(Sequence* s) {
  if (s->num_inflight > 0) return;
  scheduler_.Remove(s);
  LeaveQueue(s);
  const uint64_t id = s->request->id;
  const auto it = requests_.find(id);
  RequestState& state = it->second;
  const int64_t deadline_us = state.request->arrival_us + state.request->stopping.time_limit_us;
  state.sequences[s->index].reset();
  if (--state.num_alive > 0) return;
  if (state.request->stopping.time_limit_us > 0) time_limits_.erase({deadline_us, id});
  requests_.erase(it);
}

void EngineCore::PublishGauges() {
  stats_->sequences_running.Set(static_cast<int64_t>(scheduler_.running().size()));
  stats_->sequences_waiting.Set(static_cast<int64_t>(scheduler_.waiting().size()));
  if (adapters_ != nullptr) {
    stats_->adapter_loads.Set(adapters_->num_loads());
    stats_->adapter_evictions.Set(adapters_->num_evictions());
  }
  const KvUsage usage = kv_->usage();
  stats_->slabs_total.Set(usage.total_slabs);
  stats_->slabs_free.Set(usage.free_slabs);
  stats_->slabs_cached.Set(usage.cached_slabs);
  stats_->slabs_kv.Set(usage.kv_slabs);
  stats_->slabs_adapter.Set(usage.adapter_slabs);
  stats_->slabs_staging.Set(usage.staging_slabs);
  stats_->queue_delay_us.Set(static_cast<double>(scheduler_.PredictQueueDelayUs()));
}

void EngineCore::CheckInvariants() const {
  std::vector<const KvState*> live;
  int64_t num_alive = 0;
  int64_t num_unfinished = 0;
  std::vector<bool> slot_used(options_.max_num_seqs, false);
  for (const auto& [id, state] : requests_) {
    CHECK_GT(state.num_alive, 0);
    for (const auto& s : state.sequences) {
      if (s == nullptr) continue;
      ++num_alive;
      num_unfinished += s->state != SequenceState::kFinished ? 1 : 0;
      CHECK_EQ(s->kv.admitted, s->slot >= 0);
      if (s->slot < 0) continue;
      CHECK(!slot_used[s->slot]) << "slot " << s->slot << " is held twice";
      slot_used[s->slot] = true;
      live.push_back(&s->kv);
    }
  }
  CHECK_EQ(num_unfinished, num_unfinished_);
  CHECK_EQ(live.size(), scheduler_.running().size());
  CHECK_EQ(num_alive,
           static_cast<int64_t>(scheduler_.running().size() + scheduler_.waiting().size()));
  scheduler_.CheckInvariants();
  if (adapters_ != nullptr) adapters_->CheckInvariants();
  kv_->CheckInvariants(live);
}

}  // namespace tessera

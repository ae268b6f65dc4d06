#include "scheduler/step/engine_core.h"

#include <openssl/rand.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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

AdapterStoreOptions StoreOptionsOf(const EngineOptions& options) {
  AdapterStoreOptions store;
  store.host_bytes = options.adapter_host_bytes;
  store.max_read_us = options.max_adapter_read_us;
  return store;
}

OutputToken MakeOutputToken(const StepResult& result, const SampledRow& row) {
  OutputToken token;
  token.token = row.token;
  token.logprob = row.logprob;
  const auto begin = result.top.begin() + row.top.begin;
  token.top.assign(begin, begin + row.top.count);
  return token;
}

// A step in flight is overdue when it has run longer than kLongStepUs and longer than
// kOverduePredictions times its prediction.
constexpr int64_t kLongStepUs = 10'000'000;
constexpr double kOverduePredictions = 10.0;
constexpr size_t kMaxToldNames = 16;  // number of requests that a log line names

// The request's name for the log. The client chose the name, so it is escaped: a log message must
// be one line.
std::string LogName(const Request& request) {
  if (request.name.empty()) return absl::StrCat("request ", request.id);
  return absl::Utf8SafeCHexEscape(request.name);
}

// Whether the results of all sampler rows of the entry are finite. `first_row` is the first row.
bool AllFinite(const PlanEntry& entry, const StepResult& result, int32_t first_row) {
  const auto begin = result.rows.begin() + first_row;
  return std::all_of(begin, begin + entry.num_targets + (entry.samples ? 1 : 0),
                     [](const SampledRow& row) { return row.is_finite; });
}

bool Contains(const std::vector<TokenId>& ids, TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

std::vector<KvClass> ClassesUnder(const PageHash& exact_root,
                                  const std::vector<std::string>& names) {
  std::vector<KvClass> classes;
  classes.reserve(names.size());
  for (const std::string& name : names) classes.push_back({ApproximateRoot(exact_root, name), {}});
  return classes;
}

}  // namespace

EngineCore::EngineCore(EngineOptions options, std::unique_ptr<KvManager> kv,
                       std::unique_ptr<Runner> runner, std::unique_ptr<AdapterLoader> loader,
                       EngineStats* stats, std::function<void()> on_left_queue,
                       std::unique_ptr<QueuePolicy> policy)
    : options_(WithSecret(std::move(options))),
      roots_(&options_),
      kv_(std::move(kv)),
      runner_(std::move(runner)),
      stats_(stats),
      on_left_queue_(std::move(on_left_queue)),
      adapters_(loader == nullptr
                    ? nullptr
                    : std::make_unique<AdapterStore>(StoreOptionsOf(options_), options_.adapters,
                                                     kv_.get(), loader.get(), &clock_)),
      loader_(std::move(loader)),
      residency_(kv_.get(), adapters_.get(), options_.models.size()),
      operator_loads_(&residency_),
      scheduler_(options_, options_.models.size(), kv_.get(), &residency_, &clock_, stats,
                 std::move(policy)),
      builder_(&options_.models, adapters_.get()) {
  PublishGauges();
}

EngineCore::~EngineCore() { CancelAll(CancelReason::kShutdown); }

void EngineCore::Submit(std::unique_ptr<Request> request) {
  const uint64_t id = request->id;
  RequestState& state = requests_[id];
  CHECK(state.request == nullptr) << "request id " << id << " is in use";
  state.request = std::move(request);
  const Request& r = *state.request;
  CHECK(!r.prompt.empty());
  CHECK(r.adapter.id == kNoAdapter || adapters_ != nullptr);
  const int64_t num_output = r.kind == RequestKind::kEmbed ? 0 : 1;
  CHECK_LE(static_cast<int64_t>(r.prompt.size()) + num_output,
           options_.models[r.model].max_model_len);

  const PageHash root = roots_.RootOf(r);
  const int32_t tenant = EnterTenant(r.tenant);
  std::shared_ptr<const std::vector<TokenCount>> prompt_counts;
  if (r.sampling.repetition_penalty != 1.0f) {
    prompt_counts = std::make_shared<const std::vector<TokenCount>>(CountPrompt(r.prompt));
  }
  for (int32_t index = 0; index < r.sampling.n; ++index) {
    state.sequences.push_back(NewSequence(r, index, root));
    Sequence* const sequence = state.sequences.back().get();
    sequence->tenant = tenant;
    sequence->prompt_counts = prompt_counts;
    scheduler_.Enqueue(sequence);
  }
  state.num_alive = r.sampling.n;
  num_unfinished_ += r.sampling.n;
  if (r.stopping.time_limit_us > 0) {
    time_limits_.insert({r.arrival_us + r.stopping.time_limit_us, id});
  }
}

std::unique_ptr<Sequence> EngineCore::NewSequence(const Request& request, int32_t index,
                                                  const PageHash& root) const {
  const bool scores_prompt = request.kind == RequestKind::kEmbed || request.prompt_logprobs >= 0;
  const bool is_alone = request.bypass_prefix && request.sampling.n == 1;
  auto sequence = std::make_unique<Sequence>();
  sequence->request = &request;
  sequence->index = index;
  sequence->need = request.adapter.id;
  sequence->num_prompt = static_cast<int64_t>(request.prompt.size());
  sequence->kv.model = request.model;
  sequence->kv.root = root;
  sequence->kv.cacheable = !(scores_prompt && index == 0) && !is_alone;
  sequence->kv.accepted = ClassesUnder(root, request.accepted_kv_classes);
  if (request.kind == RequestKind::kEmbed) {
    sequence->hidden_sum.resize(options_.models[request.model].hidden);
  }
  return sequence;
}

int32_t EngineCore::EnterTenant(const std::string& name) {
  const auto [number, is_new] = tenants_.Enter(name);
  if (!is_new) return number;
  const auto limits = options_.tenants.find(name);
  scheduler_.OpenTenant(number, limits == options_.tenants.end() ? TenantLimits() : limits->second);
  return number;
}

void EngineCore::LoadAdapter(AdapterId id, bool pin, AdapterWait wait) {
  if (pin) adapters_->Pin(id);
  operator_loads_.Add(id, std::move(wait));
}

void EngineCore::UnpinAdapter(AdapterId id) { adapters_->Unpin(id); }

void EngineCore::UnloadAdapter(AdapterId id, bool unpin) { adapters_->Unload(id, unpin); }

void EngineCore::OnAdapterRead(AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us) {
  adapters_->OnRead(id, std::move(image), read_us);
}

void EngineCore::OnAdapterCopied(AdapterId id) { adapters_->OnCopied(id); }

bool EngineCore::Settle() {
  bool has_settled = false;
  for (;;) {
    operator_loads_.Ask(scheduler_.NumReservedSlabs(), scheduler_.IsAlone());
    const std::vector<NeedChange> changes = scheduler_.Wake();
    if (changes.empty()) return has_settled;
    has_settled = true;
    for (const NeedChange& change : changes) ApplyChange(change);
  }
}

void EngineCore::ApplyChange(const NeedChange& change) {
  operator_loads_.OnChange(change);
  if (change.status.ok()) return;
  for (Sequence* s : scheduler_.WaitingFor(change.id)) {
    TokenEvent event;
    event.status = change.status;
    Finish(s, std::move(event), FinishReason::kError);
  }
}

void EngineCore::Cancel(uint64_t request_id, int32_t index, CancelReason reason) {
  const auto it = requests_.find(request_id);
  if (it == requests_.end()) return;
  const FinishReason finish =
      reason == CancelReason::kStopText ? FinishReason::kStop : FinishReason::kCancelled;
  // Finishing a sequence may destroy the request's list of sequences, so the list is copied first.
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
  operator_loads_.EndAll(absl::UnavailableError("the server is shutting down"));
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
  KvState state;
  state.model = query.model;
  state.root = roots_.RootOf(query);
  state.accepted = ClassesUnder(state.root, query.accepted_kv_classes);
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
  const int64_t request_us = time_limits_.empty() ? -1 : time_limits_.begin()->first;
  const int64_t read_us = adapters_ == nullptr ? -1 : adapters_->NextReadLimitUs();
  if (request_us < 0 || read_us < 0) return std::max(request_us, read_us);
  return std::min(request_us, read_us);
}

void EngineCore::ExpireTimeLimits() {
  while (!time_limits_.empty() && time_limits_.begin()->first <= now_us()) {
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

bool EngineCore::LaunchStep() {
  ExpireTimeLimits();
  if (adapters_ != nullptr) adapters_->FailLateReads();
  const bool has_settled = Settle();
  if (num_inflight() == runner_->depth()) return has_settled;
  StepPlan plan = scheduler_.Schedule();
  for (Sequence* s : plan.unfit) FinishUnfit(s);
  // Commit may have evicted needs or failed to load them; Settle applies these changes.
  if (plan.empty()) return Settle() || has_settled || !plan.unfit.empty();
  Launch(std::move(plan));
  return true;
}

StepHealth EngineCore::EndRound() {
  PublishGauges();
  return CheckOldestStep();
}

StepHealth EngineCore::CheckOldestStep() {
  if (inflight_.empty()) return StepHealth::kGood;
  InflightStep& step = inflight_.front();
  const int64_t age_us = now_us() - step.begin_us;
  if (age_us <= kLongStepUs) return StepHealth::kGood;
  if (step.predicted_us <= 0.0) return StepHealth::kUnknown;
  if (static_cast<double>(age_us) <= kOverduePredictions * step.predicted_us) {
    return StepHealth::kGood;
  }
  if (!std::exchange(step.reported, true)) ReportOverdue(step);
  return StepHealth::kOverdue;
}

void EngineCore::ReportOverdue(const InflightStep& step) const {
  std::vector<std::string> names;
  for (const PlanEntry& entry : step.plan.entries) {
    names.push_back(LogName(*entry.sequence->request));
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  const size_t num_told = std::min(names.size(), kMaxToldNames);
  std::string told = absl::StrJoin(names.begin(), names.begin() + num_told, ", ");
  if (names.size() > num_told) absl::StrAppend(&told, " and ", names.size() - num_told, " more");
  TLOG_WARN(
      "step {} of model {} runs for {:.1f} s, {:.3f} s were predicted: the engine hangs; it "
      "computes {} tokens of {}",
      step.buffers->built.batch.step_id, options_.models[step.plan.model].name,
      static_cast<double>(now_us() - step.begin_us) * 1e-6, step.predicted_us * 1e-6,
      step.plan.cost.num_tokens, told);
}

void EngineCore::Launch(StepPlan plan) {
  if (plan_observer_) plan_observer_(plan);
  std::unique_ptr<StepBuffers> buffers;
  if (spare_buffers_.empty()) {
    buffers = std::make_unique<StepBuffers>();
  } else {
    buffers = std::move(spare_buffers_.back());
    spare_buffers_.pop_back();
  }
  BuiltBatch* const built = &buffers->built;
  builder_.Build(plan, next_step_id_++, built);
  for (const PlanEntry& entry : plan.entries) {
    Sequence* s = entry.sequence;
    if (!s->counts_in_queue) continue;
    s->first_step_us = now_us();
    stats_->queue_s.Observe(static_cast<double>(now_us() - s->request->arrival_us) * 1e-6);
    LeaveQueue(s);
  }
  scheduler_.OnLaunched(plan);
  StepResult* const result = &buffers->result;
  const CostModel& cost_model = scheduler_.cost_model(plan.model);
  const double predicted_us = cost_model.fitted() ? cost_model.PredictUs(plan.cost) : 0.0;
  inflight_.push_back({std::move(plan), std::move(buffers), now_us(), predicted_us});
  runner_->Launch(&built->batch, &built->arena, LayerRange{}, result);
}

void EngineCore::LeaveQueue(Sequence* sequence) {
  if (!std::exchange(sequence->counts_in_queue, false)) return;
  if (on_left_queue_) on_left_queue_();
}

void EngineCore::OnStepDone(uint64_t step_id) {
  CHECK(!inflight_.empty()) << "step " << step_id << " is not in flight";
  InflightStep step = std::move(inflight_.front());
  inflight_.pop_front();
  if (!inflight_.empty()) inflight_.front().begin_us = now_us();
  const StepResult& result = step.buffers->result;
  CHECK_EQ(step_id, step.buffers->built.batch.step_id);
  CHECK_EQ(step_id, result.step_id);
  kv_->ReleasePageOps(step.plan.page_ops);
  scheduler_.OnStepDone(step.plan, result.step_us);
  stats_->steps.Add();
  stats_->step_s.Observe(static_cast<double>(result.step_us) * 1e-6);
  stats_->batch_tokens.Observe(static_cast<double>(step.plan.cost.num_tokens));

  int32_t next_row = 0;
  int64_t next_tap = 0;
  ForEachEntry(step.plan.entries,
               [&](const PlanEntry& entry) { RetireEntry(entry, result, &next_row, &next_tap); });
  spare_buffers_.push_back(std::move(step.buffers));
}

void EngineCore::RetireEntry(const PlanEntry& entry, const StepResult& result, int32_t* next_row,
                             int64_t* next_tap) {
  Sequence* s = entry.sequence;
  const int32_t first_row = *next_row;
  const int64_t first_float = *next_tap;
  *next_row += entry.num_targets + (entry.samples ? 1 : 0);
  const bool embeds = s->request->kind == RequestKind::kEmbed;
  if (embeds) *next_tap += entry.num_tokens() * static_cast<int64_t>(s->hidden_sum.size());

  scheduler_.OnRetired(entry);
  if (s->state == SequenceState::kFinished) {
    ForgetIfIdle(s);
    return;
  }
  // The KV of such a step is not advanced, so that no other sequence finds it.
  if (!AllFinite(entry, result, first_row)) {
    FinishNonfinite(s, "logits");
    return;
  }
  if (s->request->prompt_logprobs >= 0 && s->index == 0)
    TakePromptLogprobs(entry, result, first_row);
  if (embeds) TakeHidden(entry, result, first_float);
  kv_->Advance(&s->kv, s->tokens, s->num_final());
  if (embeds && s->num_computed == s->num_prompt) {
    FinishEmbedding(s);
    return;
  }
  if (entry.samples && !TakeToken(s, result, result.rows[first_row + entry.num_targets])) {
    return;  // the sequence has finished and may be destroyed
  }
  scheduler_.OnAdvanced(s);
  if (s->paused && s->num_steps == 0) scheduler_.Park(s);
}

void EngineCore::FinishEmbedding(Sequence* s) {
  TokenEvent event;
  event.kind = TokenEvent::Kind::kEmbedding;
  double sum_of_squares = 0.0;
  for (const double v : s->hidden_sum) sum_of_squares += v * v;
  if (!std::isfinite(sum_of_squares)) {
    FinishNonfinite(s, "hidden states");
    return;
  }
  // The normalised mean equals the normalised sum.
  const double scale = sum_of_squares > 0.0 ? 1.0 / std::sqrt(sum_of_squares) : 0.0;
  event.embedding.reserve(s->hidden_sum.size());
  for (const double v : s->hidden_sum) event.embedding.push_back(static_cast<float>(v * scale));
  s->request->sink->Push(std::move(event));
  FinishSimple(s, FinishReason::kStop);
}

void EngineCore::TakePromptLogprobs(const PlanEntry& entry, const StepResult& result,
                                    int32_t first_row) {
  Sequence* s = entry.sequence;
  // A prompt of one token has no scores; its event comes with the step of the first token.
  const bool is_empty = s->num_prompt == 1 && s->num_known() == s->num_prompt;
  if (entry.num_targets == 0 && !is_empty) return;
  TokenEvent event;
  event.kind = TokenEvent::Kind::kPromptLogprobs;
  event.index = s->index;
  event.tokens.reserve(entry.num_targets);
  for (int32_t t = 0; t < entry.num_targets; ++t) {
    event.tokens.push_back(MakeOutputToken(result, result.rows[first_row + t]));
  }
  s->num_scored += entry.num_targets;
  s->request->sink->Push(std::move(event));
}

void EngineCore::TakeHidden(const PlanEntry& entry, const StepResult& result, int64_t first_float) {
  std::vector<double>& sum = entry.sequence->hidden_sum;
  const float* row = result.taps.data() + first_float;
  // After a preemption the prompt is computed again from its first token.
  if (entry.begin() == 0) std::fill(sum.begin(), sum.end(), 0.0);
  for (int32_t t = 0; t < entry.num_tokens(); ++t, row += sum.size()) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += row[i];
  }
}

bool EngineCore::TakeToken(Sequence* s, const StepResult& result, const SampledRow& row) {
  const Request& request = *s->request;
  s->TakeToken(row.token);
  stats_->generated_tokens.Add();
  if (s->first_token_us == 0) {
    s->first_token_us = now_us();
    stats_->ttft_s.Observe(static_cast<double>(now_us() - request.arrival_us) * 1e-6);
  } else {
    stats_->itl_s.Observe(static_cast<double>(now_us() - s->last_token_us) * 1e-6);
  }
  s->last_token_us = now_us();

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

void EngineCore::FinishUnfit(Sequence* sequence) {
  TokenEvent event;
  event.status = absl::ResourceExhaustedError(absl::StrCat(
      "the page pool has no room for the request's ", sequence->num_tokens(),
      " tokens beside its adapter and pinned ones: raise --kv-cache-bytes, unpin adapters or ask "
      "for fewer tokens"));
  Finish(sequence, std::move(event), FinishReason::kError);
}

void EngineCore::FinishNonfinite(Sequence* sequence, const char* what) {
  const Request& request = *sequence->request;
  const std::string& model = options_.models[request.model].name;
  stats_->models[request.model].nonfinite_results.Add();
  TokenEvent event;
  event.status = absl::InternalError(
      absl::StrCat("the model's ", what, " are NaN or infinite after ", sequence->num_known(),
                   " tokens: check the weights of model \"", model, "\"",
                   request.adapter.id == kNoAdapter ? "" : " and of the request's adapter",
                   " for such values, or use a dtype with a larger range"));
  TLOG_WARN("{} of model {}: {}", LogName(request), model, event.status.ToString());
  Finish(sequence, std::move(event), FinishReason::kError);
}

void EngineCore::Finish(Sequence* s, TokenEvent event, FinishReason reason) {
  const Request& request = *s->request;
  event.kind = TokenEvent::Kind::kFinished;
  event.index = s->index;
  event.reason = reason;
  event.usage.prompt_tokens = s->num_prompt;
  event.usage.cached_prompt_tokens = s->cached_prompt_tokens;
  event.usage.completion_tokens = s->num_known() - s->num_prompt;
  const int64_t first_step_us = s->first_step_us > 0 ? s->first_step_us : now_us();
  event.timing.queue_us = first_step_us - request.arrival_us;
  if (s->first_token_us > 0) {
    event.timing.prefill_us = s->first_token_us - first_step_us;
    event.timing.decode_us = s->last_token_us - s->first_token_us;
    event.timing.ttft_us = s->first_token_us - request.arrival_us;
  }
  stats_->e2e_s.Observe(static_cast<double>(now_us() - request.arrival_us) * 1e-6);
  stats_->models[request.model].finished[static_cast<size_t>(reason)].Add();
  --num_unfinished_;
  s->state = SequenceState::kFinished;
  if (reason == FinishReason::kError) {
    TLOG_DEBUG("{} ends with an error: {}", LogName(request), event.status.ToString());
  }
  request.sink->Push(std::move(event));
  ForgetIfIdle(s);
}

void EngineCore::ForgetIfIdle(Sequence* s) {
  if (s->num_steps > 0) {
    scheduler_.OnAdvanced(s);
    return;
  }
  scheduler_.Remove(s);
  LeaveQueue(s);
  const uint64_t id = s->request->id;
  const auto it = requests_.find(id);
  RequestState& state = it->second;
  const int64_t deadline_us = state.request->arrival_us + state.request->stopping.time_limit_us;
  state.sequences[s->index].reset();
  if (--state.num_alive > 0) return;
  tenants_.Leave(state.request->tenant);
  if (state.request->stopping.time_limit_us > 0) time_limits_.erase({deadline_us, id});
  requests_.erase(it);
}

void EngineCore::PublishGauges() {
  stats_->sequences_running.Set(scheduler_.num_running());
  stats_->sequences_waiting.Set(scheduler_.num_waiting() - scheduler_.num_paused());
  stats_->sequences_paused.Set(scheduler_.num_paused());
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
  CHECK_EQ(static_cast<int64_t>(live.size()), scheduler_.num_running());
  CHECK_EQ(num_alive, scheduler_.num_running() + scheduler_.num_waiting());
  scheduler_.CheckInvariants();
  if (adapters_ != nullptr) adapters_->CheckInvariants();
  kv_->CheckInvariants(live);
}

}  // namespace tessera

#include "tests/server/fake_generator.h"

#include <algorithm>
#include <chrono>

namespace tessera::testing {

FakeGenerator::FakeGenerator(FakeGeneratorOptions options)
    : options_(options), held_(options.held), thread_([this] { Run(); }) {}

FakeGenerator::~FakeGenerator() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

absl::Status FakeGenerator::MayQueue() {
  std::lock_guard<std::mutex> lock(mutex_);
  return Room();
}

absl::Status FakeGenerator::Room() const {
  const bool full = static_cast<int64_t>(sequences_.size()) >= options_.max_requests;
  return full ? RefusedForNow("the queue is full", options_.queue_delay_us) : absl::OkStatus();
}

absl::Status FakeGenerator::Submit(std::unique_ptr<Request> request) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (absl::Status status = Room(); !status.ok()) return status;
  const std::shared_ptr<const Request> shared = std::move(request);
  last_ = *shared;
  last_.sink = nullptr;
  ++num_submitted_;
  for (int32_t i = 0; i < shared->sampling.n; ++i) sequences_.push_back({shared, i});
  max_live_ = std::max(max_live_, static_cast<int64_t>(sequences_.size()));
  wake_.notify_all();
  return absl::OkStatus();
}

void FakeGenerator::Cancel(uint64_t request_id, int32_t index, CancelReason reason) {
  std::lock_guard<std::mutex> delivery(delivery_mutex_);
  Events events;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto matches = [&](const Sequence& sequence) {
      return sequence.request->id == request_id && (index < 0 || sequence.index == index);
    };
    for (const Sequence& sequence : sequences_) {
      if (!matches(sequence)) continue;
      Finish(sequence,
             reason == CancelReason::kStopText ? FinishReason::kStop : FinishReason::kCancelled, {},
             &events);
    }
    sequences_.erase(std::remove_if(sequences_.begin(), sequences_.end(), matches),
                     sequences_.end());
    if (index < 0) paused_.erase(request_id);
  }
  Deliver(&events);
}

void FakeGenerator::Throttle(uint64_t request_id, bool paused) {
  std::lock_guard<std::mutex> lock(mutex_);
  const bool is_live = std::any_of(
      sequences_.begin(), sequences_.end(),
      [request_id](const Sequence& sequence) { return sequence.request->id == request_id; });
  if (paused && is_live) {
    paused_.insert(request_id);
  } else {
    paused_.erase(request_id);
  }
  wake_.notify_all();
}

void FakeGenerator::Probe(ProbeQuery, std::function<void(ProbeResult)> done) { done({}); }

void FakeGenerator::Hold() {
  std::lock_guard<std::mutex> lock(mutex_);
  held_ = true;
}

void FakeGenerator::Release() {
  std::lock_guard<std::mutex> lock(mutex_);
  held_ = false;
  wake_.notify_all();
}

int64_t FakeGenerator::num_live() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(sequences_.size());
}
int64_t FakeGenerator::max_live() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return max_live_;
}
int64_t FakeGenerator::num_submitted() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return num_submitted_;
}
int64_t FakeGenerator::num_paused() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(paused_.size());
}
int64_t FakeGenerator::num_tokens() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return num_tokens_;
}
Request FakeGenerator::last() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return last_;
}

void FakeGenerator::Run() {
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      const auto has_work = [this] {
        return stop_ || (!held_ && std::any_of(sequences_.begin(), sequences_.end(),
                                               [this](const Sequence& sequence) {
                                                 return !paused_.contains(sequence.request->id);
                                               }));
      };
      wake_.wait_for(lock, std::chrono::milliseconds(50), has_work);
      heartbeat_us_.store(clock_.NowUs());
      if (stop_) return;
      if (!has_work()) continue;
    }
    {
      std::lock_guard<std::mutex> delivery(delivery_mutex_);
      Events events;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        StepAll(&events);
      }
      Deliver(&events);
    }
    if (options_.token_us > 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(options_.token_us));
    }
  }
}

void FakeGenerator::StepAll(Events* events) {
  std::vector<Sequence> rest;
  for (Sequence& sequence : sequences_) {
    const bool computes = !held_ && !paused_.contains(sequence.request->id);
    if (!computes || !Step(&sequence, events)) rest.push_back(std::move(sequence));
  }
  sequences_ = std::move(rest);
}

bool FakeGenerator::Step(Sequence* sequence, Events* events) {
  const Request& request = *sequence->request;
  if (options_.fail) {
    TokenEvent event;
    event.status = absl::InternalError("/srv/models/a.json: the step failed");
    Finish(*sequence, FinishReason::kError, std::move(event), events);
    return true;
  }
  if (request.kind == RequestKind::kEmbed) {
    TokenEvent event;
    event.kind = TokenEvent::Kind::kEmbedding;
    event.embedding.assign(static_cast<size_t>(options_.embedding_size), 0.0f);
    event.embedding[static_cast<size_t>(request.prompt.front() % options_.embedding_size)] = 1.0f;
    events->emplace_back(request.sink, std::move(event));
    Finish(*sequence, FinishReason::kLength, {}, events);
    return true;
  }
  if (!sequence->started && sequence->index == 0 && request.prompt_logprobs >= 0) {
    TokenEvent event;
    event.kind = TokenEvent::Kind::kPromptLogprobs;
    for (size_t i = 1; i < request.prompt.size(); ++i) {
      OutputToken token{request.prompt[i], -1.0f, {}};
      for (int32_t k = 0; k < request.prompt_logprobs; ++k) token.top.push_back({k, -2.0f});
      event.tokens.push_back(std::move(token));
    }
    events->emplace_back(request.sink, std::move(event));
  }
  sequence->started = true;
  const TokenId token =
      request.prompt[static_cast<size_t>(sequence->num_tokens) % request.prompt.size()];
  const auto has = [token](const std::vector<TokenId>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  ++sequence->num_tokens;
  ++num_tokens_;
  const bool may_stop = sequence->num_tokens > request.stopping.min_tokens;
  const bool is_eos = may_stop && !request.stopping.ignore_eos && has(request.stopping.eos_ids);
  const bool is_stop = may_stop && has(request.stopping.stop_ids);
  TokenEvent event;
  event.index = sequence->index;
  OutputToken output{token, -0.5f, {}};
  for (int32_t k = 0; k < request.logprobs; ++k) output.top.push_back({k, -2.0f});
  event.tokens.push_back(std::move(output));
  event.ends_with_stop = is_eos || is_stop;
  events->emplace_back(request.sink, std::move(event));
  TokenEvent end;
  if (is_eos) end.matched_eos = token;
  if (is_stop && !is_eos) end.matched_stop = token;
  if (is_eos || is_stop) {
    Finish(*sequence, FinishReason::kStop, std::move(end), events);
    return true;
  }
  if (sequence->num_tokens < request.stopping.max_tokens) return false;
  Finish(*sequence, FinishReason::kLength, std::move(end), events);
  return true;
}

void FakeGenerator::Finish(const Sequence& sequence, FinishReason reason, TokenEvent event,
                           Events* events) {
  event.kind = TokenEvent::Kind::kFinished;
  event.index = sequence.index;
  event.reason = reason;
  event.usage.prompt_tokens = static_cast<int64_t>(sequence.request->prompt.size());
  event.usage.completion_tokens = sequence.num_tokens;
  event.timing = {1, 2, 3, 4};
  events->emplace_back(sequence.request->sink, std::move(event));
}

void FakeGenerator::Deliver(Events* events) {
  for (auto& [sink, event] : *events) sink->Push(std::move(event));
}

}  // namespace tessera::testing

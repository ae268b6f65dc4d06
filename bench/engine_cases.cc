#include "bench/engine_cases.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>
#include <utility>

#include "kernels/base/log.h"
#include "scheduler/residency/adapters/adapter_loader.h"
#include "scheduler/residency/adapters/adapter_registry.h"

namespace tessera::bench {
namespace {

constexpr int64_t kIdleWaitUs = 100'000;
constexpr int kLoaderThreads = 2;  // as in the server
// The popularity of adapters in S-LoRA's traces (arXiv 2311.03285): a request has adapter
// floor(N x), where x has the density a x^(a - 1). The constant is a.
constexpr double kPopularity = 0.8;

}  // namespace

class EngineCases::Sink final : public TokenSink {
 public:
  explicit Sink(Counts* counts) : counts_(counts) {}
  void Push(TokenEvent event) override {
    if (event.kind == TokenEvent::Kind::kToken) {
      counts_->tokens += static_cast<int64_t>(event.tokens.size());
    }
    if (event.kind != TokenEvent::Kind::kFinished) return;
    ++counts_->finished;
    CHECK(event.reason != FinishReason::kError) << event.status;
  }

 private:
  Counts* const counts_;
};

EngineCases::EngineCases(Device device, std::vector<ResolvedAdapter> adapters)
    : registry_(std::move(device.adapters)),
      adapters_(std::move(adapters)),
      models_(device.engine.models),
      step_tokens_(device.engine.max_num_batched_tokens),
      stats_(models_.size()),
      runner_(device.runner.get()),
      core_(device.engine, std::move(device.kv), std::move(device.runner), NewLoader(), &stats_,
            nullptr) {
  runner_->SetOnDone([this](const Completion& done) {
    events_.Send([this, step_id = done.ticket] { core_.OnStepDone(step_id); });
  });
}

std::unique_ptr<AdapterLoader> EngineCases::NewLoader() {
  AdapterLoaderEvents events;
  events.on_read = [this](AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us) {
    auto held = std::make_shared<absl::StatusOr<AdapterImage>>(std::move(image));
    events_.Send([this, id, held, read_us] { core_.OnAdapterRead(id, std::move(*held), read_us); });
  };
  events.on_copied = [this](AdapterId id) {
    events_.Send([this, id] { core_.OnAdapterCopied(id); });
  };
  return NewAdapterLoader(registry_.get(), runner_, kLoaderThreads, std::move(events));
}

Measured EngineCases::Prefill(int64_t num_tokens) {
  Counts counts;
  Submit(RandomPrompt(num_tokens, &rng_), /*cached=*/false, 1, kNoAdapter, &counts);
  const Measured begin = Now();
  while (counts.finished == 0) Turn();
  return Since(begin, num_tokens);
}

// Sends probes to the engine's inbox at a steady rate until Stop. A probe asks for the hit of a
// prompt of 512 tokens, as a router does.
class EngineCases::ProbeLoad final {
 public:
  ProbeLoad(EngineCases* cases, int64_t probes_per_s) {
    if (probes_per_s == 0) return;
    query_.prompt.assign(512, 1);
    thread_ =
        std::thread([this, cases, wait = std::chrono::microseconds(1'000'000 / probes_per_s)] {
          auto next = std::chrono::steady_clock::now();
          while (!stopping_.load()) {
            cases->events_.Send([this, cases] { cases->core_.Probe(query_); });
            next += wait;
            std::this_thread::sleep_until(next);
          }
        });
  }
  // Ends the thread. The probes that were sent must be answered before the object is destroyed.
  void Stop() {
    stopping_.store(true);
    if (thread_.joinable()) thread_.join();
  }

 private:
  ProbeQuery query_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

Measured EngineCases::Decode(const Streams& asked) {
  const auto [streams, context, num_tokens, num_adapters, probes_per_s] = asked;
  Counts counts;
  const int64_t prefill_steps = streams * (context / step_tokens_ + 2);
  // The adapters are loaded first, so that no stream starts long before the others.
  for (int64_t i = 0; i < num_adapters; ++i) {
    Submit({0}, /*cached=*/false, 1, i, &counts);
  }
  while (counts.finished < num_adapters) Turn();
  counts = {};
  for (int64_t i = 0; i < streams; ++i) {
    std::mt19937 rng(static_cast<uint32_t>(i));
    Submit(RandomPrompt(context, &rng), /*cached=*/true, prefill_steps + num_tokens,
           num_adapters > 0 ? i % num_adapters : kNoAdapter, &counts);
  }
  while (AnyWithoutFirstToken()) Turn();
  ProbeLoad probes(this, probes_per_s);
  const int64_t before = counts.tokens;
  const Measured begin = Now();
  while (counts.tokens - before < streams * num_tokens) {
    CHECK_EQ(counts.finished, 0) << "streams end too early";
    Turn();
  }
  const Measured measured = Since(begin, counts.tokens - before);
  CHECK_EQ(measured.tokens, streams * num_tokens);
  probes.Stop();
  core_.CancelAll(CancelReason::kClient);
  while (counts.finished < streams) Turn();
  if (probes_per_s > 0) Turn();  // answers the probes that are still in the inbox
  return measured;
}

Measured EngineCases::Run(const Loop& loop) {
  std::mt19937 lengths(loop.seed);
  std::mt19937 popularity(loop.seed);
  const auto length = [&](int64_t min, int64_t max) {
    return std::uniform_int_distribution<int64_t>(min, max)(lengths);
  };
  const auto adapter = [&]() -> int64_t {
    if (loop.num_adapters == 0) return kNoAdapter;
    const double u = std::uniform_real_distribution<double>(0.0, 1.0)(popularity);
    const auto number = static_cast<int64_t>(static_cast<double>(loop.num_adapters) *
                                             std::pow(u, 1.0 / kPopularity));
    return std::min(number, loop.num_adapters - 1);
  };
  Counts counts;
  int64_t sent = 0;
  const Measured begin = Now();
  while (counts.finished < loop.requests) {
    for (; sent < loop.requests && sent - counts.finished < loop.streams; ++sent) {
      const int64_t num_input = length(loop.min_input, loop.max_input);
      const int64_t num_output = length(loop.min_output, loop.max_output);
      Submit(RandomPrompt(num_input, &rng_), /*cached=*/true, num_output, adapter(), &counts);
    }
    Turn();
  }
  return Since(begin, counts.tokens);
}

std::vector<TokenId> EngineCases::RandomPrompt(int64_t num_tokens, std::mt19937* rng) const {
  std::vector<TokenId> prompt(static_cast<size_t>(num_tokens));
  for (TokenId& token : prompt) {
    token = static_cast<TokenId>((*rng)() % static_cast<uint64_t>(models_[0].vocab_size));
  }
  return prompt;
}

void EngineCases::Submit(std::vector<TokenId> prompt, bool cached, int64_t max_tokens,
                         int64_t adapter, Counts* counts) {
  auto request = std::make_unique<Request>();
  request->id = next_id_++;
  request->prompt = std::move(prompt);
  request->stopping.max_tokens = max_tokens;
  request->stopping.ignore_eos = true;
  request->sampling.temperature = 0.0f;
  request->bypass_prefix = !cached;
  request->arrival_us = clock_.NowUs();
  request->sink = std::make_shared<Sink>(counts);
  if (adapter != kNoAdapter) request->adapter = adapters_.at(static_cast<size_t>(adapter));
  core_.Submit(std::move(request));
  submitted_ = true;
}

void EngineCases::Turn() {
  std::vector<std::function<void()>> events;
  events_.Drain(&events, std::exchange(submitted_, false) ? 0 : kIdleWaitUs);
  core_.BeginRound(clock_.NowUs());
  for (const auto& event : events) event();
  while (core_.LaunchStep()) {
  }
  core_.EndRound();
}

bool EngineCases::AnyWithoutFirstToken() const {
  if (core_.scheduler().num_waiting() > 0) return true;
  for (const Sequence* s : core_.scheduler().Running()) {
    if (s->first_token_us == 0) return true;
  }
  return core_.scheduler().num_running() == 0;
}

Measured EngineCases::Now() const {
  Measured now;
  now.seconds = static_cast<double>(clock_.NowUs()) * 1e-6;
  now.adapter_loads = static_cast<int64_t>(stats_.adapter_loads.value());
  now.preemptions = static_cast<int64_t>(stats_.preemptions.value());
  return now;
}

Measured EngineCases::Since(const Measured& begin, int64_t tokens) const {
  const Measured now = Now();
  return {tokens, now.seconds - begin.seconds, now.adapter_loads - begin.adapter_loads,
          now.preemptions - begin.preemptions};
}

}  // namespace tessera::bench

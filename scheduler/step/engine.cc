// The engine's thread: it takes messages from the inbox and applies them to EngineCore.

#include "scheduler/step/engine.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>
#include <variant>

#include "kernels/base/completion.h"
#include "kernels/base/log.h"
#include "kernels/base/mailbox.h"
#include "kernels/base/status.h"
#include "scheduler/residency/adapters/adapter_loader.h"
#include "scheduler/step/engine_core.h"
#include "scheduler/step/queue_gate.h"

namespace tessera {
namespace {

// Without messages, the loop still starts a round after this time. A stale heartbeat therefore
// means that the engine is stuck, and the loop notices a step that does not end.
constexpr int64_t kIdleWaitUs = 100'000;

struct SubmitMessage {
  std::unique_ptr<Request> request;
};
struct CancelMessage {
  uint64_t request_id;
  int32_t index;
  CancelReason reason;
};
struct CancelAllMessage {
  CancelReason reason;
};
struct ThrottleMessage {
  uint64_t request_id;
  bool paused;
};
struct ProbeMessage {
  ProbeQuery query;
  std::function<void(ProbeResult)> done;
};
struct AdapterReadMessage {
  AdapterId id;
  absl::StatusOr<AdapterImage> image;
  int64_t read_us;
};
struct AdapterCopiedMessage {
  AdapterId id;
};
struct LoadAdapterMessage {
  AdapterId id;
  bool pin;
  AdapterWait wait;
};
struct UnpinAdapterMessage {
  AdapterId id;
};
struct UnloadAdapterMessage {
  AdapterId id;
  bool unpin;
};
// A Completion reports the end of a step.
using Message =
    std::variant<Completion, SubmitMessage, CancelMessage, CancelAllMessage, ThrottleMessage,
                 ProbeMessage, AdapterReadMessage, AdapterCopiedMessage, LoadAdapterMessage,
                 UnpinAdapterMessage, UnloadAdapterMessage>;

// The disk and the conversion to the adapter's dtype limit the speed of reading. More threads would
// take cores from the steps.
constexpr int kLoaderThreads = 2;

class ThreadedEngine final : public Engine {
 public:
  ThreadedEngine(EngineOptions options, std::unique_ptr<KvManager> kv,
                 std::unique_ptr<Runner> runner, const Clock* clock)
      : options_(std::move(options)),
        clock_(clock),
        stats_(options_.models.size()),
        gate_(options_, &stats_),
        runner_(runner.get()),
        core_(options_, std::move(kv), std::move(runner), NewLoader(), &stats_,
              [this] { gate_.Leave(1); }) {
    runner_->SetOnDone([this](Completion done) { inbox_.Send(std::move(done)); });
    heartbeat_us_.store(clock_->NowUs());
    thread_ = std::thread([this] { Loop(); });
  }

  ~ThreadedEngine() override { Stop(); }

  absl::Status MayQueue() override {
    if (stopping_.load()) return ShuttingDown();
    return gate_.MayEnter(core_.scheduler().policy());
  }

  absl::Status Submit(std::unique_ptr<Request> request) override {
    if (stopping_.load()) return ShuttingDown();
    const int64_t num_sequences = request->sampling.n;
    RETURN_IF_ERROR(gate_.Enter(num_sequences, core_.scheduler().policy()));
    if (request->arrival_us == 0) request->arrival_us = clock_->NowUs();
    if (!inbox_.Send(SubmitMessage{std::move(request)})) {
      gate_.Leave(num_sequences);
      return ShuttingDown();
    }
    return absl::OkStatus();
  }

  void Cancel(uint64_t request_id, int32_t index, CancelReason reason) override {
    inbox_.Send(CancelMessage{request_id, index, reason});
  }
  void CancelAll(CancelReason reason) override { inbox_.Send(CancelAllMessage{reason}); }
  void Throttle(uint64_t request_id, bool paused) override {
    inbox_.Send(ThrottleMessage{request_id, paused});
  }
  void Probe(ProbeQuery query, std::function<void(ProbeResult)> done) override {
    inbox_.Send(ProbeMessage{std::move(query), std::move(done)});
  }
  void LoadAdapter(AdapterId id, bool pin, AdapterWait wait) override {
    LoadAdapterMessage message{id, pin, std::move(wait)};
    const auto refuse = message.wait.done;
    if (!inbox_.Send(std::move(message))) {
      refuse(ShuttingDown());
    }
  }
  void UnpinAdapter(AdapterId id) override { inbox_.Send(UnpinAdapterMessage{id}); }
  void UnloadAdapter(AdapterId id, bool unpin) override {
    inbox_.Send(UnloadAdapterMessage{id, unpin});
  }
  int64_t QueueDelayUs() const override {
    return static_cast<int64_t>(stats_.queue_delay_us.value());
  }

  const EngineStats& stats() const override { return stats_; }
  const std::vector<EngineModel>& models() const override { return options_.models; }
  int64_t heartbeat_us() const override { return heartbeat_us_.load(std::memory_order_relaxed); }
  bool live(int64_t stale_us) const override {
    return !overdue_.load(std::memory_order_relaxed) && clock_->NowUs() - heartbeat_us() < stale_us;
  }

  void Stop() override {
    if (stopping_.exchange(true)) return;
    inbox_.Send(CancelAllMessage{CancelReason::kShutdown});
    inbox_.Close();
    thread_.join();
  }

 private:
  // Returns null if the options have no adapters. The loader may send messages to the inbox as soon
  // as it exists.
  std::unique_ptr<AdapterLoader> NewLoader() {
    if (options_.adapters == nullptr) return nullptr;
    AdapterLoaderEvents events;
    events.on_read = [this](AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us) {
      inbox_.Send(AdapterReadMessage{id, std::move(image), read_us});
    };
    events.on_copied = [this](AdapterId id) { inbox_.Send(AdapterCopiedMessage{id}); };
    return NewAdapterLoader(options_.adapters, runner_, kLoaderThreads, std::move(events));
  }

  static absl::Status ShuttingDown() {
    return absl::UnavailableError("the server is shutting down");
  }
  void Loop() {
    std::vector<Message> messages;
    while (inbox_.Drain(&messages, WaitUs())) {
      const int64_t now_us = clock_->NowUs();
      core_.BeginRound(now_us);
      ApplyAll(&messages);
      while (core_.LaunchStep()) {
      }
      const StepHealth health = core_.EndRound();
      gate_.Observe(now_us);
      overdue_.store(health == StepHealth::kOverdue, std::memory_order_relaxed);
      if (health == StepHealth::kGood) heartbeat_us_.store(now_us, std::memory_order_relaxed);
    }
    // Ends the requests that were submitted while the inbox was being closed.
    core_.CancelAll(CancelReason::kShutdown);
  }

  // The time that Drain may wait for a message. After a round nothing can be launched before a
  // message arrives or a time limit expires.
  int64_t WaitUs() const {
    const int64_t deadline_us = core_.NextDeadlineUs();
    if (deadline_us < 0) return kIdleWaitUs;
    return std::clamp<int64_t>(deadline_us - clock_->NowUs(), 0, kIdleWaitUs);
  }

  // Applies the ends of steps first, so that the other messages see the sequences that ended and
  // the pages that became free.
  void ApplyAll(std::vector<Message>* messages) {
    for (const bool of_steps : {true, false}) {
      for (Message& message : *messages) {
        if (std::holds_alternative<Completion>(message) != of_steps) continue;
        std::visit([this](auto& m) { Apply(std::move(m)); }, message);
      }
    }
  }

  void Apply(const Completion& m) {
    CHECK(m.status.ok()) << "step " << m.ticket << ": " << m.status;
    core_.OnStepDone(m.ticket);
  }
  void Apply(SubmitMessage m) { core_.Submit(std::move(m.request)); }
  void Apply(CancelMessage m) { core_.Cancel(m.request_id, m.index, m.reason); }
  void Apply(CancelAllMessage m) { core_.CancelAll(m.reason); }
  void Apply(ThrottleMessage m) { core_.Throttle(m.request_id, m.paused); }
  void Apply(const ProbeMessage& m) { m.done(core_.Probe(m.query)); }
  void Apply(AdapterReadMessage m) { core_.OnAdapterRead(m.id, std::move(m.image), m.read_us); }
  void Apply(AdapterCopiedMessage m) { core_.OnAdapterCopied(m.id); }
  void Apply(LoadAdapterMessage m) { core_.LoadAdapter(m.id, m.pin, std::move(m.wait)); }
  void Apply(UnpinAdapterMessage m) { core_.UnpinAdapter(m.id); }
  void Apply(UnloadAdapterMessage m) { core_.UnloadAdapter(m.id, m.unpin); }

  const EngineOptions options_;
  const Clock* const clock_;
  EngineStats stats_;
  QueueGate gate_;
  Mailbox<Message> inbox_;
  std::atomic<int64_t> heartbeat_us_{0};
  std::atomic<bool> overdue_{false};
  std::atomic<bool> stopping_{false};
  Runner* const runner_;
  EngineCore core_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Engine> NewEngine(EngineOptions options, std::unique_ptr<KvManager> kv,
                                  std::unique_ptr<Runner> runner, const Clock* clock) {
  return std::make_unique<ThreadedEngine>(std::move(options), std::move(kv), std::move(runner),
                                          clock);
}

}  // namespace tessera

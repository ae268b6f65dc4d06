// A deterministic generator without a model. It repeats the tokens of the prompt until a limit or a
// stop. A test can hold its steps, set its pace, and read the requests that it received. Owned by a
// test; the methods are thread-safe, and steps run on the generator's thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/base/clock.h"
#include "scheduler/generator.h"

namespace tessera::testing {

struct FakeGeneratorOptions {
  int64_t max_requests = 1 << 20;  // requests that may be live; a further request is refused
  int64_t token_us = 0;            // pause between steps
  int64_t queue_delay_us = 1'500'000;
  int32_t embedding_size = 8;
  bool held = false;  // the generator starts held: no step runs until Release
  bool fail = false;  // every sequence fails on its first step
};

class FakeGenerator final : public Generator {
 public:
  explicit FakeGenerator(FakeGeneratorOptions options = {});
  ~FakeGenerator() override;

  absl::Status MayQueue() override;
  absl::Status Submit(std::unique_ptr<Request> request) override;
  void Cancel(uint64_t request_id, int32_t index, CancelReason reason) override;
  void Throttle(uint64_t request_id, bool paused) override;
  void Probe(ProbeQuery query, std::function<void(ProbeResult)> done) override;
  int64_t QueueDelayUs() const override { return options_.queue_delay_us; }

  // Blocks all methods and steps of the generator as long as the lock lives.
  std::unique_lock<std::mutex> Block() { return std::unique_lock<std::mutex>(mutex_); }
  void Hold();
  void Release();

  int64_t num_live() const;  // sequences that are not finished
  int64_t max_live() const;  // the largest number of sequences that were live at once
  int64_t num_submitted() const;
  int64_t num_paused() const;  // requests that are paused now
  int64_t num_tokens() const;  // tokens pushed to sinks so far
  int64_t heartbeat_us() const { return heartbeat_us_.load(); }
  // A copy of the last request, without its sink.
  Request last() const;

 private:
  struct Sequence {
    std::shared_ptr<const Request> request;
    int32_t index = 0;
    int64_t num_tokens = 0;
    bool started = false;
  };
  using Events = std::vector<std::pair<std::shared_ptr<TokenSink>, TokenEvent>>;

  void Run();
  absl::Status Room() const;  // REQUIRES: mutex_ is held
  void StepAll(Events* events);
  // Runs one step of the sequence. Returns true when the sequence is finished.
  bool Step(Sequence* sequence, Events* events);
  void Finish(const Sequence& sequence, FinishReason reason, TokenEvent event, Events* events);
  static void Deliver(Events* events);

  const FakeGeneratorOptions options_;
  SteadyClock clock_;
  mutable std::mutex mutex_;
  std::mutex delivery_mutex_;  // held while events are delivered, so that they keep their order
  std::condition_variable wake_;
  std::vector<Sequence> sequences_;
  std::set<uint64_t> paused_;
  Request last_;
  int64_t num_submitted_ = 0;
  int64_t max_live_ = 0;
  int64_t num_tokens_ = 0;
  bool held_;
  bool stop_ = false;
  std::atomic<int64_t> heartbeat_us_{0};
  std::thread thread_;
};

}  // namespace tessera::testing

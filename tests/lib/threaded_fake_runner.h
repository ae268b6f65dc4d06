// ThreadedFakeRunner is a FakeRunner whose steps end on a separate thread, like those of a rank: at
// once, after a given time, or, while a test holds the runner, not at all. An engine owns the
// runner; Hold, Release and AwaitStep may be called on any thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "tests/lib/fake_runner.h"

namespace tessera::testing {

class ThreadedFakeRunner final : public Runner {
 public:
  // Each step takes `wait_us` of real time.
  explicit ThreadedFakeRunner(FakeRunnerOptions options, int64_t wait_us = 0);
  ~ThreadedFakeRunner() override;

  void SetOnDone(std::function<void(Completion)> on_done) override {
    fake_.SetOnDone(std::move(on_done));
  }
  void Launch(const StepBatch* batch, const BatchArena* arena, LayerRange layers,
              StepResult* result) override;
  Transfer* transfer() override { return nullptr; }  // no adapters
  int depth() const override { return fake_.depth(); }

  // Between Hold and Release no step ends.
  void Hold() { SetHeld(true); }
  void Release() { SetHeld(false); }
  // Waits until a step is in flight. REQUIRES: the runner is held.
  void AwaitStep();

 private:
  void SetHeld(bool held);
  void FinishSteps();

  FakeRunner fake_;
  const int64_t wait_us_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int num_launched_ = 0;  // launched steps that have not ended
  bool held_ = false;
  bool stopping_ = false;
  std::thread thread_;  // the last member, because the thread uses all members above
};

}  // namespace tessera::testing

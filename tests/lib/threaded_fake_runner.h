// A FakeRunner whose steps end on a thread of its own, as those of a rank do: at once, after a
// time, or, while a test holds it, not at all.
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

  // Any thread. A held runner ends no step.
  void Hold() { SetHeld(true); }
  void Release() { SetHeld(false); }
  // Until a step is in flight. REQUIRES: held.
  void AwaitStep();

 private:
  void SetHeld(bool held);
  void FinishSteps();

  FakeRunner fake_;
  const int64_t wait_us_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int num_launched_ = 0;  // not ended
  bool held_ = false;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace tessera::testing

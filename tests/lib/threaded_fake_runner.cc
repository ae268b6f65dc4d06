#include "tests/lib/threaded_fake_runner.h"

#include <chrono>
#include <utility>

namespace tessera::testing {

ThreadedFakeRunner::ThreadedFakeRunner(FakeRunnerOptions options, int64_t wait_us)
    : fake_(std::move(options)), wait_us_(wait_us), thread_([this] { FinishSteps(); }) {}

ThreadedFakeRunner::~ThreadedFakeRunner() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ThreadedFakeRunner::Launch(const StepBatch* batch, const BatchArena* arena, LayerRange layers,
                                StepResult* result) {
  fake_.Launch(batch, arena, layers, result);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++num_launched_;
  }
  changed_.notify_all();
}

void ThreadedFakeRunner::AwaitStep() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return num_launched_ > 0; });
}

void ThreadedFakeRunner::SetHeld(bool held) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    held_ = held;
  }
  changed_.notify_all();
}

void ThreadedFakeRunner::FinishSteps() {
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      const auto may_finish = [this] { return stopping_ || (num_launched_ > 0 && !held_); };
      changed_.wait(lock, may_finish);
      if (wait_us_ > 0) {
        changed_.wait_for(lock, std::chrono::microseconds(wait_us_), [this] { return stopping_; });
      }
      if (stopping_) return;
      // A test has held the runner during the wait.
      if (!may_finish()) continue;
      --num_launched_;
    }
    fake_.FinishOldest();
  }
}

}  // namespace tessera::testing

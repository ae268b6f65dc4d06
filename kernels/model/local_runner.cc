#include "kernels/model/local_runner.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "kernels/base/clock.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

class LocalRunner final : public Runner {
 public:
  LocalRunner(RunnerDevice device, const RunnerOptions& options)
      : device_(std::move(device)), options_(options), rank_([this] { RankLoop(); }) {}

  ~LocalRunner() override {
    SetState(State::kStopped);
    rank_.join();
  }

  void Launch(const StepBatch* batch, const BatchArena* arena) override {
    CHECK(state_.load(std::memory_order_relaxed) == State::kIdle) << "a step is in flight";
    CHECK_LT(static_cast<size_t>(batch->model), device_.models.size());
    batch_ = {batch, arena->base()};
    SetState(State::kLaunched);
  }

  StepResult Wait() override {
    CHECK(state_.load(std::memory_order_relaxed) != State::kIdle) << "no step is in flight";
    // No spinning here: the team needs the cores.
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return state_.load() == State::kDone; });
    state_.store(State::kIdle);
    return std::move(result_);
  }

  void WritePage(PageId page, const char* bytes, int64_t num_bytes) override {
    std::memcpy(device_.pool.Page(page), bytes, static_cast<size_t>(num_bytes));
  }

  int depth() const override { return 1; }

 private:
  // kIdle and kDone are the engine's turn, kLaunched the rank's; who has the turn owns batch_ and
  // result_.
  enum class State { kIdle, kLaunched, kDone, kStopped };

  void SetState(State state) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      // A step that ends while the runner is being destroyed does not undo the stop.
      if (state_.load() != State::kStopped) state_.store(state);
    }
    changed_.notify_all();
  }

  State AwaitTurn() {
    const auto is_turn = [this] {
      const State state = state_.load(std::memory_order_acquire);
      return state == State::kLaunched || state == State::kStopped;
    };
    const int64_t spin_until = clock_.NowUs() + options_.spin_us;
    while (!is_turn() && clock_.NowUs() < spin_until) std::this_thread::yield();
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, is_turn);
    return state_.load();
  }

  void RankLoop() {
    while (AwaitTurn() == State::kLaunched) {
      const int64_t begin_us = clock_.NowUs();
      RunnerModel& model = device_.models[batch_.batch->model];
      model.model->RunStep(batch_, KvView{device_.pool, &model.layout}, &result_);
      result_.step_us = clock_.NowUs() - begin_us;
      SetState(State::kDone);
    }
  }

  RunnerDevice device_;
  const RunnerOptions options_;
  const SteadyClock clock_;
  BatchView batch_;
  StepResult result_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<State> state_{State::kIdle};
  std::thread rank_;  // last: it uses all of the above
};

}  // namespace

std::unique_ptr<Runner> NewLocalRunner(RunnerDevice device, const RunnerOptions& options) {
  CHECK(!device.models.empty());
  CHECK(device.backend != nullptr);
  return std::make_unique<LocalRunner>(std::move(device), options);
}

}  // namespace tessera

#include "kernels/model/local_runner.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
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
      : device_(std::move(device)),
        options_(options),
        transfer_(NewCopyTransfer(device_.backend.get(), device_.pool)),
        rank_([this] { RankLoop(); }) {}

  ~LocalRunner() override {
    SetState(State::kStopped);
    rank_.join();
  }

  void SetOnDone(std::function<void(Completion)> on_done) override {
    on_done_ = std::move(on_done);
  }

  void Launch(const StepBatch* batch, const BatchArena* arena, LayerRange layers,
              StepResult* result) override {
    CHECK(state_.load(std::memory_order_relaxed) == State::kIdle) << "a step is in flight";
    CHECK(on_done_ != nullptr) << "nobody would learn of the end of the step";
    CHECK_LT(static_cast<size_t>(batch->model), device_.models.size());
    const int32_t num_layers = device_.models[batch->model].model->spec().num_layers;
    if (layers.last == LayerRange::kToTheEnd) layers.last = num_layers;
    CHECK_EQ(layers.first, next_layer_) << "a step's ranges of layers must adjoin";
    CHECK_LT(layers.first, layers.last);
    if (layers.first > 0) CHECK_EQ(batch->step_id, launched_.view.batch->step_id);
    next_layer_ = layers.last == num_layers ? 0 : layers.last;
    launched_ = {{batch, arena->base()}, layers, result};
    SetState(State::kLaunched);
  }

  Transfer* transfer() override { return transfer_.get(); }

  int depth() const override { return 1; }

 private:
  // In kIdle only the engine's thread accesses launched_, in kLaunched only the rank thread.
  enum class State { kIdle, kLaunched, kStopped };

  struct Launched {
    BatchView view;
    LayerRange layers;
    StepResult* result = nullptr;
  };

  void SetState(State state) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      // kStopped is final: a step that ends while the runner is being destroyed must not replace
      // it.
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
      const uint64_t step_id = launched_.view.batch->step_id;
      RunLaunched();
      // The state is kIdle before on_done_ is called, because the engine may launch the next step
      // as soon as on_done_ is called.
      SetState(State::kIdle);
      on_done_({step_id, absl::OkStatus()});
    }
  }

  void RunLaunched() {
    const int64_t begin_us = clock_.NowUs();
    const auto& [view, layers, result] = launched_;
    RunnerModel& model = device_.models[view.batch->model];
    if (layers.first == 0) {
      model.model->Begin(view, KvView{device_.pool, &model.layout}, result);
      result->step_us = 0;
    }
    model.model->RunLayers(layers.first, layers.last);
    if (layers.last == model.model->spec().num_layers) model.model->Finish();
    result->step_us += clock_.NowUs() - begin_us;
  }

  RunnerDevice device_;
  const RunnerOptions options_;
  const std::unique_ptr<Transfer> transfer_;
  const SteadyClock clock_;
  std::function<void(Completion)> on_done_;
  Launched launched_;
  int32_t next_layer_ = 0;  // next layer of the partly launched step; 0: there is no such step
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<State> state_{State::kIdle};
  std::thread rank_;  // declared last, because the thread uses all members above
};

}  // namespace

std::unique_ptr<Runner> NewLocalRunner(RunnerDevice device, const RunnerOptions& options) {
  CHECK(!device.models.empty());
  CHECK(device.backend != nullptr);
  return std::make_unique<LocalRunner>(std::move(device), options);
}

}  // namespace tessera

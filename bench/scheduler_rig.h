// An engine core on a runner without tensors, which measures the engine thread's time in a step.
// Only the rig, of all files of the scheduler's benchmark, uses Runner and EngineCore. A rig has
// one pool and models of equal shape. One thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/base/clock.h"
#include "scheduler/step/engine_core.h"

namespace tessera::bench {

class StopWatch {
 public:
  double ElapsedMs() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_)
        .count();
  }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

struct RigOptions {
  int32_t num_models = 1;
  int32_t max_num_seqs = 256;
  int32_t max_num_batched_tokens = 1024;
  int32_t page_tokens = 16;
  int64_t num_pages = 0;  // pages of the pool, without the null page
  // A step advances the rig's clock by step_us, plus token_us for each of its tokens.
  int64_t step_us = 1000;
  int64_t token_us = 1;
};

struct RigRequest {
  int32_t model = 0;
  int32_t num_prompt_tokens = 16;
  int32_t num_output_tokens = 2000;  // prompt and output have at most kRigContextTokens
  std::string tenant;
  Priority priority = Priority::kNormal;
  int64_t age_us = 0;  // time since the request's arrival
};

inline constexpr int64_t kRigContextTokens = 4096;

struct StepTimes {
  double plan_ms = 0.0;   // from the start of the step to the end of planning
  double whole_ms = 0.0;  // planning, building the batch, launching and retiring the step
  int64_t num_entries = 0;
};

class SchedulerRig {
 public:
  explicit SchedulerRig(const RigOptions& options);

  // Submits a request. The first pages of all prompts differ, so there are no prefix hits.
  void Submit(const RigRequest& request);
  StepTimes Step();
  void CancelAll() { core_->CancelAll(CancelReason::kClient); }
  // Takes all free pages and keeps them, so that running sequences get no new pages.
  void TakeFreePages();

  int64_t num_running() const { return core_->scheduler().num_running(); }
  int64_t num_waiting() const { return core_->scheduler().num_waiting(); }
  int64_t num_preemptions() const { return static_cast<int64_t>(stats_.preemptions.value()); }

 private:
  ManualClock clock_;
  EngineStats stats_;
  KvManager* kv_;  // owned by the core
  std::unique_ptr<EngineCore> core_;
  std::shared_ptr<TokenSink> sink_;
  uint64_t next_request_id_ = 1;
  uint64_t num_steps_ = 0;
  // The watch and the times of the current step.
  const StopWatch* step_watch_ = nullptr;
  StepTimes step_times_;
};

}  // namespace tessera::bench

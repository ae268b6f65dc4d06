// LoadSimulation runs an EngineCore under a load of requests that arrive at given times, on a
// simulated device whose steps take a time by their size. It records what the engine predicts for
// each request and what the request gets. Time is simulated, so a run of minutes takes
// milliseconds. A test owns the simulation and uses it on its own thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/clock.h"
#include "scheduler/step/engine_core.h"
#include "scheduler/step/queue_gate.h"

namespace tessera::testing {

// Microseconds of a step.
struct SimulatedDevice {
  double step_us = 4000.0;  // fixed time of each step
  double token_us = 60.0;   // of each token
  double key_us = 0.02;     // of each key that a segment reads
};

struct SimulatedRequest {
  int64_t arrival_us = 0;
  int32_t num_prompt_tokens = 1;
  int32_t num_shared_tokens = 0;  // all prompts with the same shared_token have these in common
  TokenId shared_token = 3;
  int64_t max_tokens = 1;
  int64_t num_output_tokens = 1;  // at most max_tokens
  bool pauses = false;            // the reader is slow from the first token on, for ever
  std::string tenant;
  std::string salt;
};

struct SimulatedResult {
  bool refused = false;
  int64_t predicted_us = 0;  // the predicted queue delay when the request arrived
  int64_t retry_us = 0;      // what a refused request is told
  int64_t queue_us = -1;     // time from the arrival to the first step; -1: it never had one
  int64_t ttft_us = -1;
  int64_t end_us = -1;  // when the request ended; -1: it has not
};

struct SimulationOptions {
  EngineOptions engine;
  SimulatedDevice device;
  int64_t num_pages = 1 << 16;  // pages of 16 tokens
  int64_t max_model_len = 1 << 17;
};

class LoadSimulation final {
 public:
  explicit LoadSimulation(const SimulationOptions& options);
  ~LoadSimulation();

  // Runs the requests, sorted by arrival, until all have ended or `end_us`. A later call continues
  // at the time at which the earlier call ended; its arrivals are on the same clock.
  std::vector<SimulatedResult> Run(const std::vector<SimulatedRequest>& requests,
                                   int64_t end_us = int64_t{1} << 60);

  int64_t now_us() const { return clock_.NowUs(); }
  const EngineStats& stats() const { return *stats_; }
  EngineCore& core() { return *core_; }

 private:
  class Device;
  class Sink;

  void Arrive(const SimulatedRequest& asked, SimulatedResult* result);
  void Round(const SimulatedRequest* asked, SimulatedResult* result, bool step_ends);

  const SimulationOptions options_;
  EngineOptions engine_options_;
  ManualClock clock_;
  std::unique_ptr<EngineStats> stats_;
  std::unique_ptr<QueueGate> gate_;
  Device* device_ = nullptr;  // owned by the core
  std::unique_ptr<EngineCore> core_;
  uint64_t next_id_ = 1;
  uint64_t next_step_ = 1;  // the oldest step that has not ended
  std::vector<uint64_t> to_pause_;
};

}  // namespace tessera::testing

// The Runner of one device in this process. Its rank thread owns the backend, the models and the
// pool's memory, and runs launched steps in order. At most one launch is in flight. The engine owns
// the runner and calls it on the engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "kernels/device/comm.h"
#include "kernels/model/model.h"
#include "kernels/model/runner.h"
#include "kernels/step/page_layout.h"

namespace tessera {

struct RunnerModel {
  std::unique_ptr<Model> model;
  PageLayout layout;
};

// A device and its models; StepBatch::model is an index in `models`. Members are destroyed from the
// last to the first.
struct RunnerDevice {
  std::unique_ptr<ThreadTeam> team;  // null if the backend uses no team
  std::unique_ptr<Comm> comm;        // null: no model is split over ranks
  std::unique_ptr<Backend> backend;
  std::unique_ptr<DeviceBuffer> pool_memory;  // null: the caller owns the memory of `pool`
  PoolView pool;
  std::vector<RunnerModel> models;
};

struct RunnerOptions {
  // Time in microseconds for which the rank thread polls for the next step before it sleeps. A time
  // longer than the engine's gap between two steps saves one wake-up per step. A polling rank
  // thread yields its core to other threads.
  int32_t spin_us = 50;
};

// REQUIRES: device.models is not empty, and no other thread uses the device.
std::unique_ptr<Runner> NewLocalRunner(RunnerDevice device, const RunnerOptions& options);

}  // namespace tessera

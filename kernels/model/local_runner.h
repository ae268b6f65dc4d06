// The Runner of one device in this process: a rank thread that owns the backend, the models and the
// pool's memory, and runs launched steps in order. One launch may be in flight.
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

// A device and what it runs; StepBatch::model is an index of `models`. Members are destroyed from
// the last to the first.
struct RunnerDevice {
  std::unique_ptr<ThreadTeam> team;  // null for backends that use none
  std::unique_ptr<Comm> comm;        // null: no model is split over ranks
  std::unique_ptr<Backend> backend;
  std::unique_ptr<DeviceBuffer> pool_memory;  // null when the caller owns what `pool` views
  PoolView pool;
  std::vector<RunnerModel> models;
};

struct RunnerOptions {
  // How long the rank thread watches for the next step before it sleeps, in microseconds. Longer
  // than the engine takes between steps saves a wake-up each; it yields its core meanwhile.
  int32_t spin_us = 50;
};

// REQUIRES: device.models is not empty and no other thread uses the device any more.
std::unique_ptr<Runner> NewLocalRunner(RunnerDevice device, const RunnerOptions& options);

}  // namespace tessera

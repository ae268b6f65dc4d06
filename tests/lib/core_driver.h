// Drives an EngineCore by hand, a round at a time: launches a step if there is room, and retires
// the oldest one if the runner is full or nothing could be launched. With depth 1 a round is a
// step.
#pragma once

#include <functional>
#include <memory>

#include "kernels/base/clock.h"
#include "kernels/base/completion.h"
#include "kernels/base/mailbox.h"
#include "scheduler/step/engine_core.h"

namespace tessera::testing {

class CoreDriver final {
 public:
  // `finish_oldest` makes the runner end its oldest step; null: it does so by itself. All outlive
  // the driver.
  CoreDriver(EngineCore* core, const Clock* clock, std::function<void()> finish_oldest = nullptr);

  // False when there is nothing to do until a message or NextDeadlineUs.
  bool RunOnce();

  // The halves of a round, for tests in which a step is in flight between them.
  bool LaunchStep();
  // REQUIRES: a step is in flight.
  void RetireOldest();

 private:
  EngineCore* const core_;
  const Clock* const clock_;
  const std::function<void()> finish_oldest_;
  // The runner's too: it may report once more when it is destroyed.
  const std::shared_ptr<Mailbox<Completion>> done_;
};

}  // namespace tessera::testing

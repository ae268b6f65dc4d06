// CoreDriver runs an EngineCore one round at a time. A round launches a step if the runner has
// room. It retires the oldest step if the runner is full or no step could be launched. With depth 1
// a round is a whole step. A test owns the driver and uses it on its own thread.
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
  // `finish_oldest` makes the runner end its oldest step; null if the runner ends its steps by
  // itself. `core` and `clock` must outlive the driver.
  CoreDriver(EngineCore* core, const Clock* clock, std::function<void()> finish_oldest = nullptr);

  // Runs one round. Returns false if the core has nothing to do until a message or NextDeadlineUs.
  bool RunOnce();

  // The two halves of a round, for tests that act while a step is in flight. LaunchStep returns
  // whether it launched a step.
  bool LaunchStep();
  // REQUIRES: a step is in flight.
  void RetireOldest();

 private:
  EngineCore* const core_;
  const Clock* const clock_;
  const std::function<void()> finish_oldest_;
  // Shared with the runner, because the runner may report a step when it is destroyed.
  const std::shared_ptr<Mailbox<Completion>> done_;
};

}  // namespace tessera::testing

// The end of anything asynchronous: a step, a read, a copy. Whoever finishes the work makes one, on
// a thread of its own; it reaches the owner of the state through the owner's mailbox.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace tessera {

struct Completion {
  uint64_t ticket = 0;  // what the work was started under; of a step: StepBatch::step_id
  // A step is always OK: a device that fails ends the process.
  absl::Status status;
};

}  // namespace tessera

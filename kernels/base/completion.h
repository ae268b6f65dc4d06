// A Completion reports the end of asynchronous work: a step, a read or a copy. The thread that did
// the work creates the Completion and sends it to the mailbox of the thread that owns the state.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace tessera {

struct Completion {
  uint64_t ticket = 0;  // the id that the work was started with; a step's is StepBatch::step_id
  // The status of a step is always OK, because a device failure ends the process.
  absl::Status status;
};

}  // namespace tessera

// A check at start that the process may create the threads that it needs. Libraries such as gRPC
// hang or abort without a message when they cannot create a thread later.
#pragma once

#include "absl/status/status.h"

namespace tessera {

// Creates `num_threads` threads that exist at the same time, and ends them. RESOURCE_EXHAUSTED says
// how many could be created and which limits to raise. Any thread.
absl::Status CheckThreads(int num_threads);

}  // namespace tessera

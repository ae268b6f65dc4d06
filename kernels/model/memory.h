// How much memory this process may still take. Any thread.
#pragma once

#include <cstdint>

namespace tessera {

// The lesser of what the machine has available and what the process's control group leaves.
// INT64_MAX when neither can be read.
int64_t AvailableMemoryBytes();

}  // namespace tessera

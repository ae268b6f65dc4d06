// The amount of memory that this process may still allocate. Pure functions; any thread.
#pragma once

#include <cstdint>

namespace tessera {

// Returns the smaller of the machine's available memory and the memory that the limit of the
// process's control group leaves. Returns INT64_MAX when neither can be read.
int64_t AvailableMemoryBytes();

}  // namespace tessera

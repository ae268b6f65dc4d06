// The limit of file descriptors of this process. Any thread; the limit belongs to the process.
#pragma once

#include <cstdint>

namespace tessera {

// Raises the soft limit of descriptors to the hard limit, as far as the system allows. Returns the
// limit that holds then.
int64_t RaiseDescriptorLimit();

// The number of connections that fit below `limit` descriptors, of which `used` are in use, when
// a reserve is kept for files, adapters, metrics and probes. Not negative.
int64_t ConnectionsWithin(int64_t limit, int64_t used);

// The number of descriptors that this process uses.
int64_t NumOpenDescriptors();

}  // namespace tessera

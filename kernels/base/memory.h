// The amount of memory that this process may still allocate. The functions read files of the Linux
// kernel and change no state; any thread may call them.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/base/cgroup.h"

namespace tessera {

struct AvailableMemory {
  int64_t bytes = 0;  // INT64_MAX if nothing could be read
  // What bounds the memory, e.g. "memory.max of /sys/fs/cgroup/box", so that an error can name what
  // to change.
  std::string bound;
};

// The paths at which the kernel describes memory. Tests replace them.
struct MemoryFiles {
  CgroupFiles cgroup;
  std::string machine = "/proc/meminfo";
  std::string own = "/proc/self/status";
};

// Returns the smallest of: the machine's available memory, what the limits of the process's control
// groups leave (versions 1 and 2, the whole path to the root), and what the limits of the process's
// address space and data leave (ulimit -v, ulimit -d) after a reserve for stacks and libraries.
AvailableMemory FindAvailableMemory(const MemoryFiles& files = {});

}  // namespace tessera

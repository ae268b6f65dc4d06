// The number of compute threads that the process should start: the number of physical cores among
// the processors that the process may run on, limited by the CPU quota of its control group
// (cgroup). The functions read files of the Linux kernel and change no state; any thread may call
// them.
#pragma once

#include <string>
#include <vector>

#include "kernels/base/cgroup.h"

namespace tessera {

// The paths at which the Linux kernel describes processors and control groups. Tests replace them.
struct CoreFiles {
  std::string cpus = "/sys/devices/system/cpu";  // folder with cpu0/topology, cpu1/topology, ...
  CgroupFiles cgroup;
};

// Returns the number of distinct physical cores of the given logical processors, at most the CPU
// quota rounded up, and at least 1. A processor whose core cannot be read counts as one core.
int NumCores(const std::vector<int>& processors, const CoreFiles& files);

// NumCores of the processors and the control group of this process.
int NumUsableCores();

}  // namespace tessera

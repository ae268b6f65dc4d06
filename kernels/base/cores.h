// How many threads of computing this machine lends the process: the physical cores among the
// processors it may run on, and no more than its control group's quota pays for. Any thread.
#pragma once

#include <string>
#include <vector>

namespace tessera {

// Where the kernel tells. Other folders in tests.
struct CoreFiles {
  std::string cpus = "/sys/devices/system/cpu";  // has cpu0/topology, ...
  std::string cgroup_root = "/sys/fs/cgroup";    // of version 2: has cpu.max where a quota is set
  std::string own_cgroup = "/proc/self/cgroup";  // where below the root this process is
};

// Distinct physical cores of these logical processors, at most the quota rounded up. A processor
// whose core cannot be read counts as one. At least 1.
int NumCores(const std::vector<int>& processors, const CoreFiles& files);

// Of this process.
int NumUsableCores();

}  // namespace tessera

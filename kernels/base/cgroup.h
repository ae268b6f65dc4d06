// The control groups (cgroups) of the process, of both versions of the interface. A limit of a
// group also binds all groups below it, so a reader takes the smallest limit of all folders. The
// functions read files of the Linux kernel and change no state; any thread may call them.
#pragma once

#include <string>
#include <vector>

namespace tessera {

// The paths at which the kernel describes control groups. Tests replace them.
struct CgroupFiles {
  std::string root = "/sys/fs/cgroup";    // where the trees of groups are mounted
  std::string own = "/proc/self/cgroup";  // names the groups of the process
};

// Returns the folders of the process's group and of its ancestors in the unified tree (version 2).
// A folder may lack any file: inside a container, the path that the kernel names may not exist, and
// the container's group is the root.
std::vector<std::string> CgroupFolders(const CgroupFiles& files);
// The same in the tree of one controller of version 1, e.g. "memory" or "cpu".
std::vector<std::string> CgroupV1Folders(const CgroupFiles& files, const std::string& controller);

}  // namespace tessera

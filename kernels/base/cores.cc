#include "kernels/base/cores.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <set>

namespace tessera {
namespace {

constexpr int kMaxProcessors = 1 << 16;

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Returns a string that identifies the processor's physical core: the list of the logical
// processors that share the core.
std::string CoreOf(int processor, const CoreFiles& files) {
  const std::string cpu = "cpu" + std::to_string(processor);
  const std::string topology = files.cpus + "/" + cpu + "/topology/";
  std::string core = FirstLine(topology + "core_cpus_list");
  if (core.empty()) core = FirstLine(topology + "thread_siblings_list");  // before Linux 5.3
  return core.empty() ? cpu : core;
}

// Returns the CPU quota of a control group in processors. The group's file cpu.max holds "QUOTA
// PERIOD" in microseconds. The quota is infinite if QUOTA is "max" or the file does not exist.
double QuotaOf(const std::string& group) {
  std::ifstream file(group + "/cpu.max");
  double quota_us = 0.0;
  double period_us = 0.0;
  const bool set = file >> quota_us >> period_us && quota_us > 0.0 && period_us > 0.0;
  return set ? quota_us / period_us : INFINITY;
}

// Returns the path of the process's control group below the cgroup root, from the line "0::/path".
// The path is empty for the root group. Inside a container, the container's group is the root.
std::string OwnCgroup(const CoreFiles& files) {
  std::ifstream file(files.own_cgroup);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("0::/", 0) == 0 && line.size() > 4) return line.substr(3);
  }
  return "";
}

// Returns the smallest quota of the process's control group and its ancestors, because a group's
// quota also limits all groups below it.
double Quota(const CoreFiles& files) {
  std::string path = OwnCgroup(files);
  double quota = QuotaOf(files.cgroup_root);
  while (!path.empty()) {
    quota = std::min(quota, QuotaOf(files.cgroup_root + path));
    path.resize(path.rfind('/'));
  }
  return quota;
}

// Returns the logical processors in the process's affinity mask.
std::vector<int> OwnProcessors() {
  for (int size = CPU_SETSIZE; size <= kMaxProcessors; size *= 2) {
    std::vector<cpu_set_t> set(static_cast<size_t>(size / CPU_SETSIZE));
    const size_t bytes = set.size() * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, set.data()) == 0) {
      std::vector<int> processors;
      for (int i = 0; i < size; ++i) {
        if (CPU_ISSET_S(i, bytes, set.data())) processors.push_back(i);
      }
      return processors;
    }
    if (errno != EINVAL) break;  // EINVAL: the mask is too small for this machine
  }
  return {};
}

}  // namespace

int NumCores(const std::vector<int>& processors, const CoreFiles& files) {
  std::set<std::string> cores;
  for (const int processor : processors) cores.insert(CoreOf(processor, files));
  const double quota = std::ceil(Quota(files));
  const double count = std::min(static_cast<double>(cores.size()), quota);
  return std::max(1, static_cast<int>(count));
}

int NumUsableCores() { return NumCores(OwnProcessors(), CoreFiles()); }

}  // namespace tessera

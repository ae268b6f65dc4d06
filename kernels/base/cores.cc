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

// Returns a quota in processors; it is infinite if one of the numbers is not a positive number.
double Processors(std::istream& quota_us, std::istream& period_us) {
  double quota = 0.0;
  double period = 0.0;
  const bool set = quota_us >> quota && period_us >> period && quota > 0.0 && period > 0.0;
  return set ? quota / period : INFINITY;
}

// Returns the smallest CPU quota of the process's control groups, of both versions. The file
// cpu.max of version 2 holds "QUOTA PERIOD" in microseconds; QUOTA may be "max". Version 1 has a
// file for each number, and its quota may be -1.
double Quota(const CgroupFiles& files) {
  double quota = INFINITY;
  for (const std::string& folder : CgroupFolders(files)) {
    std::ifstream both(folder + "/cpu.max");
    quota = std::min(quota, Processors(both, both));
  }
  for (const std::string& folder : CgroupV1Folders(files, "cpu")) {
    std::ifstream quota_us(folder + "/cpu.cfs_quota_us");
    std::ifstream period_us(folder + "/cpu.cfs_period_us");
    quota = std::min(quota, Processors(quota_us, period_us));
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
  const double quota = std::ceil(Quota(files.cgroup));
  const double count = std::min(static_cast<double>(cores.size()), quota);
  return std::max(1, static_cast<int>(count));
}

int NumUsableCores() { return NumCores(OwnProcessors(), CoreFiles()); }

}  // namespace tessera

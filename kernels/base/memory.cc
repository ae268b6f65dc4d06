#include "kernels/base/memory.h"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <limits>

namespace tessera {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();
constexpr int64_t kKib = 1024;

// Of a limit of the process's address space, this much is left to the stacks of threads (8 MiB
// each), to libraries and to requests.
constexpr int64_t kAddressSpaceReserve = int64_t{512} << 20;

// Reads the number that follows `key` in a file of "key number" lines. With an empty key, the whole
// file is one number.
int64_t ReadNumber(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    int64_t value = 0;
    if (!key.empty() && word != key) continue;
    if (!key.empty()) return file >> value ? value : kUnknown;
    if (word.empty() || word.find_first_not_of("0123456789") != std::string::npos) return kUnknown;
    return word.size() > 18 ? kUnknown : std::stoll(word);
  }
  return kUnknown;
}

int64_t ReadOr(const std::string& path, const std::string& key, int64_t otherwise) {
  const int64_t value = ReadNumber(path, key);
  return value == kUnknown ? otherwise : value;
}

void Include(int64_t bytes, const std::string& bound, AvailableMemory* memory) {
  if (bytes >= memory->bytes) return;
  memory->bytes = std::max<int64_t>(bytes, 0);
  memory->bound = bound;
}

// The names of a group's files in one version of the interface.
struct GroupNames {
  const char* limit;
  const char* usage;
  const char* cache;   // key in memory.stat: bytes of the page cache, with shared memory
  const char* shared;  // key in memory.stat: bytes of shared memory
};
constexpr GroupNames kVersion2[] = {{"memory.max", "memory.current", "file", "shmem"},
                                    {"memory.high", "memory.current", "file", "shmem"}};
constexpr GroupNames kVersion1[] = {
    {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"}};

// Includes what the limit of a control group leaves. The group's page cache can be reclaimed, so
// the cache does not count as used; shared memory can not.
void IncludeGroup(const std::string& folder, const GroupNames& names, AvailableMemory* memory) {
  const int64_t limit = ReadNumber(folder + "/" + names.limit, "");
  const int64_t usage = ReadNumber(folder + "/" + names.usage, "");
  if (limit == kUnknown || usage == kUnknown) return;
  const std::string stat = folder + "/memory.stat";
  const int64_t cache = ReadOr(stat, names.cache, 0) - ReadOr(stat, names.shared, 0);
  Include(limit - usage + std::max<int64_t>(cache, 0), std::string(names.limit) + " of " + folder,
          memory);
}

// Includes what a limit of the process leaves. `used_key` is the key in /proc/self/status.
void IncludeLimit(int resource, const std::string& own, const std::string& used_key,
                  const std::string& name, AvailableMemory* memory) {
  rlimit limit = {};
  if (getrlimit(static_cast<__rlimit_resource_t>(resource), &limit) != 0) return;
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > static_cast<rlim_t>(kUnknown)) return;
  const int64_t used = ReadOr(own, used_key, 0) * kKib;
  Include(static_cast<int64_t>(limit.rlim_cur) - used - kAddressSpaceReserve, name, memory);
}

}  // namespace

AvailableMemory FindAvailableMemory(const MemoryFiles& files) {
  AvailableMemory memory{kUnknown, "nothing"};
  const int64_t machine_kib = ReadNumber(files.machine, "MemAvailable:");
  if (machine_kib != kUnknown) Include(machine_kib * kKib, "the machine's free memory", &memory);
  for (const std::string& folder : CgroupFolders(files.cgroup)) {
    for (const GroupNames& names : kVersion2) IncludeGroup(folder, names, &memory);
  }
  for (const std::string& folder : CgroupV1Folders(files.cgroup, "memory")) {
    for (const GroupNames& names : kVersion1) IncludeGroup(folder, names, &memory);
  }
  IncludeLimit(RLIMIT_AS, files.own, "VmSize:", "the limit of address space, ulimit -v", &memory);
  IncludeLimit(RLIMIT_DATA, files.own, "VmData:", "the limit of data, ulimit -d", &memory);
  return memory;
}

}  // namespace tessera

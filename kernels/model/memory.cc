#include "kernels/model/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace tessera {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

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

// Returns the memory that a control group's limit leaves. The group's page cache can be reclaimed,
// so the cache does not count as used.
int64_t LeftInGroup(const std::string& limit_path, const std::string& usage_path,
                    const std::string& stat_path, const std::string& cache_key) {
  const int64_t limit = ReadNumber(limit_path, "");
  const int64_t usage = ReadNumber(usage_path, "");
  if (limit == kUnknown || usage == kUnknown) return kUnknown;
  const int64_t cache = ReadNumber(stat_path, cache_key);
  return limit - usage + (cache == kUnknown ? 0 : cache);
}

}  // namespace

int64_t AvailableMemoryBytes() {
  const int64_t machine_kib = ReadNumber("/proc/meminfo", "MemAvailable:");
  const int64_t machine = machine_kib == kUnknown ? kUnknown : machine_kib * 1024;
  const std::string v2 = "/sys/fs/cgroup/";
  const std::string v1 = "/sys/fs/cgroup/memory/";
  const int64_t group2 =
      LeftInGroup(v2 + "memory.max", v2 + "memory.current", v2 + "memory.stat", "file");
  const int64_t group1 = LeftInGroup(v1 + "memory.limit_in_bytes", v1 + "memory.usage_in_bytes",
                                     v1 + "memory.stat", "total_cache");
  return std::max<int64_t>(std::min({machine, group1, group2}), 0);
}

}  // namespace tessera

#include "server/door/descriptors.h"

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

namespace tessera {
namespace {

// A connection uses its socket and both ends of the pair that leads to gRPC.
constexpr int64_t kDescriptorsPerConnection = 3;
constexpr int64_t kMinReserve = 16;
constexpr int64_t kMaxReserve = 128;

}  // namespace

int64_t RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  rlimit raised = limit;
  raised.rlim_cur = raised.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  return static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, INT32_MAX));
}

int64_t ConnectionsWithin(int64_t limit, int64_t used) {
  const int64_t reserve = std::clamp(limit / 8, kMinReserve, kMaxReserve);
  return std::max(int64_t{0}, (limit - used - reserve) / kDescriptorsPerConnection);
}

int64_t NumOpenDescriptors() {
  std::error_code error;
  int64_t count = 0;
  for (std::filesystem::directory_iterator file("/proc/self/fd", error), end; !error && file != end;
       file.increment(error)) {
    ++count;
  }
  return count;
}

}  // namespace tessera

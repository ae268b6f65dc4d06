#include "kernels/base/fault.h"

#include <map>
#include <mutex>

namespace tessera {
namespace {

struct ArmedFault {
  int skip;
  int times;
};

// Function-local so that no order of static construction matters. Tests alone write to it.
struct FaultTable {
  std::mutex mutex;
  std::map<std::string, ArmedFault> armed;
};

FaultTable& Table() {
  static FaultTable* table = new FaultTable();
  return *table;
}

}  // namespace

namespace internal {

std::atomic<int> num_armed_faults{0};

bool FaultFires(const char* name) {
  FaultTable& table = Table();
  std::lock_guard<std::mutex> lock(table.mutex);
  const auto it = table.armed.find(name);
  if (it == table.armed.end()) return false;
  if (it->second.skip > 0) {
    --it->second.skip;
    return false;
  }
  if (it->second.times == 0) return false;
  --it->second.times;
  return true;
}

}  // namespace internal

ScopedFault::ScopedFault(std::string name, int skip, int times) : name_(std::move(name)) {
  FaultTable& table = Table();
  std::lock_guard<std::mutex> lock(table.mutex);
  table.armed[name_] = {skip, times};
  internal::num_armed_faults.fetch_add(1, std::memory_order_relaxed);
}

ScopedFault::~ScopedFault() {
  FaultTable& table = Table();
  std::lock_guard<std::mutex> lock(table.mutex);
  table.armed.erase(name_);
  internal::num_armed_faults.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace tessera

// Named fault points for tests. A point costs one relaxed load when nothing is armed.
#pragma once

#include <atomic>
#include <string>

namespace tessera {

namespace internal {
extern std::atomic<int> num_armed_faults;
bool FaultFires(const char* name);
}  // namespace internal

// True when a test armed the point and its turn has come.
inline bool Fault(const char* name) {
  return internal::num_armed_faults.load(std::memory_order_relaxed) > 0 &&
         internal::FaultFires(name);
}

// Arms a point for the object's lifetime: it fires `times` times after being passed `skip` times.
// Test code only.
class ScopedFault {
 public:
  explicit ScopedFault(std::string name, int skip = 0, int times = 1);
  ~ScopedFault();
  ScopedFault(const ScopedFault&) = delete;
  ScopedFault& operator=(const ScopedFault&) = delete;

 private:
  std::string name_;
};

}  // namespace tessera

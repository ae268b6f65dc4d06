// A lane for large requests: one thread that tokenises what would keep a responder from its other
// streams. What waits in it is bounded in bytes.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

#include "kernels/base/mailbox.h"

namespace tessera {

class Preparer final {
 public:
  explicit Preparer(int64_t max_bytes);
  // Finishes what is in the lane.
  ~Preparer();
  Preparer(const Preparer&) = delete;
  Preparer& operator=(const Preparer&) = delete;

  // False, and nothing happens, when the lane is full.
  bool Submit(int64_t bytes, std::function<void()> job);

 private:
  struct Job {
    int64_t bytes = 0;
    std::function<void()> run;
  };

  const int64_t max_bytes_;
  std::atomic<int64_t> waiting_bytes_{0};
  Mailbox<Job> jobs_;
  std::thread thread_;
};

}  // namespace tessera

#include "server/preparer.h"

#include <utility>
#include <vector>

namespace tessera {

Preparer::Preparer(int64_t max_bytes) : max_bytes_(max_bytes) {
  thread_ = std::thread([this] {
    std::vector<Job> batch;
    while (jobs_.Drain(&batch, -1)) {
      for (Job& job : batch) {
        job.run();
        job.run = nullptr;
        waiting_bytes_.fetch_sub(job.bytes, std::memory_order_relaxed);
      }
    }
  });
}

Preparer::~Preparer() {
  jobs_.Close();
  thread_.join();
}

bool Preparer::Submit(int64_t bytes, std::function<void()> job) {
  const int64_t before = waiting_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  // One job always fits, so that no size is refused for ever.
  if ((before > 0 && before + bytes > max_bytes_) || !jobs_.Send({bytes, std::move(job)})) {
    waiting_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
    return false;
  }
  return true;
}

}  // namespace tessera

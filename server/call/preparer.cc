#include "server/call/preparer.h"

#include <sys/resource.h>

#include <utility>

#include "kernels/base/clock.h"

namespace tessera {
namespace {

constexpr int64_t kTurnUsPerByte = 10;

}  // namespace

Preparer::Preparer(int64_t max_bytes, const Clock* clock, PreparerOptions options)
    : max_bytes_(max_bytes), clock_(clock) {
  for (int32_t i = 0; i < options.num_threads; ++i) {
    threads_.emplace_back([this, gives_way = options.gives_way] { Run(gives_way); });
  }
}

Preparer::~Preparer() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::optional<Preparer::Ticket> Preparer::Submit(int64_t bytes, std::function<void()> job) {
  Ticket ticket;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    // An idle preparer accepts a job of any size. Otherwise a job larger than max_bytes_ could
    // never run.
    if (closed_ || (bytes_ > 0 && bytes_ + bytes > max_bytes_)) return std::nullopt;
    bytes_ += bytes;
    ticket = {clock_->NowUs() + kTurnUsPerByte * bytes, next_job_++};
    waiting_.emplace(ticket, Job{bytes, std::move(job)});
  }
  changed_.notify_one();
  return ticket;
}

bool Preparer::Cancel(const Ticket& ticket) {
  Job dropped;  // freed without the lock
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it = waiting_.find(ticket);
  if (it == waiting_.end()) return false;
  dropped = std::move(it->second);
  waiting_.erase(it);
  bytes_ -= dropped.bytes;
  return true;
}

void Preparer::Run(bool gives_way) {
  if (gives_way) setpriority(PRIO_PROCESS, 0, 10);  // Linux: the priority of this thread only
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return closed_ || !waiting_.empty(); });
    if (closed_) return;
    Job job = std::move(waiting_.begin()->second);
    waiting_.erase(waiting_.begin());
    lock.unlock();
    job.run();
    job.run = nullptr;
    lock.lock();
    bytes_ -= job.bytes;
  }
}

}  // namespace tessera

#include "kernels/base/thread_team.h"

#include <chrono>

#include "kernels/base/log.h"

namespace tessera {
namespace {

// Time for which a worker spins before it sleeps. It is longer than the gap between two ops of a
// step, and short enough to cost an idle server no noticeable CPU time.
constexpr int64_t kSpinNs = 100'000;

void CpuRelax() { __builtin_ia32_pause(); }

}  // namespace

ThreadTeam::ThreadTeam(int num_threads) : num_threads_(num_threads) {
  CHECK_GE(num_threads, 1);
  for (int member = 1; member < num_threads; ++member) {
    workers_.emplace_back([this, member] { WorkerLoop(member); });
  }
}

ThreadTeam::~ThreadTeam() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::RunErased(ErasedBody body, const void* context) {
  if (num_threads_ == 1) {
    body(context, 0);
    return;
  }
  body_ = body;
  context_ = context;
  num_running_.store(num_threads_ - 1, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_seq_cst);
  // Both this thread and a worker that is about to sleep use seq_cst. So either the worker sees the
  // new generation and does not sleep, or this thread sees num_sleeping_ > 0 and wakes the worker.
  if (num_sleeping_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  body(context, 0);
  int spins = 0;
  while (num_running_.load(std::memory_order_acquire) != 0) {
    // A wait this long means that members outnumber free cores: yield this core to a worker.
    if (++spins > 20'000) std::this_thread::yield();
    CpuRelax();
  }
}

void ThreadTeam::WorkerLoop(int member) {
  uint64_t seen = 0;
  for (;;) {
    const auto spin_until = std::chrono::steady_clock::now() + std::chrono::nanoseconds(kSpinNs);
    while (generation_.load(std::memory_order_acquire) == seen) {
      for (int i = 0; i < 64 && generation_.load(std::memory_order_relaxed) == seen; ++i)
        CpuRelax();
      if (generation_.load(std::memory_order_relaxed) != seen) continue;
      if (std::chrono::steady_clock::now() < spin_until) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      num_sleeping_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_seq_cst) != seen; });
      num_sleeping_.fetch_sub(1, std::memory_order_relaxed);
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    body_(context_, member);
    num_running_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

}  // namespace tessera

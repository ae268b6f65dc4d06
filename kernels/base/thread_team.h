// A ThreadTeam runs one function on all compute threads and waits until all have returned
// (fork-join). The process has one team; later it will have one per NUMA node. After a job a worker
// thread spins for a short time before it sleeps, so that the next op of a layer starts in about a
// microsecond. The calling thread computes too, as member 0. Only one thread, the rank thread, may
// call Run and ParallelFor.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace tessera {

class ThreadTeam {
 public:
  // num_threads includes the calling thread. REQUIRES: num_threads >= 1.
  explicit ThreadTeam(int num_threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int num_threads() const { return num_threads_; }

  // Runs body(member) on every member, 0 <= member < num_threads(). Returns when all members have
  // returned from body.
  template <class Body>
  void Run(const Body& body) {
    RunErased([](const void* context, int member) { (*static_cast<const Body*>(context))(member); },
              &body);
  }

  // Splits [0, count) into tasks of `grain` indices and runs body(begin, end, member) for each
  // task. A member that becomes idle takes the next task. REQUIRES: the result of a task does not
  // depend on the member that runs it.
  template <class Body>
  void ParallelFor(int64_t count, int64_t grain, const Body& body) {
    if (count <= 0) return;
    if (num_threads_ == 1 || count <= grain) {
      body(int64_t{0}, count, 0);
      return;
    }
    std::atomic<int64_t> next{0};
    Run([&](int member) {
      for (;;) {
        const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= count) return;
        body(begin, begin + grain < count ? begin + grain : count, member);
      }
    });
  }

 private:
  using ErasedBody = void (*)(const void* context, int member);
  void RunErased(ErasedBody body, const void* context);
  void WorkerLoop(int member);

  const int num_threads_;
  std::vector<std::thread> workers_;
  // RunErased publishes a job by incrementing generation_. Each worker decrements num_running_ when
  // its part of the job is done; the job has ended when num_running_ is 0.
  ErasedBody body_ = nullptr;
  const void* context_ = nullptr;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> num_running_{0};
  std::atomic<int> num_sleeping_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace tessera

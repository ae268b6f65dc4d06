// The process's one team of compute threads (per NUMA node, later): fork-join over an index range.
// Workers spin for a short while after a job so that the next op of a layer starts in about a
// microsecond, then sleep. The caller is member 0. One caller at a time: the rank thread.
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
  // num_threads counts the caller. REQUIRES: num_threads >= 1.
  explicit ThreadTeam(int num_threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int num_threads() const { return num_threads_; }

  // Runs body(member) on every member, 0 <= member < num_threads(), and returns when all are done.
  template <class Body>
  void Run(const Body& body) {
    RunErased([](const void* context, int member) { (*static_cast<const Body*>(context))(member); },
              &body);
  }

  // Splits [0, count) into tasks of `grain` and hands them out dynamically: body(begin, end,
  // member). Which member runs a task must not change its result.
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
  // A job is published by bumping generation_; the last worker to finish brings num_running_ to 0.
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

// A lane of requests that are not prepared on their responder's thread, so that they do not delay
// the other streams of the responder. The total size of the lane's jobs is bounded in bytes. Jobs
// are sorted by their time of submission plus 10 ms for each KiB (tokenising a KiB takes far less):
// small requests overtake large ones, and a large request still waits for a bounded time only. The
// methods are thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace tessera {

class Clock;

struct PreparerOptions {
  // One thread is enough for long jobs, which are limited by the cores anyway. With two threads, a
  // short job does not wait for a long one.
  int32_t num_threads = 1;
  // Whether the threads have a low priority, for jobs that may take the time of the engine's cores.
  bool gives_way = false;
};

class Preparer final {
 public:
  // `clock` outlives the preparer.
  Preparer(int64_t max_bytes, const Clock* clock, PreparerOptions options = {});
  // Finishes the running jobs and drops the waiting jobs.
  ~Preparer();
  Preparer(const Preparer&) = delete;
  Preparer& operator=(const Preparer&) = delete;

  // Identifies a job by its place in the order: {time in us, job number}.
  using Ticket = std::pair<int64_t, uint64_t>;

  // Returns nullopt and drops the job when it would exceed `max_bytes`. A job of any size is
  // accepted while no other job waits or runs.
  std::optional<Ticket> Submit(int64_t bytes, std::function<void()> job);
  // Drops the waiting job of a call that has ended. Returns false when the job runs or has run.
  bool Cancel(const Ticket& ticket);

 private:
  struct Job {
    int64_t bytes = 0;
    std::function<void()> run;
  };

  void Run(bool gives_way);

  const int64_t max_bytes_;
  const Clock* const clock_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Ticket, Job> waiting_;
  int64_t bytes_ = 0;  // total size of the waiting jobs and the running jobs
  uint64_t next_job_ = 0;
  bool closed_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tessera

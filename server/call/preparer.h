// A lane for large requests: one thread that tokenises what would keep a responder from its other
// streams. What waits in it is bounded in bytes. Small requests go first, or one client's huge
// prompts would hold up everybody's ordinary ones; every KiB is a head start of 10 ms that others
// have (far more than it takes to tokenise), so that a large one has its turn too. Any thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

namespace tessera {

class Clock;

class Preparer final {
 public:
  // `clock` outlives the preparer.
  Preparer(int64_t max_bytes, const Clock* clock);
  // Finishes the job that runs; those that wait are dropped.
  ~Preparer();
  Preparer(const Preparer&) = delete;
  Preparer& operator=(const Preparer&) = delete;

  // Names a job that waits.
  using Ticket = std::pair<int64_t, uint64_t>;

  // Nothing, and nothing happens, when the lane is full.
  std::optional<Ticket> Submit(int64_t bytes, std::function<void()> job);
  // Drops a job whose call is over. False when it runs or has run.
  bool Cancel(const Ticket& ticket);

 private:
  struct Job {
    int64_t bytes = 0;
    std::function<void()> run;
  };

  void Run();

  const int64_t max_bytes_;
  const Clock* const clock_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Ticket, Job> waiting_;  // in the order of their turns
  int64_t bytes_ = 0;              // of those that wait and the one that runs
  uint64_t next_job_ = 0;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace tessera

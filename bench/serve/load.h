// A run of load: who sends when. A closed loop has so many clients, each of which sends its next
// request when its last one is answered. An open loop sends by a schedule that was made before, on
// a thread that does nothing else: an answer that is slow, or never comes, delays no send.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>

#include "bench/serve/arrivals.h"
#include "bench/serve/client.h"
#include "bench/serve/report.h"
#include "bench/serve/workload.h"
#include "kernels/base/clock.h"

namespace tessera::bench {

struct LoadOptions {
  int64_t concurrency = 0;  // clients of a closed loop; 0: an open loop of `rate`
  double rate = 0;          // requests per second
  ArrivalKind arrivals = ArrivalKind::kPoisson;
  uint64_t seed = 0;  // of the arrivals
  // The load stops at whichever comes first; what was sent is waited for.
  int64_t num_requests = std::numeric_limits<int64_t>::max();
  double duration_seconds = 0;  // 0: no end
  int64_t num_warmup = 0;       // requests before that, in a closed loop, which are not counted
};

struct LoadProgress {
  bool warming_up = false;
  double elapsed_s = 0;
  int64_t ended = 0;
  int64_t errors = 0;
  int64_t in_flight = 0;
  int64_t tokens = 0;
};

class Load final {
 public:
  Load(const LoadOptions& options, const Workload* workload,
       const std::shared_ptr<grpc::Channel>& channel, ClientOptions client);

  // Blocks until the last request has ended. Once.
  RunRecords Run();

  // Sends no more and abandons what runs; Run returns soon. Thread-safe.
  void Interrupt();
  LoadProgress Progress() const;  // thread-safe

 private:
  void RunClosed(int64_t concurrency);
  void RunOpen();
  // Waits until everything that was sent has ended, and sends for the clients that paused.
  void Finish();

  void OnDone(RequestRecord record);
  // The number of the next request that is due at `due_us`; none when the load is over.
  std::optional<int64_t> TakeNext(int64_t due_us);
  // One client of a closed loop sends, or leaves.
  void SendNext();
  // Waits for the time. False when it was interrupted.
  bool WaitUntil(int64_t time_us);

  const LoadOptions options_;
  const Workload* const workload_;
  const SteadyClock clock_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool interrupted_ = false;
  bool warming_up_ = false;
  bool loops_ = false;             // whoever is answered sends again
  int64_t next_index_ = 0;         // negative: warming up
  int64_t num_errors_ = 0;         // of those counted
  int64_t num_outstanding_ = 0;    // requests that have not ended, and clients that pause
  std::deque<int64_t> resume_us_;  // when those that pause send again, soonest first
  RunRecords records_;

  LoadClient client_;  // last: it calls OnDone until it is gone
};

}  // namespace tessera::bench

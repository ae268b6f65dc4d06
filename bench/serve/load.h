// A run of load decides when requests are sent. A closed loop has a fixed number of clients, each
// of which sends its next request when its last request is answered. An open loop sends by a
// schedule that does not depend on the server, on a thread that does nothing else, so that slow or
// missing answers delay no send. Load owns its client; Run uses the calling thread.
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
  int64_t concurrency = 0;  // clients of a closed loop; 0: an open loop with `rate`
  double rate = 0;          // requests per second
  ArrivalKind arrivals = ArrivalKind::kPoisson;
  uint64_t seed = 0;  // seed of the arrivals
  // Sending stops at num_requests or duration_seconds, whichever comes first. The run ends when all
  // requests that were sent have ended.
  int64_t num_requests = std::numeric_limits<int64_t>::max();
  double duration_seconds = 0;  // 0: no limit
  int64_t num_warmup = 0;       // requests of a closed loop before the run; not counted
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

  // Runs the load and blocks until the last request has ended. Must be called once.
  RunRecords Run();

  // Stops sending and abandons the requests that have not ended; Run returns soon. Thread-safe.
  void Interrupt();
  LoadProgress Progress() const;  // thread-safe

 private:
  void RunClosed(int64_t concurrency);
  void RunOpen();
  // Waits until all requests that were sent have ended. Sends the next requests of clients whose
  // pause is over.
  void Finish();

  void OnDone(RequestRecord record);
  // Returns the index of the request that is due at `due_us`, or nullopt when the load has ended.
  std::optional<int64_t> TakeNext(int64_t due_us);
  // Sends the next request of a client of a closed loop, or ends the client if the load has ended.
  void SendNext();
  // Waits until `time_us`. Returns false if the run was interrupted.
  bool WaitUntil(int64_t time_us);

  const LoadOptions options_;
  const Workload* const workload_;
  const SteadyClock clock_;

  mutable std::mutex mutex_;  // guards the members below, except client_
  std::condition_variable changed_;
  bool interrupted_ = false;
  bool warming_up_ = false;
  bool loops_ = false;             // a closed loop: an answered client sends again
  int64_t next_index_ = 0;         // index of the next request; negative in the warm-up
  int64_t num_errors_ = 0;         // errors outside the warm-up
  int64_t num_outstanding_ = 0;    // requests that have not ended, plus clients in a pause
  std::deque<int64_t> resume_us_;  // times at which paused clients send again, ascending
  RunRecords records_;

  LoadClient client_;  // the last member, because it calls OnDone until it is destroyed
};

}  // namespace tessera::bench

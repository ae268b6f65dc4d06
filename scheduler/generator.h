// The interface of an object that generates tokens for requests. The engine implements it; a router
// over engines or a remote node can implement it too. Routing uses only this interface of an
// engine. All calls are thread-safe and never wait for a step.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "scheduler/request.h"

namespace tessera {

enum class CancelReason : int32_t {
  kClient = 0,    // the client cancelled; the sequences finish with kCancelled
  kStopText = 1,  // the server saw a stop string; the sequences finish with kStop
  kShutdown = 2,  // the engine stops; the sequences finish with kCancelled
};

struct ProbeQuery {
  int32_t model = 0;
  std::vector<TokenId> prompt;
  std::string salt;
  std::string adapter_key;  // ResolvedAdapter::key
  std::string tenant;
  std::vector<std::string> accepted_kv_classes;  // as Request::accepted_kv_classes
};

struct ProbeResult {
  int64_t matched_tokens = 0;     // prompt tokens that a request would find in the prefix cache
  int64_t queue_delay_us = 0;     // predicted wait before the first step
  int64_t predicted_ttft_us = 0;  // queue_delay_us plus the predicted time of the prefill
};

// Returns ResourceExhausted for a request that is refused now and may be accepted later. The
// message is `why` and says when to retry, which is after `queue_delay_us`, the predicted wait of a
// new request, but not sooner than a tenth of a second and in whole milliseconds. The status
// carries this retry delay.
absl::Status RefusedForNow(absl::string_view why, int64_t queue_delay_us);
// The retry delay in microseconds that a status carries; 0 if it carries none.
int64_t RetryAfterUs(const absl::Status& status);

class Generator {
 public:
  virtual ~Generator() = default;

  // Returns the error that Submit would now give a request of one sequence. OK promises nothing:
  // others may take the place first. A server asks before it prepares a request, so that a refusal
  // costs little. Counts a refusal as Submit does.
  virtual absl::Status MayQueue() = 0;

  // Queues the request. Returns ResourceExhausted, with a retry delay (RetryAfterUs), if the queue
  // has no room for the request's n sequences, the predicted wait is too long or the queue policy
  // refuses the request, and Unavailable after shutdown started. On
  // an error nothing is queued and no event follows. On OK the sink gets exactly one kFinished
  // event per index.
  virtual absl::Status Submit(std::unique_ptr<Request> request) = 0;

  // Ends one sequence of a request, or all its sequences if index < 0. Unknown or finished ids are
  // ignored. The pages of the sequences are released at the end of the step in flight at the
  // latest.
  virtual void Cancel(uint64_t request_id, int32_t index, CancelReason reason) = 0;

  // Pauses or resumes a request whose reader is slow. No new step computes for a paused request,
  // and its pages become evictable.
  virtual void Throttle(uint64_t request_id, bool paused) = 0;

  // Calls `done` on another thread, without waiting for the step in flight.
  virtual void Probe(ProbeQuery query, std::function<void(ProbeResult)> done) = 0;

  // The predicted wait of a new request before its first step, from the cost model. A client whose
  // request is refused is told to wait this long.
  virtual int64_t QueueDelayUs() const = 0;
};

}  // namespace tessera

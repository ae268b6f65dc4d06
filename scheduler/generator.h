// Something that generates: an engine here, a router over engines or a remote node later. Routing
// composes generators and never reaches into one. All calls are thread-safe and never block on a
// step.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/request.h"

namespace tessera {

enum class CancelReason : int32_t {
  kClient = 0,    // finishes with kCancelled
  kStopText = 1,  // the server saw a stop string: finishes with kStop
  kShutdown = 2,  // finishes with kCancelled
};

struct ProbeQuery {
  int32_t model = 0;
  std::vector<TokenId> prompt;
  std::string salt;
  std::string adapter_key;  // ResolvedAdapter::key
  std::string tenant;
};

struct ProbeResult {
  int64_t matched_tokens = 0;     // reusable right now
  int64_t queue_delay_us = 0;     // predicted wait before the first step
  int64_t predicted_ttft_us = 0;  // and the prefill after it
};

class Generator {
 public:
  virtual ~Generator() = default;

  // Queues the request. ResourceExhausted when the queue has no room for its n sequences (nothing
  // was queued and no event follows); Unavailable after shutdown began. On OK the sink gets exactly
  // one kFinished per index.
  virtual absl::Status Submit(std::unique_ptr<Request> request) = 0;

  // Ends one index (or all, index < 0) of a request; unknown or finished ids are ignored. Pages are
  // free within one step.
  virtual void Cancel(uint64_t request_id, int32_t index, CancelReason reason) = 0;

  // While paused the request computes nothing and its pages are evictable (its reader is slow).
  virtual void Throttle(uint64_t request_id, bool paused) = 0;

  // Calls `done` from another thread, soon: also while a step runs.
  virtual void Probe(ProbeQuery query, std::function<void(ProbeResult)> done) = 0;

  // Predicted wait of a new request, from the cost model; what a refused client is told to wait.
  virtual int64_t QueueDelayUs() const = 0;
};

}  // namespace tessera

// The engine of one device: one thread that owns, without locks, the scheduler, the KV metadata and
// the sequences of all models on the device. The engine receives messages through one inbox, sends
// events through each request's sink and launches steps on the runner. The loop is in engine.cc;
// scheduler/README.md is its contract. Owned by the server's node; all methods are thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/base/clock.h"
#include "kernels/model/runner.h"
#include "kvstore/kv_manager.h"
#include "scheduler/generator.h"
#include "scheduler/step/engine_options.h"
#include "scheduler/step/engine_stats.h"

namespace tessera {

class Engine : public Generator {
 public:
  virtual const EngineStats& stats() const = 0;
  virtual const std::vector<EngineModel>& models() const = 0;
  // Clock time of the last round of the loop whose StepHealth was kGood. The loop starts a round at
  // least every 200 ms.
  virtual int64_t heartbeat_us() const = 0;
  // False while a step is overdue (StepHealth), or while the heartbeat is older than `stale_us`.
  virtual bool live(int64_t stale_us) const = 0;
  // Loads an adapter into the pool, and pins it if `pin` is true. With `pin` false an existing pin
  // stays. Calls wait.done when the adapter is in the pool or cannot be loaded.
  virtual void LoadAdapter(AdapterId id, bool pin, AdapterWait wait) = 0;
  virtual void UnpinAdapter(AdapterId id) = 0;
  // Removes an adapter from the pool as soon as no sequence uses it. Does nothing to a pinned
  // adapter, unless `unpin` or the adapter is retired (adapter_status.h).
  virtual void UnloadAdapter(AdapterId id, bool unpin) = 0;
  // Ends all requests that were submitted before, with `reason` as in Cancel. Later requests are
  // accepted.
  virtual void CancelAll(CancelReason reason) = 0;
  // Ends all requests, refuses later ones and joins the thread. A step in flight may run on until
  // the engine is destroyed. The destructor calls Stop.
  virtual void Stop() = 0;
};

// Starts the engine thread. REQUIRES: the models of `options` were added to `kv` in the same order;
// `clock` outlives the engine.
std::unique_ptr<Engine> NewEngine(EngineOptions options, std::unique_ptr<KvManager> kv,
                                  std::unique_ptr<Runner> runner, const Clock* clock);

}  // namespace tessera

// The engine of one device: one thread that owns the scheduler, the KV metadata and all sequences
// of all models on the device, without locks. Messages come in through one inbox, events go out
// through each request's sink, steps go to the runner. The loop is in engine.cc;
// scheduler/README.md is its contract.
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
  // Clock time of the last sign of progress: the loop came round, which it does at least every
  // 200 ms, and the step in flight, if there is one, could be expected to take that long
  // (StepHealth::kGood).
  virtual int64_t heartbeat_us() const = 0;
  // False while a step is overdue (StepHealth), or the heartbeat is older than `stale_us`. Any
  // thread.
  virtual bool live(int64_t stale_us) const = 0;
  // Brings an adapter into the pool, pinned if asked for; the wait is done when it is there or
  // cannot be. With `pin` false a pin stays as it is.
  virtual void LoadAdapter(AdapterId id, bool pin, AdapterWait wait) = 0;
  virtual void UnpinAdapter(AdapterId id) = 0;
  // As soon as no sequence uses it.
  virtual void UnloadAdapter(AdapterId id) = 0;
  // Ends all that was submitted before; `reason` as in Cancel. Requests that come later are taken.
  virtual void CancelAll(CancelReason reason) = 0;
  // CancelAll, joins the thread; a step in flight may run on until the engine is destroyed. Called
  // by the destructor too.
  virtual void Stop() = 0;
};

// Starts the engine thread. REQUIRES: every model was added to `kv` in order; `clock` outlives the
// engine.
std::unique_ptr<Engine> NewEngine(EngineOptions options, std::unique_ptr<KvManager> kv,
                                  std::unique_ptr<Runner> runner, const Clock* clock);

}  // namespace tessera

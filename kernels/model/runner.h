// Runs steps of all models of one device. A rank thread owns the backend, weights, page memory and
// activation arenas; the engine launches batches and is told when they are done, so it never waits
// for a step. An interface so that the engine and the scheduler are tested without tensors
// (tests/lib/fake_runner.h).
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/base/completion.h"
#include "kernels/device/transfer.h"
#include "kernels/step/batch.h"
#include "kernels/step/step_result.h"

namespace tessera {

// Layers [first, last) of a step's model.
struct LayerRange {
  static constexpr int32_t kToTheEnd = -1;

  int32_t first = 0;
  int32_t last = kToTheEnd;
};

class Runner {
 public:
  // Returns when nothing runs any more; completions may come until then.
  virtual ~Runner() = default;

  // Called from the rank thread, once for each launch and in their order; must not block. Set once,
  // before the first launch.
  virtual void SetOnDone(std::function<void(Completion)> on_done) = 0;

  // Starts layers of a step; its completion has the batch's step_id as its ticket. `arena` holds
  // the batch's spans. All of them and *result stay untouched until the step's last layer is done;
  // then *result is whole. step_us is the sum over the step's ranges. REQUIRES: fewer than depth()
  // launches are in flight. A step's ranges are not empty, ascend and adjoin, and no other step is
  // launched between them.
  virtual void Launch(const StepBatch* batch, const BatchArena* arena, LayerRange layers,
                      StepResult* result) = 0;

  // Moves pages between the device's pool and host memory. Any thread.
  virtual Transfer* transfer() = 0;

  // Launches that may be in flight: 1 on CPU, 2 on CUDA.
  virtual int depth() const = 0;
};

}  // namespace tessera

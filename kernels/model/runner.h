// A Runner runs the steps of all models of one device. Its rank thread owns the backend, weights,
// page memory and activation arenas. The engine launches batches and receives a completion for each
// launch, so the engine never waits for a step. Runner is an interface, so that tests run the
// engine and the scheduler without tensors (tests/lib/fake_runner.h).
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
  // The destructor returns when no launch and no transfer runs any more; completions may be
  // reported until it returns.
  virtual ~Runner() = default;

  // Sets the function that the rank thread calls once for each launch, in the order of the
  // launches. The function must not block. REQUIRES: called once, before the first launch.
  virtual void SetOnDone(std::function<void(Completion)> on_done) = 0;

  // Launches layers of a step. The ticket of the launch's completion is the batch's step_id.
  // `arena` holds the batch's spans. When the step's last layer is done, *result is complete, and
  // its step_us is the summed time of the step's ranges. REQUIRES: the caller does not touch
  // *batch, *arena and *result until the step's last layer is done; fewer than depth() launches are
  // in flight; the ranges of a step are not empty, ascending and adjoining, and no other step is
  // launched between them.
  virtual void Launch(const StepBatch* batch, const BatchArena* arena, LayerRange layers,
                      StepResult* result) = 0;

  // Moves pages between the device's pool and host memory. Any thread.
  virtual Transfer* transfer() = 0;

  // The largest number of launches in flight: 1 on CPU, 2 on CUDA.
  virtual int depth() const = 0;
};

}  // namespace tessera

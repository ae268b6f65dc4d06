// Runs steps of all models of one device. A rank thread owns the backend, weights, page memory and
// activation arenas; the engine launches batches and waits for results in order. An interface so
// that the engine and the scheduler are tested without tensors (tests/lib/fake_runner.h).
#pragma once

#include <memory>

#include "kernels/step/batch.h"
#include "kernels/step/step_result.h"

namespace tessera {

class Runner {
 public:
  virtual ~Runner() = default;

  // Starts a step. `arena` holds the batch's spans; both stay untouched until the step's Wait has
  // returned. REQUIRES: fewer than depth() steps are in flight.
  virtual void Launch(const StepBatch* batch, const BatchArena* arena) = 0;

  // Blocks until the oldest launched step is done. REQUIRES: one is in flight.
  virtual StepResult Wait() = 0;

  // Writes `num_bytes` from the page's begin on. Any thread. REQUIRES: no step that was launched or
  // will be before this returns uses the page.
  virtual void WritePage(PageId page, const char* bytes, int64_t num_bytes) = 0;

  // Steps that may be in flight: 1 on CPU, 2 on CUDA.
  virtual int depth() const = 0;
};

}  // namespace tessera

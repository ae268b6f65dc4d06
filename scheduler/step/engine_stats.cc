#include "scheduler/step/engine_stats.h"

namespace tessera {
namespace {

// Bounds of buckets in seconds. The bounds are those of vLLM's metrics, which dashboards expect.
std::vector<double> TtftBounds() {
  return {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
          1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
}
std::vector<double> ItlBounds() {
  return {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2,
          .3,   .4,    .5,   .75, 1,    2.5, 5,    10, 20,  40};
}
std::vector<double> RequestBounds() {
  return {.01, .05, .1, .3, .5, .8, 1,  1.5, 2,   2.5, 5,
          10,  15,  20, 30, 40, 50, 60, 120, 240, 480, 960};
}
std::vector<double> StepBounds() {
  return {.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10};
}
std::vector<double> TokenBounds() {
  return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
}

}  // namespace

EngineStats::EngineStats(size_t num_models)
    : models(num_models),
      ttft_s(TtftBounds()),
      itl_s(ItlBounds()),
      queue_s(RequestBounds()),
      e2e_s(RequestBounds()),
      step_s(StepBounds()),
      batch_tokens(TokenBounds()) {}

}  // namespace tessera

// What a step gives back. A rank writes it, the engine reads it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/types.h"
#include "kernels/step/batch.h"

namespace tessera {

struct TokenLogprob {
  TokenId token = 0;
  float logprob =
      0.0f;  // natural log, of the raw model distribution (before temperature and penalties)
};

// What a sampler row gave.
struct SampledRow {
  TokenId token = 0;
  float logprob = 0.0f;  // of `token`; 0 unless num_logprobs >= 0
  Range top;             // in StepResult::top: the num_logprobs best, best first
};

struct StepResult {
  uint64_t step_id = 0;
  int32_t model = 0;
  std::vector<SampledRow> rows;  // [R], as StepBatch::sampler_rows
  std::vector<TokenLogprob> top;
  std::vector<float> taps;
  int64_t step_us = 0;  // measured by the runner
};

}  // namespace tessera

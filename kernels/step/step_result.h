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

// Entries of StepResult::top that sampler rows [0, num_rows) of a batch want: row r's follow those
// of the rows before it.
inline int64_t NumTop(const BatchView& view, int64_t num_rows) {
  const SamplerRow* const rows = view.data(view.batch->sampler_rows);
  int64_t num_top = 0;
  for (int64_t r = 0; r < num_rows; ++r)
    num_top += rows[r].num_logprobs > 0 ? rows[r].num_logprobs : 0;
  return num_top;
}

struct StepResult {
  uint64_t step_id = 0;
  int32_t model = 0;
  std::vector<SampledRow> rows;  // [R], as StepBatch::sampler_rows
  std::vector<TokenLogprob> top;
  std::vector<float> taps;
  int64_t step_us = 0;  // measured by the runner
};

}  // namespace tessera

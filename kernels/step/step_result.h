// The result of a step. The engine owns it; the rank thread writes it during the step, and the
// engine thread reads it after the step.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/types.h"
#include "kernels/step/batch.h"

namespace tessera {

struct TokenLogprob {
  TokenId token = 0;
  // Natural logarithm of the token's probability before temperature and penalties are applied.
  float logprob = 0.0f;
};

// The result of one sampler row.
struct SampledRow {
  TokenId token = 0;
  float logprob = 0.0f;  // logprob of `token`; 0 unless num_logprobs >= 0
  Range top;  // range in StepResult::top: the num_logprobs most probable tokens, best first
  // Whether no logit of the row is NaN or infinite. If false, the other members have no meaning.
  bool is_finite = true;
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
  std::vector<SampledRow> rows;  // [R], in the order of StepBatch::sampler_rows
  std::vector<TokenLogprob> top;
  std::vector<float> taps;  // [StepBatch::num_tap_floats]
  int64_t step_us = 0;      // duration of the step, measured by the runner
};

}  // namespace tessera

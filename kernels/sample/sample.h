// Sampling on the CPU: from a row of logits to a token, in this order:
//   1. log-probabilities of the untouched logits, where asked for (natural log);
//   2. repetition penalty for tokens of prompt or output (positive logits are divided, others
//      multiplied), then presence and frequency penalties over the output's counts;
//   3. biases, then the mask;
//   4. temperature 0: the largest logit. Else temperature, top_k, top_p (the smallest set whose
//      probability within top_k reaches it; at least one token), min_p (relative to the best
//      token), and one draw by inverse CDF over ascending ids with the uniform number of (seed,
//      index, position).
// Ties go to the lower id everywhere. A logit that is NaN counts as -infinity. Where nothing is
// left to choose from, the token is the lowest id that the mask allows, else 0. The result is a
// pure function of the row: it does not depend on threads, the batch or the instruction set.
//
// Backends call it as BeginSample, SampleRows over disjoint ranges from any threads, EndSample.
// Free of absl and spdlog.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/device/backend.h"
#include "kernels/sample/sample_select.h"
#include "kernels/step/batch.h"
#include "kernels/step/step_result.h"

namespace tessera {

// What one thread samples with; the buffers do not allocate once they have grown.
struct SampleScratch {
  const sampling::Passes* passes = &sampling::plain::kPasses;  // the fastest that the machine runs
  std::vector<float> maxima;                                   // [chunks]
  std::vector<float> maxima_copy;                              // [chunks]
  std::vector<double> masses;                                  // [chunks]
  std::vector<sampling::Candidate> candidates;
  std::vector<TokenLogprob> before;  // logits of penalised and biased tokens before that
};

// Samples (or, with row.target >= 0, scores) one row. `logits` [vocab] is overwritten. `biases` and
// `counts` are the row's own, row.biases.count and row.counts.count of them; `mask` has ceil(vocab
// / 32) words or is null. `top` has room for min(row.num_logprobs, vocab); out->top.count tells how
// many were written (fewer only if logits were NaN). out->top.begin is left alone.
void SampleRow(const SamplerRow& row, const TokenBias* biases, const TokenCount* counts,
               const uint32_t* mask, float* logits, int64_t vocab, SampleScratch* scratch,
               SampledRow* out, TokenLogprob* top);

// Gives each row of the call its part of args.top.
void BeginSample(const SampleArgs& args);

// Rows [row_begin, row_end) of the call, counted from 0. Calls for disjoint rows may run at once,
// each with its own scratch.
void SampleRows(const SampleArgs& args, int row_begin, int row_end, SampleScratch* scratch);

// Writes the sampled tokens to their slots' cells, in row order.
void EndSample(const SampleArgs& args);

}  // namespace tessera

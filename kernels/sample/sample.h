// The sampler of the CPU backends turns a row of logits into a token in these steps:
//   1. If the row asks for log-probabilities, compute them (natural log) from the original logits.
//   2. Apply the repetition penalty to tokens in the prompt or the output: divide positive logits
//      and multiply others. Then subtract the presence and frequency penalties, which depend on
//      how often the output has the token.
//   3. Add the biases, then apply the mask.
//   4. If the temperature is 0, take the token with the largest logit. Otherwise apply the
//      temperature, then top_k, top_p and min_p, and draw one token by inverse CDF over ascending
//      ids, with the uniform random number of (seed, index, position).
// top_p keeps the smallest set of best tokens whose probability, normalised over the tokens that
// top_k kept, is at least top_p; the set has at least one token. min_p is relative to the
// probability of the best token.
//
// Of tokens with equal logits the lower id is always better. A NaN logit counts as -infinity. If
// all logits are -infinity, the result is the lowest id that the mask allows, or 0 if the mask
// allows none. The result is a pure function of the row: it does not depend on the number of
// threads, the other rows of the batch or the instruction set. SampledRow::is_finite tells whether
// all original logits are finite; penalties, biases and the mask do not matter for it.
//
// A backend calls BeginSample, then SampleRows for disjoint ranges on any threads, then EndSample.
// This header includes neither absl nor spdlog.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/device/backend.h"
#include "kernels/sample/sample_select.h"
#include "kernels/step/batch.h"
#include "kernels/step/step_result.h"

namespace tessera {

// The buffers that one thread needs for sampling. The buffers are reused from row to row, so that
// sampling does not allocate once they have reached their largest size.
struct SampleScratch {
  // The functions to compute with: a backend sets the table of its instruction set.
  const sampling::Passes* passes = &sampling::plain::kPasses;
  std::vector<float> maxima;        // [chunks] largest logit of each chunk
  std::vector<float> maxima_copy;   // [chunks] copy of `maxima` that is reordered
  std::vector<int64_t> odd_chunks;  // chunks with a logit that is NaN or infinite
  std::vector<double> masses;       // [chunks] sum of the weights of each chunk's kept tokens
  std::vector<sampling::Candidate> candidates;
  // Original logits (in TokenLogprob::logprob) of the tokens that have a penalty or a bias.
  std::vector<TokenLogprob> before;
};

// Samples one row, or only scores the token row.target if row.target >= 0. Overwrites `logits`
// [vocab]. `biases` [row.biases.count] and `counts` [row.counts.count] are those of this row.
// `mask` [ceil(vocab / 32)] may be null. `top` [min(row.num_logprobs, vocab)] receives the best
// tokens, and out->top.count their number, which is smaller than the size of `top` only if some
// logits are NaN. Does not change out->top.begin.
void SampleRow(const SamplerRow& row, const TokenBias* biases, const TokenCount* counts,
               const uint32_t* mask, float* logits, int64_t vocab, SampleScratch* scratch,
               SampledRow* out, TokenLogprob* top);

// Gives each row of the call its own part of args.top.
void BeginSample(const SampleArgs& args);

// Samples rows [row_begin, row_end) of args.logits; row 0 is the first row of this call. Calls for
// disjoint rows may run at the same time if each has its own scratch.
void SampleRows(const SampleArgs& args, int row_begin, int row_end, SampleScratch* scratch);

// Writes each sampled token to args.slot_tokens at the slot of its row, in row order.
void EndSample(const SampleArgs& args);

}  // namespace tessera

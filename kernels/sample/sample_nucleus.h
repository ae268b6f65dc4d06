// top_p (nucleus) filtering over a whole row: finds the smallest set of best tokens whose weights
// sum to at least top_p of the total weight. A peaked distribution has few candidates; these are
// collected and searched by repeated partition. For a flat distribution, a sample of the row's
// logits gives an estimate of two logits between which the set ends. One pass sums the weights
// above the upper logit, and only tokens between the two logits are collected. If the estimate
// proves wrong, all candidates are collected, so the estimate changes the time and never the
// result. Pure functions; any thread.
#pragma once

#include <vector>

#include "kernels/sample/sample_select.h"

namespace tessera::sampling {

// Returns the cut that keeps the smallest set. `maxima` are the chunk maxima of the row, `total` is
// the sum of all weights of the row, and `candidates` is a buffer. REQUIRES: 0 <= top_p < 1;
// softmax.maximum is the largest logit of the row and finite.
Cut FindNucleus(const LogitRow& row, const std::vector<float>& maxima, const Softmax& softmax,
                double top_p, double total, std::vector<Candidate>* candidates);

}  // namespace tessera::sampling

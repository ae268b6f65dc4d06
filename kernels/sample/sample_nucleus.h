// top_p over a whole row: the smallest set of best tokens whose weights reach a share of all.
// Peaked distributions have few candidates, which are collected and halved. Over flat ones a sample
// of the row tells between which logits the set must end, one pass sums what lies above, and only
// what lies between is collected; the guess decides how long it takes, never the result.
#pragma once

#include <vector>

#include "kernels/sample/sample_select.h"

namespace tessera::sampling {

// `total`: of all weights of the row. `candidates` is a buffer. REQUIRES: 0 <= top_p < 1;
// softmax.maximum is the row's and finite.
Cut FindNucleus(const LogitRow& row, const std::vector<float>& maxima, const Softmax& softmax,
                double top_p, double total, std::vector<Candidate>* candidates);

}  // namespace tessera::sampling

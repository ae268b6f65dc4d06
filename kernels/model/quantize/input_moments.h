// The second moments of a Linear's inputs over the calibration tokens, and the two least-squares
// problems that they pose. With inputs x (columns of X), a weight row w and its quantised row q,
// the squared error of the outputs is (w - q) H (w - q)^T, H = X X^T.
//
// 1. The order and the feedback of rounding. H = U D U^T with a unit upper triangular U, so the
//    error is the sum over columns j of D_j (e_j + sum over i < j of e_i U_ij)^2, e = w - q. Column
//    after column, rounding w_j + sum of e_i U_ij makes each term small (GPTQ, 2210.17323; in the
//    form of LDLQ in QuIP, 2307.13304). Columns with larger inputs come first.
// 2. The target. Earlier quantised layers have changed the inputs from X' to X. The row whose
//    outputs come nearest to w X' is w + w (X' - X) X^T H^-1 (GPTAQ, 2504.02692).
//
// Pure functions; the calling thread owns the data. One thread at a time uses a team.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/thread_team.h"

namespace tessera {

struct InputMoments {
  int64_t size = 0;            // K, number of inputs
  std::vector<float> moments;  // [K, K] X X^T
  std::vector<float> drift;    // [K, K] (X' - X) X^T
};

// Adds `share` of the mean of the diagonal to each element of the diagonal, so that the moments can
// be inverted. Inputs that are always zero become independent inputs.
void Damp(double share, InputMoments* inputs);

// The columns in the order in which they are rounded: descending moments, then ascending columns.
std::vector<int32_t> RoundingOrder(const InputMoments& inputs);

// Returns U [K, K] of the moments with rows and columns in `order`. Elements on and below the
// diagonal are 0. Returns INVALID_ARGUMENT if the moments are not positive definite.
absl::StatusOr<std::vector<float>> FeedbackOf(const InputMoments& inputs,
                                              const std::vector<int32_t>& order);

// rows [num_rows, K] += products [num_rows, K] H^-1. Returns INVALID_ARGUMENT if the moments are
// not positive definite.
absl::Status AddSolution(const InputMoments& inputs, const std::vector<float>& products,
                         ThreadTeam* team, std::vector<float>* rows);

}  // namespace tessera

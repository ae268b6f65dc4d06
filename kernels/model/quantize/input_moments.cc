#include "kernels/model/quantize/input_moments.h"

// It comes before Eigen's other headers.
#include "kernels/model/deterministic_eigen.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <numeric>

namespace tessera {
namespace {

using Eigen::Index;
using Eigen::MatrixXd;

constexpr int64_t kSolveRows = 32;  // rows of one task

absl::Status NotPositive() {
  return absl::InvalidArgumentError(
      "the moments of a linear's inputs have no Cholesky factor; give more text or raise "
      "--damping");
}

Index At(const InputMoments& inputs, int64_t row, int64_t col) {
  return static_cast<Index>(row * inputs.size + col);
}

}  // namespace

void Damp(double share, InputMoments* inputs) {
  double sum = 0.0;
  for (int64_t i = 0; i < inputs->size; ++i) {
    sum += inputs->moments[static_cast<size_t>(At(*inputs, i, i))];
  }
  const double mean = sum / static_cast<double>(inputs->size);
  const auto added = static_cast<float>(mean > 0.0 ? share * mean : 1.0);
  for (int64_t i = 0; i < inputs->size; ++i) {
    inputs->moments[static_cast<size_t>(At(*inputs, i, i))] += added;
  }
}

std::vector<int32_t> RoundingOrder(const InputMoments& inputs) {
  std::vector<int32_t> order(static_cast<size_t>(inputs.size));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&inputs](int32_t a, int32_t b) {
    return inputs.moments[static_cast<size_t>(At(inputs, a, a))] >
           inputs.moments[static_cast<size_t>(At(inputs, b, b))];
  });
  return order;
}

absl::StatusOr<std::vector<float>> FeedbackOf(const InputMoments& inputs,
                                              const std::vector<int32_t>& order) {
  // The Cholesky factor of the reversed matrix is, reversed again, upper triangular.
  const Index size = inputs.size;
  MatrixXd reversed(size, size);
  for (Index col = 0; col < size; ++col) {
    for (Index row = col; row < size; ++row) {
      reversed(row, col) =
          inputs.moments[static_cast<size_t>(At(inputs, order[static_cast<size_t>(size - 1 - row)],
                                                order[static_cast<size_t>(size - 1 - col)]))];
    }
  }
  const Eigen::LLT<Eigen::Ref<MatrixXd>, Eigen::Lower> factor(reversed);
  if (factor.info() != Eigen::Success) return NotPositive();
  std::vector<float> feedback(static_cast<size_t>(size * size), 0.0f);
  for (Index col = 0; col < size; ++col) {
    const double diagonal = reversed(col, col);
    for (Index row = col + 1; row < size; ++row) {
      feedback[static_cast<size_t>(At(inputs, size - 1 - row, size - 1 - col))] =
          static_cast<float>(reversed(row, col) / diagonal);
    }
  }
  return feedback;
}

absl::Status AddSolution(const InputMoments& inputs, const std::vector<float>& products,
                         ThreadTeam* team, std::vector<float>* rows) {
  const Index size = inputs.size;
  MatrixXd moments =
      Eigen::Map<const RowMajorFloats>(inputs.moments.data(), size, size).cast<double>();
  const Eigen::LLT<Eigen::Ref<MatrixXd>, Eigen::Lower> factor(moments);
  if (factor.info() != Eigen::Success) return NotPositive();
  const auto num_rows = static_cast<int64_t>(products.size()) / size;
  team->ParallelFor(num_rows, kSolveRows, [&](int64_t begin, int64_t end, int /*member*/) {
    // The moments are symmetric, so the solution's rows are the columns of H^-1 products^T.
    const Index count = end - begin;
    MatrixXd solution =
        Eigen::Map<const RowMajorFloats>(products.data() + begin * size, count, size)
            .transpose()
            .cast<double>();
    factor.solveInPlace(solution);
    Eigen::Map<RowMajorFloats>(rows->data() + begin * size, count, size) +=
        solution.transpose().cast<float>();
  });
  return absl::OkStatus();
}

}  // namespace tessera

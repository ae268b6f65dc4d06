#include "kernels/model/quantize/quantized_matrix.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tessera {
namespace {

constexpr int64_t kSearchRows = 16;     // rows of one task
constexpr int64_t kRoundRows = 8;       // rows of one task
constexpr int64_t kBlockColumns = 128;  // columns whose feedback to later columns is added at once
constexpr int kNumShares = 16;
constexpr float kShareStep = 0.04f;  // shares are 1, 0.96, 0.92, ...

// The scale and zero point of a group.
struct Grid {
  float scale = 0.0f;
  int zero = 0;
};

// A scale is stored in bf16.
float Stored(float scale) { return BF16ToFloat(FloatToBF16(scale)); }

int CodeOf(float value, const Grid& grid, int max_code) {
  if (grid.scale == 0.0f) return grid.zero;
  const float code = std::nearbyint(value / grid.scale) + static_cast<float>(grid.zero);
  return static_cast<int>(std::clamp(code, 0.0f, static_cast<float>(max_code)));
}

float ValueOf(int code, const Grid& grid) {
  return grid.scale * static_cast<float>(code - grid.zero);
}

// The grid that just holds `share` of the range [lowest, highest], which includes 0.
Grid GridOf(const WeightFormat& format, float lowest, float highest, float share) {
  Grid grid;
  const auto max_code = static_cast<float>(format.max_code());
  if (!format.asymmetric) {
    grid.zero = format.symmetric_zero();
    const auto zero = static_cast<float>(grid.zero);
    grid.scale = Stored(share * std::max(highest / (max_code - zero), -lowest / zero));
    return grid;
  }
  grid.scale = Stored(share * (highest - lowest) / max_code);
  if (grid.scale == 0.0f) return grid;
  const float zero = std::nearbyint(-share * lowest / grid.scale);
  grid.zero = static_cast<int>(std::clamp(zero, 0.0f, max_code));
  return grid;
}

double ErrorOf(const Grid& grid, int max_code, const float* weights, const float* importance,
               int64_t count) {
  double error = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    const float difference = weights[i] - ValueOf(CodeOf(weights[i], grid, max_code), grid);
    error += double{importance[i]} * difference * difference;
  }
  return error;
}

Grid SearchGrid(const WeightFormat& format, const float* weights, const float* importance,
                int64_t count) {
  const auto [lowest, highest] = std::minmax_element(weights, weights + count);
  Grid best;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kNumShares; ++i) {
    const Grid grid = GridOf(format, std::min(*lowest, 0.0f), std::max(*highest, 0.0f),
                             1.0f - kShareStep * static_cast<float>(i));
    const double error = ErrorOf(grid, format.max_code(), weights, importance, count);
    if (error >= least) continue;
    least = error;
    best = grid;
  }
  return best;
}

// Rounds the rows of a matrix. Weights and sums of feedback are in the order of rounding.
class Rounder final {
 public:
  Rounder(const std::vector<float>& weights, const std::vector<int32_t>& order,
          const std::vector<float>& feedback, QuantizedMatrix* matrix)
      : weights_(weights), order_(order), feedback_(feedback), matrix_(matrix) {}

  // Rounds columns [begin, begin + count) in the order of rounding of one row. `sums` [count] is
  // the feedback from earlier blocks. Writes the errors w - q to `errors` [count].
  void RoundBlock(int64_t row, int64_t begin, int64_t count, const float* sums,
                  float* errors) const {
    float feedback[kBlockColumns];
    std::copy_n(sums, count, feedback);
    const int64_t cols = matrix_->cols;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t col = order_[static_cast<size_t>(begin + i)];
      const Grid grid = GridAt(row, col);
      const float weight = weights_[static_cast<size_t>(row * cols + col)];
      const int code = CodeOf(weight + feedback[i], grid, matrix_->format.max_code());
      matrix_->codes[static_cast<size_t>(row * cols + col)] = static_cast<uint8_t>(code);
      errors[i] = weight - ValueOf(code, grid);
      const float* const factors = feedback_.data() + (begin + i) * cols + begin;
      for (int64_t later = i + 1; later < count; ++later) {
        feedback[later] += errors[i] * factors[later];
      }
    }
  }

 private:
  Grid GridAt(int64_t row, int64_t col) const {
    const int32_t group_size = matrix_->format.group_size;
    const int64_t group = group_size == 0 ? 0 : col / group_size;
    const auto at = static_cast<size_t>(row * matrix_->num_groups() + group);
    const int zero =
        matrix_->zeros.empty() ? matrix_->format.symmetric_zero() : int{matrix_->zeros[at]};
    return {BF16ToFloat(matrix_->scales[at]), zero};
  }

  const std::vector<float>& weights_;
  const std::vector<int32_t>& order_;
  const std::vector<float>& feedback_;
  QuantizedMatrix* const matrix_;
};

// The first `count` columns of a matrix with `cols` columns.
std::vector<float> Columns(const std::vector<float>& matrix, int64_t cols, int64_t count) {
  const int64_t rows = static_cast<int64_t>(matrix.size()) / cols;
  std::vector<float> columns(static_cast<size_t>(rows * count));
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(matrix.data() + row * cols, count, columns.data() + row * count);
  }
  return columns;
}

// The factors by which the errors of the first `begin` columns are fed back to columns [begin,
// begin + count): [count, begin].
std::vector<float> FactorsOf(const std::vector<float>& feedback, int64_t cols, int64_t begin,
                             int64_t count) {
  std::vector<float> factors(static_cast<size_t>(count * begin));
  for (int64_t earlier = 0; earlier < begin; ++earlier) {
    for (int64_t i = 0; i < count; ++i) {
      factors[static_cast<size_t>(i * begin + earlier)] =
          feedback[static_cast<size_t>(earlier * cols + begin + i)];
    }
  }
  return factors;
}

}  // namespace

WeightView QuantizedMatrix::View(int64_t begin, int64_t end) const {
  WeightView view;
  view.data = codes.data() + begin * cols;
  view.dtype = format.dtype;
  view.rows = end - begin;
  view.cols = cols;
  view.scales = scales.data() + begin * num_groups();
  view.scale_dtype = DType::kBF16;
  view.zeros = zeros.empty() ? nullptr : zeros.data() + begin * num_groups();
  return view;
}

void SearchGrids(const std::vector<float>& weights, const std::vector<float>& importance,
                 ThreadTeam* team, QuantizedMatrix* matrix) {
  const int64_t groups = matrix->num_groups();
  const int64_t size = matrix->cols / groups;
  matrix->scales.resize(static_cast<size_t>(matrix->rows * groups));
  if (matrix->format.asymmetric) matrix->zeros.resize(matrix->scales.size());
  team->ParallelFor(matrix->rows, kSearchRows, [&](int64_t begin, int64_t end, int /*member*/) {
    for (int64_t i = begin * groups; i < end * groups; ++i) {
      const Grid grid = SearchGrid(matrix->format, weights.data() + i * size,
                                   importance.data() + i % groups * size, size);
      matrix->scales[static_cast<size_t>(i)] = FloatToBF16(grid.scale);
      if (matrix->format.asymmetric) {
        matrix->zeros[static_cast<size_t>(i)] = static_cast<uint8_t>(grid.zero);
      }
    }
  });
}

bool RoundWithFeedback(const std::vector<float>& weights, const std::vector<int32_t>& order,
                       const std::vector<float>& feedback, MatrixProducts* products,
                       ThreadTeam* team, QuantizedMatrix* matrix) {
  const int64_t rows = matrix->rows;
  const int64_t cols = matrix->cols;
  matrix->codes.resize(static_cast<size_t>(rows * cols));
  const Rounder rounder(weights, order, feedback, matrix);
  std::vector<float> errors(static_cast<size_t>(rows * cols));  // in the order of rounding
  for (int64_t begin = 0; begin < cols; begin += kBlockColumns) {
    const int64_t count = std::min(kBlockColumns, cols - begin);
    // The feedback from all earlier blocks to this block is one product.
    std::vector<float> sums(static_cast<size_t>(rows * count));
    const std::vector<float> earlier = Columns(errors, cols, begin);
    const std::vector<float> factors = FactorsOf(feedback, cols, begin, count);
    if (!products->Add(earlier.data(), rows, factors.data(), count, begin, sums.data())) {
      return false;
    }
    team->ParallelFor(rows, kRoundRows, [&](int64_t first, int64_t last, int /*member*/) {
      for (int64_t row = first; row < last; ++row) {
        rounder.RoundBlock(row, begin, count, sums.data() + row * count,
                           errors.data() + row * cols + begin);
      }
    });
  }
  return true;
}

}  // namespace tessera

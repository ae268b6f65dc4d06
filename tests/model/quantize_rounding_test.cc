// Tests of the numbers of `tessera quantize`: the moments' factor, the search of scales, and
// rounding with feedback against a naive version.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "kernels/model/quantize/input_moments.h"
#include "kernels/model/quantize/quantized_matrix.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

std::vector<float> RandomFloats(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> floats(count);
  for (float& x : floats) x = normal(random);
  return floats;
}

// Moments of inputs that are sums of a few common signals, so that they are correlated.
InputMoments CorrelatedMoments(int64_t size, uint32_t seed) {
  const int64_t signals = size / 4 + 1;
  const std::vector<float> mixing = RandomFloats(static_cast<size_t>(size * signals), seed);
  InputMoments inputs;
  inputs.size = size;
  inputs.moments.assign(static_cast<size_t>(size * size), 0.0f);
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < size; ++j) {
      double sum = i == j ? 0.3 + 0.01 * static_cast<double>(i) : 0.0;
      for (int64_t s = 0; s < signals; ++s) {
        sum += double{mixing[static_cast<size_t>(i * signals + s)]} *
               mixing[static_cast<size_t>(j * signals + s)];
      }
      inputs.moments[static_cast<size_t>(i * size + j)] = static_cast<float>(sum);
    }
  }
  return inputs;
}

double SquaredError(const std::vector<float>& weights, const QuantizedMatrix& matrix,
                    const InputMoments& inputs) {
  double error = 0.0;
  for (int64_t row = 0; row < matrix.rows; ++row) {
    std::vector<double> e(static_cast<size_t>(matrix.cols));
    for (int64_t col = 0; col < matrix.cols; ++col) {
      e[static_cast<size_t>(col)] =
          double{weights[static_cast<size_t>(row * matrix.cols + col)]} - matrix.Value(row, col);
    }
    for (int64_t i = 0; i < matrix.cols; ++i) {
      for (int64_t j = 0; j < matrix.cols; ++j) {
        error += e[static_cast<size_t>(i)] * e[static_cast<size_t>(j)] *
                 inputs.moments[static_cast<size_t>(i * matrix.cols + j)];
      }
    }
  }
  return error;
}

QuantizedMatrix NewMatrix(int64_t rows, int64_t cols, const WeightFormat& format) {
  QuantizedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.format = format;
  return matrix;
}

std::vector<float> ImportanceOf(const InputMoments& inputs) {
  std::vector<float> importance;
  for (int64_t i = 0; i < inputs.size; ++i) {
    importance.push_back(inputs.moments[static_cast<size_t>(i * inputs.size + i)]);
  }
  return importance;
}

std::vector<int32_t> PlainOrder(int64_t size) {
  std::vector<int32_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

TEST(InputMomentsTest, TheOrderIsThatOfTheDiagonal) {
  InputMoments inputs = CorrelatedMoments(24, 1);
  const std::vector<int32_t> order = RoundingOrder(inputs);
  const std::vector<float> diagonal = ImportanceOf(inputs);
  for (size_t i = 1; i < order.size(); ++i) {
    EXPECT_GE(diagonal[static_cast<size_t>(order[i - 1])], diagonal[static_cast<size_t>(order[i])]);
  }
}

// H = U D U^T determines U and D, so it is enough that the product has no part outside D.
TEST(InputMomentsTest, TheFeedbackFactorsTheMoments) {
  const InputMoments inputs = CorrelatedMoments(40, 2);
  const int64_t size = inputs.size;
  const std::vector<int32_t> order = RoundingOrder(inputs);
  const auto feedback = FeedbackOf(inputs, order);
  ASSERT_TRUE(feedback.ok()) << feedback.status();
  const auto u = [&](int64_t i, int64_t j) {
    EXPECT_TRUE(i < j || (*feedback)[static_cast<size_t>(i * size + j)] == 0.0f);
    return i == j ? 1.0 : double{(*feedback)[static_cast<size_t>(i * size + j)]};
  };
  // D from the last column to the first: D_j = H_jj - sum over k > j of U_jk^2 D_k.
  std::vector<double> d(static_cast<size_t>(size));
  const auto h = [&](int64_t i, int64_t j) {
    return double{inputs.moments[static_cast<size_t>(order[static_cast<size_t>(i)] * size +
                                                     order[static_cast<size_t>(j)])]};
  };
  for (int64_t j = size - 1; j >= 0; --j) {
    d[static_cast<size_t>(j)] = h(j, j);
    for (int64_t k = j + 1; k < size; ++k) {
      d[static_cast<size_t>(j)] -= u(j, k) * u(j, k) * d[static_cast<size_t>(k)];
    }
    EXPECT_GT(d[static_cast<size_t>(j)], 0.0);
  }
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = i; j < size; ++j) {
      double sum = 0.0;
      for (int64_t k = j; k < size; ++k) sum += u(i, k) * d[static_cast<size_t>(k)] * u(j, k);
      EXPECT_NEAR(sum, h(i, j), 1e-4 * h(0, 0)) << i << " " << j;
    }
  }
}

TEST(InputMomentsTest, TheSolutionSolves) {
  const InputMoments inputs = CorrelatedMoments(36, 3);
  const int64_t size = inputs.size;
  const int64_t num_rows = 70;
  const std::vector<float> products = RandomFloats(static_cast<size_t>(num_rows * size), 4);
  std::vector<float> rows(products.size(), 1.0f);
  for (const int threads : {1, 3}) {
    ThreadTeam team(threads);
    rows.assign(products.size(), 1.0f);
    ASSERT_TRUE(AddSolution(inputs, products, &team, &rows).ok());
    for (int64_t row = 0; row < num_rows; ++row) {
      for (int64_t col = 0; col < size; ++col) {
        double sum = 0.0;
        for (int64_t k = 0; k < size; ++k) {
          sum += (double{rows[static_cast<size_t>(row * size + k)]} - 1.0) *
                 inputs.moments[static_cast<size_t>(k * size + col)];
        }
        EXPECT_NEAR(sum, products[static_cast<size_t>(row * size + col)], 2e-3);
      }
    }
  }
}

TEST(InputMomentsTest, DampingMakesInputsThatAreAlwaysZeroHarmless) {
  InputMoments inputs = CorrelatedMoments(16, 5);
  for (size_t i = 0; i < 16; ++i) inputs.moments[3 * 16 + i] = inputs.moments[i * 16 + 3] = 0.0f;
  EXPECT_FALSE(FeedbackOf(inputs, PlainOrder(16)).ok());
  Damp(0.01, &inputs);
  EXPECT_TRUE(FeedbackOf(inputs, PlainOrder(16)).ok());
  InputMoments nothing;
  nothing.size = 4;
  nothing.moments.assign(16, 0.0f);
  Damp(0.01, &nothing);
  EXPECT_TRUE(FeedbackOf(nothing, PlainOrder(4)).ok());
}

class RoundingTest : public ::testing::TestWithParam<WeightFormat> {
 protected:
  RoundingTest() : device_("ref", 2), products_(device_.backend.get()) {}

  QuantizedMatrix Round(const std::vector<float>& weights, int64_t rows, const InputMoments& inputs,
                        const std::vector<int32_t>& order, const std::vector<float>& feedback) {
    QuantizedMatrix matrix = NewMatrix(rows, inputs.size, GetParam());
    SearchGrids(weights, ImportanceOf(inputs), device_.team.get(), &matrix);
    EXPECT_TRUE(
        RoundWithFeedback(weights, order, feedback, &products_, device_.team.get(), &matrix));
    return matrix;
  }

  TestBackend device_;
  MatrixProducts products_;
};

// The grid is at most as bad as the grid of the whole range, and every code is the nearest one.
TEST_P(RoundingTest, WithoutFeedbackEveryCodeIsTheNearest) {
  const int64_t rows = 19;
  InputMoments inputs = CorrelatedMoments(192, 6);
  const std::vector<float> weights = RandomFloats(static_cast<size_t>(rows * inputs.size), 7);
  const std::vector<float> none(static_cast<size_t>(inputs.size * inputs.size), 0.0f);
  const QuantizedMatrix matrix = Round(weights, rows, inputs, PlainOrder(inputs.size), none);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < inputs.size; ++col) {
      const float weight = weights[static_cast<size_t>(row * inputs.size + col)];
      QuantizedMatrix other = matrix;
      uint8_t& code = other.codes[static_cast<size_t>(row * inputs.size + col)];
      const float error = std::abs(weight - matrix.Value(row, col));
      const uint8_t chosen = code;
      for (int step : {-1, 1}) {
        const int neighbour = chosen + step;
        if (neighbour < 0 || neighbour > GetParam().max_code()) continue;
        code = static_cast<uint8_t>(neighbour);
        EXPECT_LE(error, std::abs(weight - other.Value(row, col)) + 1e-6f);
      }
    }
  }
}

// A naive version of the recurrence, one column after the other, with the same grids.
TEST_P(RoundingTest, FeedbackAgreesWithTheNaiveRecurrence) {
  const int64_t rows = 9;
  const InputMoments inputs = CorrelatedMoments(288, 8);  // more than two blocks of columns
  const int64_t cols = inputs.size;
  const std::vector<float> weights = RandomFloats(static_cast<size_t>(rows * cols), 9);
  const std::vector<int32_t> order = RoundingOrder(inputs);
  const auto feedback = FeedbackOf(inputs, order);
  ASSERT_TRUE(feedback.ok());
  const QuantizedMatrix matrix = Round(weights, rows, inputs, order, *feedback);
  int differences = 0;
  for (int64_t row = 0; row < rows; ++row) {
    // The naive version takes over the codes so far, so one tie does not change all later ones.
    std::vector<double> errors(static_cast<size_t>(cols));
    for (int64_t i = 0; i < cols; ++i) {
      const int64_t col = order[static_cast<size_t>(i)];
      double wanted = weights[static_cast<size_t>(row * cols + col)];
      for (int64_t j = 0; j < i; ++j) {
        wanted += errors[static_cast<size_t>(j)] * (*feedback)[static_cast<size_t>(j * cols + i)];
      }
      QuantizedMatrix other = matrix;
      double least = 1e30;
      int best = 0;
      for (int code = 0; code <= GetParam().max_code(); ++code) {
        other.codes[static_cast<size_t>(row * cols + col)] = static_cast<uint8_t>(code);
        const double error = std::abs(wanted - other.Value(row, col));
        if (error >= least) continue;
        least = error;
        best = code;
      }
      differences += best == matrix.codes[static_cast<size_t>(row * cols + col)] ? 0 : 1;
      errors[static_cast<size_t>(i)] =
          double{weights[static_cast<size_t>(row * cols + col)]} - matrix.Value(row, col);
    }
  }
  EXPECT_LE(differences, rows * cols / 500) << "only ties may differ";
}

TEST_P(RoundingTest, FeedbackLowersTheErrorOfTheOutputs) {
  const int64_t rows = 8;
  const InputMoments inputs = CorrelatedMoments(192, 10);
  const std::vector<float> weights = RandomFloats(static_cast<size_t>(rows * inputs.size), 11);
  const std::vector<int32_t> order = RoundingOrder(inputs);
  const auto feedback = FeedbackOf(inputs, order);
  ASSERT_TRUE(feedback.ok());
  const std::vector<float> none(feedback->size(), 0.0f);
  const double plain = SquaredError(weights, Round(weights, rows, inputs, order, none), inputs);
  const double better =
      SquaredError(weights, Round(weights, rows, inputs, order, *feedback), inputs);
  EXPECT_LT(better, 0.5 * plain);
}

TEST_P(RoundingTest, ZerosStayZeros) {
  InputMoments inputs = CorrelatedMoments(64, 12);
  const std::vector<float> weights(2 * 64, 0.0f);
  const auto feedback = FeedbackOf(inputs, PlainOrder(64));
  ASSERT_TRUE(feedback.ok());
  const QuantizedMatrix matrix = Round(weights, 2, inputs, PlainOrder(64), *feedback);
  for (int64_t col = 0; col < 64; ++col) EXPECT_EQ(matrix.Value(1, col), 0.0f);
}

std::string FormatName(const ::testing::TestParamInfo<WeightFormat>& info) {
  return std::string(info.param.dtype == DType::kI8 ? "int8" : "int4") + "_" +
         std::to_string(info.param.group_size) + (info.param.asymmetric ? "_asymmetric" : "");
}

INSTANTIATE_TEST_SUITE_P(Formats, RoundingTest,
                         ::testing::Values(WeightFormat(DType::kI4, 32),
                                           WeightFormat(DType::kI4, 32, true),
                                           WeightFormat(DType::kI8, 64)),
                         FormatName);

// One large weight in a group: the search gives the small weights a finer grid than the whole range
// would, if the large weight's input matters little.
TEST(SearchGridsTest, AnUnimportantOutlierDoesNotTakeTheScale) {
  std::vector<float> weights = RandomFloats(32, 13);
  weights[5] = 20.0f;
  std::vector<float> importance(32, 1.0f);
  ThreadTeam team(1);
  QuantizedMatrix important = NewMatrix(1, 32, WeightFormat(DType::kI4, 32));
  SearchGrids(weights, importance, &team, &important);
  importance[5] = 1e-6f;
  QuantizedMatrix unimportant = NewMatrix(1, 32, WeightFormat(DType::kI4, 32));
  SearchGrids(weights, importance, &team, &unimportant);
  EXPECT_LT(BF16ToFloat(unimportant.scales[0]), 0.6f * BF16ToFloat(important.scales[0]));
}

}  // namespace
}  // namespace tessera::testing

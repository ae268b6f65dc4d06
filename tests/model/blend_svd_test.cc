// TruncateRank on matrices that the tests build from chosen singular values.
#include "kernels/model/lora/blend_svd.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace tessera::testing {
namespace {

using Columns = std::vector<std::vector<double>>;

// Returns `count` orthonormal columns of `length` elements. REQUIRES: count <= length.
Columns Orthonormal(int64_t length, int count, std::mt19937* rng) {
  std::normal_distribution<double> normal;
  Columns columns;
  while (static_cast<int>(columns.size()) < count) {
    std::vector<double> fresh(static_cast<size_t>(length));
    for (double& value : fresh) value = normal(*rng);
    // A second pass of Gram-Schmidt makes the column orthogonal up to rounding.
    for (int round = 0; round < 2; ++round) {
      for (const std::vector<double>& other : columns) {
        double dot = 0.0;
        for (size_t i = 0; i < fresh.size(); ++i) dot += fresh[i] * other[i];
        for (size_t i = 0; i < fresh.size(); ++i) fresh[i] -= dot * other[i];
      }
    }
    double norm = 0.0;
    for (const double value : fresh) norm += value * value;
    for (double& value : fresh) value /= std::sqrt(norm);
    columns.push_back(std::move(fresh));
  }
  return columns;
}

struct Shape {
  int64_t rows;
  int64_t cols;
};

// Returns tensors of rank `rank` whose product has the singular values `values`. An orthogonal G
// mixes the singular vectors over the ranks: b = U diag(values) G / scales, a = G^T V^T.
LoraTensors WithSingularValues(const Shape& shape, const std::vector<double>& values, int32_t rank,
                               uint32_t seed) {
  std::mt19937 rng(seed);
  const size_t count = values.size();
  const Columns u = Orthonormal(shape.rows, static_cast<int>(count), &rng);
  const Columns v = Orthonormal(shape.cols, static_cast<int>(count), &rng);
  const Columns g = Orthonormal(rank, static_cast<int>(count), &rng);  // [count][rank]
  LoraTensors tensors;
  tensors.rank = rank;
  for (int32_t r = 0; r < rank; ++r) {
    tensors.scales.push_back(r % 2 == 0 ? 0.5f : -3.0f);
    for (int64_t k = 0; k < shape.cols; ++k) {
      double sum = 0.0;
      for (size_t i = 0; i < count; ++i) sum += g[i][r] * v[i][k];
      tensors.a.push_back(static_cast<float>(sum));
    }
  }
  for (int64_t n = 0; n < shape.rows; ++n) {
    for (int32_t r = 0; r < rank; ++r) {
      double sum = 0.0;
      for (size_t i = 0; i < count; ++i) sum += values[i] * u[i][n] * g[i][r];
      tensors.b.push_back(static_cast<float>(sum / tensors.scales[r]));
    }
  }
  return tensors;
}

// Returns b diag(scales) a, [rows, cols].
std::vector<double> Product(const LoraTensors& tensors, const Shape& shape) {
  std::vector<double> product(static_cast<size_t>(shape.rows * shape.cols), 0.0);
  for (int64_t n = 0; n < shape.rows; ++n) {
    for (int32_t r = 0; r < tensors.rank; ++r) {
      const double left = double{tensors.b[n * tensors.rank + r]} * tensors.scales[r];
      for (int64_t k = 0; k < shape.cols; ++k) {
        product[n * shape.cols + k] += left * tensors.a[r * shape.cols + k];
      }
    }
  }
  return product;
}

double Distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

void ExpectNearest(const Shape& shape, const std::vector<double>& values, int32_t rank,
                   int32_t to) {
  SCOPED_TRACE(::testing::Message() << shape.rows << "x" << shape.cols << ", " << values.size()
                                    << " values, rank " << rank << " to " << to);
  const LoraTensors tensors = WithSingularValues(shape, values, rank, 7);
  const auto nearest = TruncateRank(tensors, shape.rows, shape.cols, to);
  ASSERT_TRUE(nearest.ok()) << nearest.status();
  ASSERT_EQ(nearest->rank, to);
  ASSERT_EQ(nearest->a.size(), static_cast<size_t>(to * shape.cols));
  ASSERT_EQ(nearest->b.size(), static_cast<size_t>(to * shape.rows));
  EXPECT_THAT(nearest->scales, ::testing::Each(1.0f));
  double tail = 0.0;
  for (size_t i = static_cast<size_t>(to); i < values.size(); ++i) tail += values[i] * values[i];
  EXPECT_NEAR(Distance(Product(*nearest, shape), Product(tensors, shape)), std::sqrt(tail),
              1e-5 * values[0]);
  // For each rank, its row of a and its column of b have the square root of the singular value as
  // norm.
  for (int32_t r = 0; r < to; ++r) {
    double of_a = 0.0;
    double of_b = 0.0;
    for (int64_t k = 0; k < shape.cols; ++k) of_a += std::pow(nearest->a[r * shape.cols + k], 2);
    for (int64_t n = 0; n < shape.rows; ++n) of_b += std::pow(nearest->b[n * to + r], 2);
    const double want = static_cast<size_t>(r) < values.size() ? values[r] : 0.0;
    EXPECT_NEAR(of_a, want, 1e-5 * values[0]) << "rank " << r;
    EXPECT_NEAR(of_b, want, 1e-5 * values[0]) << "rank " << r;
  }
}

TEST(TruncateRankTest, WhatIsLostIsTheTail) {
  const std::vector<double> values = {9.0, 5.0, 4.9, 2.0, 0.7, 0.3, 0.01, 0.001};
  for (const Shape shape : {Shape{60, 40}, Shape{40, 60}, Shape{8, 33}, Shape{33, 8}}) {
    for (const int32_t to : {1, 2, 3, 5, 7}) ExpectNearest(shape, values, 8, to);
  }
}

TEST(TruncateRankTest, AllOfTheRanksAreTheWhole) {
  const std::vector<double> values = {9.0, 5.0, 4.9, 2.0, 0.7, 0.3, 0.01, 0.001};
  for (const Shape shape : {Shape{60, 40}, Shape{8, 33}}) ExpectNearest(shape, values, 8, 8);
}

// The product has fewer singular values than the tensors have ranks, as with two copies of an
// adapter. Truncation down to that number is exact.
TEST(TruncateRankTest, RanksThatRepeatCostNothing) {
  for (const int32_t to : {3, 4, 7}) ExpectNearest({50, 30}, {2.0, 1.0, 0.5}, 8, to);
  ExpectNearest({50, 30}, {2.0}, 8, 1);
}

// The matrices are large enough for Eigen's blocked algorithms; some have fewer rows or columns
// than ranks.
TEST(TruncateRankTest, ManyRanks) {
  std::vector<double> values;
  for (int i = 0; i < 70; ++i) values.push_back(std::pow(0.9, i));
  for (const int32_t to : {1, 16, 69, 70, 100}) ExpectNearest({130, 90}, values, 100, to);
  const std::vector<double> few(values.begin(), values.begin() + 20);
  for (const int32_t to : {5, 20, 30}) {
    ExpectNearest({20, 90}, few, 100, to);
    ExpectNearest({90, 20}, few, 100, to);
    ExpectNearest({20, 20}, few, 100, to);
  }
}

TEST(TruncateRankTest, NothingStaysNothing) {
  LoraTensors tensors;
  tensors.rank = 4;
  tensors.a.assign(4 * 30, 1.0f);
  tensors.b.assign(50 * 4, 0.0f);  // the initial value of B in training
  tensors.scales.assign(4, 2.0f);
  const auto nearest = TruncateRank(tensors, 50, 30, 2);
  ASSERT_TRUE(nearest.ok()) << nearest.status();
  EXPECT_THAT(nearest->a, ::testing::Each(0.0f));
  EXPECT_THAT(nearest->b, ::testing::Each(0.0f));
}

TEST(TruncateRankTest, TheSameBitsEachTime) {
  std::vector<double> values(64, 1.0);  // equal, so the singular vectors are not unique
  const LoraTensors tensors = WithSingularValues({100, 80}, values, 64, 3);
  const auto first = TruncateRank(tensors, 100, 80, 20);
  const auto second = TruncateRank(tensors, 100, 80, 20);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->a, second->a);
  EXPECT_EQ(first->b, second->b);
}

TEST(TruncateRankTest, WhatIsNotFiniteIsRefused) {
  const LoraTensors good = WithSingularValues({20, 30}, {3.0, 2.0, 1.0}, 4, 3);
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    for (int which = 0; which < 3; ++which) {
      LoraTensors tensors = good;
      (which == 0 ? tensors.a : which == 1 ? tensors.b : tensors.scales)[2] = bad;
      const absl::Status status = TruncateRank(tensors, 20, 30, 2).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad << " " << which;
    }
  }
  // Every element is finite, but the product is not.
  LoraTensors tensors = good;
  for (float& value : tensors.a) value *= 1e38f;
  for (float& value : tensors.b) value *= 1e37f;
  for (float& scale : tensors.scales) scale *= 1e38f;
  EXPECT_FALSE(TruncateRank(tensors, 20, 30, 2).ok());
}

}  // namespace
}  // namespace tessera::testing

// Tests of the quantiser's guarantees, and of the reference backend's quantised Linear against a
// formula in fp64.
#include "kernels/device/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/device/backend.h"
#include "tests/lib/op_fixtures.h"

namespace tessera::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

WeightView ViewOf(const std::vector<float>& values, int64_t cols) {
  return {values.data(), DType::kF32, static_cast<int64_t>(values.size()) / cols, cols};
}

float Dequantized(const RowQuantizer& row, const WeightFormat& format, int64_t cols, int64_t k) {
  const int64_t g = k / (format.group_size == 0 ? cols : format.group_size);
  return row.scales()[g] * static_cast<float>(row.codes()[k] - row.zeros()[g]);
}

TEST(WeightFormatTest, KnowsWhatIsValid) {
  for (const WeightFormat& format : QuantizedFormats()) EXPECT_TRUE(format.valid());
  EXPECT_TRUE(WeightFormat(DType::kF32).valid());
  EXPECT_TRUE(WeightFormat(DType::kBF16).valid());
  EXPECT_FALSE(WeightFormat(DType::kF16).valid());
  EXPECT_FALSE(WeightFormat(DType::kF32, 32).valid());
  EXPECT_FALSE(WeightFormat(DType::kBF16, 0, true).valid());
  EXPECT_FALSE(WeightFormat(DType::kI4, 48).valid());
  EXPECT_FALSE(WeightFormat(DType::kI8, -32).valid());
  EXPECT_FALSE(WeightFormat(DType::kF32, 0, false, 16).valid());
  EXPECT_FALSE(WeightFormat(DType::kI8, 0, false, 48).valid());
  EXPECT_FALSE(WeightFormat(DType::kI8, 0, false, 8).valid());
  EXPECT_FALSE(WeightFormat(DType::kI8, 0, false, 256).valid());
  EXPECT_FALSE(WeightFormat(DType::kI8) == WeightFormat(DType::kI8, 0, false, 16));
  const WeightFormat weight_only = WeightFormat(DType::kI4, 32).WithBF16Activations();
  EXPECT_TRUE(weight_only.valid());
  EXPECT_FALSE(weight_only == WeightFormat(DType::kI4, 32));
  WeightFormat rotated = weight_only.Rotated(128);
  EXPECT_EQ(rotated.activations, DType::kI8);
  rotated.activations = DType::kBF16;
  EXPECT_FALSE(rotated.valid());
  rotated = weight_only;
  rotated.activations = DType::kF32;
  EXPECT_FALSE(rotated.valid());
  EXPECT_EQ(WeightFormat(DType::kI4, 32).NumGroups(65), 3);
  EXPECT_EQ(WeightFormat(DType::kI4).NumGroups(65), 1);
}

TEST(HalfTest, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = F16ToFloat(static_cast<F16>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(value))));
      continue;
    }
    EXPECT_EQ(FloatToF16(value), bits);
    if ((bits & 0x7fffu) >= 0x7bffu) continue;
    const float next = F16ToFloat(static_cast<F16>(bits + 1));
    const float middle = (value + next) / 2;  // exact in fp32
    EXPECT_EQ(FloatToF16(middle), bits + (bits & 1u)) << bits;
    EXPECT_EQ(FloatToF16(std::nextafter(middle, value)), bits);
    EXPECT_EQ(FloatToF16(std::nextafter(middle, next)), bits + 1);
  }
  EXPECT_EQ(FloatToF16(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToF16(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToF16(-1e30f), 0xfc00);
}

TEST(RotationTest, SizeIsTheLargestThatDividesTheColumns) {
  EXPECT_EQ(RotationOf(896), 128);
  EXPECT_EQ(RotationOf(576), 64);
  EXPECT_EQ(RotationOf(1504), 32);
  EXPECT_EQ(RotationOf(48), 16);
  EXPECT_EQ(RotationOf(40), 0);
  EXPECT_EQ(RotationOf(33), 0);
  for (const int64_t cols : {896, 576, 48, 40}) {
    const WeightFormat format = WeightFormat(DType::kI4, 32, true).Rotated(cols);
    EXPECT_TRUE(format.valid());
    EXPECT_TRUE(format == WeightFormat(DType::kI4, 32, true, RotationOf(cols)));
  }
}

// The element in row i and column j of a Hadamard matrix is -1 if i & j has an odd number of bits.
TEST(RotationTest, IsTheProductWithTheHadamardMatrix) {
  for (const int32_t size : {16, 32, 64, 128}) {
    const int64_t cols = 3 * size;
    const std::vector<float> x = RandomFloats(cols, 1.0f, static_cast<uint64_t>(size));
    std::vector<float> rotated = x;
    RotateRow(size, cols, rotated.data());
    for (int64_t i = 0; i < cols; ++i) {
      double sum = 0.0;
      for (int64_t j = 0; j < size; ++j) {
        const bool odd = __builtin_popcountll(static_cast<uint64_t>(i % size & j)) % 2 != 0;
        const double value = x[static_cast<size_t>(i / size * size + j)];
        sum += odd ? -value : value;
      }
      EXPECT_NEAR(rotated[static_cast<size_t>(i)], sum, 1e-4) << size << " " << i;
    }
    RotateRow(size, cols, rotated.data());
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_NEAR(rotated[i] / static_cast<float>(size), x[i], 1e-5) << size << " " << i;
    }
  }
}

TEST(RowQuantizerTest, RotatedWeightsAreQuantised) {
  constexpr int64_t kCols = 192;
  const std::vector<float> weights = RandomFloats(kCols, 0.1f, 5);
  for (const WeightFormat& plain : QuantizedFormats()) {
    const WeightFormat format = plain.Rotated(kCols);
    ASSERT_EQ(format.rotation, 64);
    std::vector<float> rotated = weights;
    RotateRow(format.rotation, kCols, rotated.data());
    for (float& weight : rotated) weight /= 64.0f;
    RowQuantizer expected(plain);
    expected.Load(ViewOf(rotated, kCols), 0);
    RowQuantizer row(format);
    row.Load(ViewOf(weights, kCols), 0);
    EXPECT_TRUE(std::equal(row.codes(), row.codes() + kCols, expected.codes()));
    const int64_t num_groups = format.NumGroups(kCols);
    EXPECT_TRUE(std::equal(row.scales(), row.scales() + num_groups, expected.scales()));
    EXPECT_TRUE(std::equal(row.zeros(), row.zeros() + num_groups, expected.zeros()));
  }
}

// The error of every weight is at most half a step of its group. The error of the largest weight is
// at most the rounding error of the scale.
TEST(RowQuantizerTest, ErrorIsHalfAStep) {
  for (const WeightFormat& format : QuantizedFormats()) {
    constexpr int64_t kCols = 300;
    std::vector<float> weights = RandomFloats(4 * kCols, 0.1f, 1);
    for (int64_t k = 0; k < kCols; ++k) weights[static_cast<size_t>(k)] += 0.3f;  // not symmetric
    const int64_t group = format.group_size == 0 ? kCols : format.group_size;
    RowQuantizer row(format);
    for (int64_t n = 0; n < 4; ++n) {
      row.Load(ViewOf(weights, kCols), n);
      for (int64_t k = 0; k < kCols; ++k) {
        const float weight = weights[static_cast<size_t>(n * kCols + k)];
        const float step = std::fabs(row.scales()[k / group]);
        ASSERT_GT(step, 0.0f);
        // The error is up to one step at the ends of the grid: symmetric int4 has no code for the
        // negative of its largest weight, and the rounding of a zero point moves both ends. The
        // rounding of bf16 scales moves them by 1/512 of the range.
        const bool symmetric_int8 = format.dtype == DType::kI8 && !format.asymmetric;
        const float ends = format.group_size != 0 ? static_cast<float>(format.max_code()) / 512 : 0;
        const float allowed = (symmetric_int8 ? 0.5f : 1.0f) + ends + 1e-3f;
        EXPECT_LE(std::fabs(weight - Dequantized(row, format, kCols, k)), allowed * step)
            << FormatName(format) << " row " << n << " col " << k;
        EXPECT_LE(row.codes()[k], format.max_code());
      }
      for (int64_t g = 0; g < format.NumGroups(kCols); ++g) {
        if (!format.asymmetric) {
          EXPECT_EQ(row.zeros()[g], format.symmetric_zero());
        }
        if (format.group_size == 0) continue;
        const float scale = row.scales()[g];
        EXPECT_EQ(BF16ToFloat(FloatToBF16(scale)), scale);
      }
    }
  }
}

TEST(RowQuantizerTest, TheLargestWeightIsMetExactly) {
  std::vector<float> weights(32, 0.25f);
  weights[5] = 1.0f;
  RowQuantizer positive(WeightFormat(DType::kI4, 32));
  positive.Load(ViewOf(weights, 32), 0);
  EXPECT_EQ(positive.scales()[0], -0.125f);
  EXPECT_EQ(positive.codes()[5], 0);
  EXPECT_EQ(positive.codes()[0], 6);
  weights[5] = -1.0f;
  RowQuantizer negative(WeightFormat(DType::kI4, 32));
  negative.Load(ViewOf(weights, 32), 0);
  EXPECT_EQ(negative.scales()[0], 0.125f);
  EXPECT_EQ(negative.codes()[5], 0);
  EXPECT_EQ(negative.codes()[0], 10);
  RowQuantizer five(WeightFormat(DType::kI5, 32));
  five.Load(ViewOf(weights, 32), 0);
  EXPECT_EQ(five.scales()[0], 0.0625f);
  EXPECT_EQ(five.codes()[5], 0);
  EXPECT_EQ(five.codes()[0], 20);
  RowQuantizer bytes{WeightFormat(DType::kI8)};
  bytes.Load(ViewOf(weights, 32), 0);
  EXPECT_EQ(bytes.codes()[5], 1);
  EXPECT_EQ(bytes.codes()[0], 128 + 32);  // 31.75
}

TEST(RowQuantizerTest, WeightsCountWhereverTheyLie) {
  constexpr int64_t kCols = 29;
  for (size_t at = 0; at < kCols; ++at) {
    std::vector<float> row(kCols, 0.5f);
    RowQuantizer quantizer(DType::kI8);
    for (const float weight : {3.0f, -3.0f}) {
      row[at] = weight;
      quantizer.Load({row.data(), DType::kF32, 1, kCols}, 0);
      EXPECT_EQ(quantizer.scales()[0], 3.0f / 127.0f) << at;
    }
    for (const float broken :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      row[at] = broken;
      quantizer.Load({row.data(), DType::kF32, 1, kCols}, 0);
      EXPECT_TRUE(std::isnan(quantizer.scales()[0])) << at;
    }
  }
}

// Every asymmetric grid represents 0 exactly.
TEST(RowQuantizerTest, AsymmetricGridsHaveZero) {
  for (float low : {-1.0f, 0.5f, 0.0f, -3.0f}) {
    for (DType dtype : {DType::kI4, DType::kI5, DType::kI8}) {
      std::vector<float> weights(64, low);
      weights[1] = low + 1.0f;
      weights[2] = 0.0f;
      const WeightFormat format(dtype, 64, true);
      RowQuantizer row(format);
      row.Load(ViewOf(weights, 64), 0);
      EXPECT_EQ(Dequantized(row, format, 64, 2), 0.0f) << low;
      EXPECT_NEAR(Dequantized(row, format, 64, 0), low, std::fabs(row.scales()[0])) << low;
    }
  }
}

TEST(RowQuantizerTest, ZerosAndBrokenWeights) {
  for (const WeightFormat& format : QuantizedFormats()) {
    for (float value : {0.0f, 1e-38f, kInfinity, -kInfinity, std::nanf("")}) {
      std::vector<float> weights(128, value == 1e-38f ? value : 0.0f);
      weights[3] = value;
      RowQuantizer row(format);
      row.Load(ViewOf(weights, 128), 0);
      if (std::isfinite(value)) {
        for (int64_t k = 0; k < 128; ++k) {
          EXPECT_NEAR(Dequantized(row, format, 128, k), 0.0f, 1e-37f);
        }
        continue;
      }
      EXPECT_TRUE(std::isnan(row.scales()[0])) << FormatName(format) << value;
      if (format.NumGroups(128) > 1) {
        EXPECT_EQ(row.scales()[1], 0.0f);
      }
    }
  }
}

TEST(RowQuantizerTest, ReadyPartsStayAsTheyAre) {
  const WeightFormat format(DType::kI4, 32, true);
  std::vector<uint8_t> codes(2 * 40);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i % 16);
  const std::vector<F16> scales = {0x3c00, 0x0001, 0xbc00, 0x3555};
  const std::vector<uint8_t> zeros = {0, 16, 7, 15};
  WeightView view{codes.data(), DType::kI4, 2, 40, scales.data(), DType::kF16, zeros.data()};
  RowQuantizer row(format);
  row.Load(view, 1);
  EXPECT_TRUE(std::equal(row.codes(), row.codes() + 40, codes.begin() + 40));
  EXPECT_EQ(row.scales()[0], -1.0f);
  EXPECT_EQ(row.scales()[1], F16ToFloat(0x3555));
  EXPECT_EQ(row.zeros()[0], 7);
  EXPECT_EQ(row.zeros()[1], 15);
  view.zeros = nullptr;
  row.Load(view, 0);
  EXPECT_EQ(row.zeros()[0], 8);

  const WeightView own{nullptr, DType::kF32, 2, 40};
  EXPECT_EQ(ScaleDType({view, view}, format), DType::kF16);
  EXPECT_EQ(ScaleDType({own, own}, format), DType::kBF16);
  EXPECT_EQ(ScaleDType({own, view}, format), DType::kF32);
  EXPECT_EQ(ScaleDType({own}, WeightFormat(DType::kI8)), DType::kF32);
}

// Computes the formula of kernels/device/weight_format.h from the codes of weights and rows.
std::vector<float> NaiveQuantizedLinear(const BuiltLinear& built) {
  const LinearCase& linear = built.linear;
  std::vector<float> result;
  RowQuantizer row(linear.format);
  for (int64_t r = 0; r < linear.rows; ++r) {
    const float* const x = built.x.data() + r * linear.k;
    double max = 0.0;
    for (int64_t k = 0; k < linear.k; ++k) max = std::max<double>(max, std::fabs(x[k]));
    for (int64_t n = 0; n < linear.n; ++n) {
      row.Load({built.weight.data(), DType::kF32, linear.n, linear.k}, n);
      double y = linear.bias ? built.bias[static_cast<size_t>(n)] : 0.0;
      for (int64_t k = 0; k < linear.k; ++k) {
        const double code = std::nearbyint(x[k] * (127.0f / static_cast<float>(max)));
        EXPECT_LE(std::fabs(code), 127.0);
        y += code * max / 127.0 * Dequantized(row, linear.format, linear.k, k);
      }
      result.push_back(static_cast<float>(y));
    }
  }
  return result;
}

TEST(RefQuantized, MatchesTheFormula) {
  const auto backend = NewRefBackend();
  for (const WeightFormat& format : QuantizedFormats()) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{5, 1}, {17, 33}, {8, 300}}) {
      LinearCase linear{3, n, k, format};
      linear.bias = true;
      const BuiltLinear built = BuildLinear(linear, 3);
      ExpectClose(RunLinear(backend.get(), built), NaiveQuantizedLinear(built), 1e-5, 1e-5,
                  linear.name());
    }
  }
}

// The outputs with quantised weights are close to those with the original weights; a wrong scale or
// zero point would break this.
TEST(RefQuantized, IsNearTheFloatResult) {
  const auto backend = NewRefBackend();
  for (const WeightFormat& format : QuantizedFormats()) {
    LinearCase linear{4, 40, 256, format};
    BuiltLinear built = BuildLinear(linear, 9);
    const std::vector<float> quantized = RunLinear(backend.get(), built);
    built.linear.format = DType::kF32;
    // Outputs are of order 1. An int4 step is about 3 sigma / 8 (asymmetric: / 7.5), and errors are
    // uniform within a step.
    ExpectClose(quantized, RunLinear(backend.get(), built), format.dtype == DType::kI8 ? 0.06 : 0.7,
                0.0, linear.name());
  }
}

// A rotation changes the error of a product, not the product. Where one channel of the activations
// is much larger than the others, the error is much smaller.
TEST(RefQuantized, ARotationSpreadsOutliers) {
  const auto backend = NewRefBackend();
  const auto error_of = [&backend](const WeightFormat& format) {
    BuiltLinear built = BuildLinear({6, 40, 256, format}, 9);
    for (int64_t row = 0; row < 6; ++row) built.x[static_cast<size_t>(row * 256 + 77)] *= 100.0f;
    const std::vector<float> quantized = RunLinear(backend.get(), built);
    built.linear.format = DType::kF32;
    const std::vector<float> exact = RunLinear(backend.get(), built);
    double error = 0.0;
    for (size_t i = 0; i < exact.size(); ++i) error += std::pow(quantized[i] - exact[i], 2);
    return std::sqrt(error / static_cast<double>(exact.size()));
  };
  const double plain = error_of(DType::kI8);
  EXPECT_LT(error_of(WeightFormat(DType::kI8, 0, false, 128)), 0.5 * plain);
  EXPECT_LT(error_of(WeightFormat(DType::kI8, 0, false, 16)), 0.8 * plain);
}

}  // namespace
}  // namespace tessera::testing

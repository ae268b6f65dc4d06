// Compares Linear with int8, int5 and int4 weights and bf16 activations on every ISA with ref,
// which sums in fp64. The weights are not rounded, so only the fp32 sums differ.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/cpu/pack_quantized.h"
#include "kernels/device/backend.h"
#include "kernels/device/footprint.h"
#include "tests/lib/op_fixtures.h"

namespace tessera::testing {
namespace {

std::vector<WeightFormat> WeightOnlyFormats() {
  std::vector<WeightFormat> formats;
  for (const WeightFormat& format : QuantizedFormats()) {
    formats.push_back(format.WithBF16Activations());
  }
  return formats;
}

// The rounding errors of fp32 sums of products of order 1 / sqrt(k): 6e-8 each, growing like
// sqrt(k). If the norm before the Linear differs in its last bit, one element in 2^16 is rounded to
// the other neighbouring bf16 (2^-9 relative).
double Tolerance(const LinearCase& linear) {
  const double k = static_cast<double>(linear.k);
  return 4e-7 * std::sqrt(k) + 2e-6 + (linear.pre_norm ? 8e-3 / std::sqrt(k) : 0.0);
}

class CpuWeightOnlyTest : public ::testing::TestWithParam<std::string> {
 protected:
  CpuWeightOnlyTest() : team_(2), cpu_(NewCpuBackend(GetParam(), &team_)), ref_(NewRefBackend()) {}

  void ExpectAsRef(const LinearCase& linear, int seed) {
    const BuiltLinear built = BuildLinear(linear, seed);
    ExpectClose(RunLinear(cpu_.get(), built), RunLinear(ref_.get(), built), Tolerance(linear), 1e-5,
                linear.name());
  }

  ThreadTeam team_;
  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<Backend> ref_;
};

INSTANTIATE_TEST_SUITE_P(Isa, CpuWeightOnlyTest, ::testing::ValuesIn(WithTwin(CpuIsas())),
                         [](const auto& info) { return info.param; });

// The shapes end inside a panel, a line, a group or a tile of rows.
TEST_P(CpuWeightOnlyTest, RaggedShapesMatchRef) {
  for (const WeightFormat& format : WeightOnlyFormats()) {
    for (int64_t rows = 1; rows <= 64; rows += rows < 14 ? 1 : 10) {
      for (const auto& [n, k] :
           {std::pair<int64_t, int64_t>{15, 31}, {16, 1}, {49, 130}, {1, 65}, {83, 36}}) {
        LinearCase linear{rows, n, k, format};
        linear.bias = true;
        linear.epilogue = Epilogue::kResidualAdd;
        ExpectAsRef(linear, 11);
      }
    }
  }
}

TEST_P(CpuWeightOnlyTest, NormsAndEpiloguesMatchRef) {
  for (const WeightFormat& format : WeightOnlyFormats()) {
    for (int64_t rows : {1, 5, 33}) {
      for (const LinearCase& linear :
           {LinearCase{rows, 2 * 37, 45, format, true, true, false, Epilogue::kGatedAct},
            LinearCase{rows, 2 * 40, 96, format, false, false, false, Epilogue::kGatedAct,
                       Activation::kGeluTanh},
            LinearCase{rows, 50, 172, format, true, true, true, Epilogue::kResidualAdd},
            LinearCase{rows, 64, 1024, format}}) {
        ExpectAsRef(linear, 13);
      }
    }
  }
}

TEST_P(CpuWeightOnlyTest, RowAloneEqualsRowInBatch) {
  ThreadTeam single(1);
  const auto alone = NewCpuBackend(GetParam(), &single);
  for (const WeightFormat& plain :
       {WeightFormat(DType::kI8), WeightFormat(DType::kI4, 32), WeightFormat(DType::kI4, 128, true),
        WeightFormat(DType::kI5, 32)}) {
    const WeightFormat format = plain.WithBF16Activations();
    for (const LinearCase& base :
         {LinearCase{200, 150, 131, format, true, true, false, Epilogue::kResidualAdd},
          LinearCase{200, 2 * 85, 96, format, true, false, false, Epilogue::kGatedAct}}) {
      ExpectRowsAsAlone(cpu_.get(), alone.get(), base, 3);
    }
  }
}

// Every code, with every zero point that a checkpoint may have, is the exact number code - zero:
// output n of a row that has a 1 at column k, and zeros elsewhere, is one weight.
TEST_P(CpuWeightOnlyTest, EveryCodeIsExact) {
  constexpr int64_t kCols = 64;
  for (const WeightFormat& format : WeightOnlyFormats()) {
    const int64_t num_codes = format.max_code() + 1;
    const int64_t num_zeros = format.asymmetric ? num_codes + 1 : 1;  // GPTQ has zeros up to 16
    const int64_t num_groups = format.NumGroups(kCols);
    std::vector<uint8_t> codes;
    std::vector<uint8_t> zeros;
    for (int64_t zero = 0; zero < num_zeros; ++zero) {
      for (int64_t k = 0; k < kCols; ++k) {
        codes.push_back(static_cast<uint8_t>((k * 37 + zero * 5) % num_codes));
      }
      for (int64_t g = 0; g < num_groups; ++g) {
        const int64_t least = format.dtype == DType::kI8 ? num_codes - 1 : num_codes;
        zeros.push_back(static_cast<uint8_t>(std::min(zero, least)));
      }
    }
    const std::vector<float> scales(static_cast<size_t>(num_zeros * num_groups), 0.5f);
    const WeightView view{codes.data(),
                          format.dtype,
                          num_zeros,
                          kCols,
                          scales.data(),
                          DType::kF32,
                          format.asymmetric ? zeros.data() : nullptr};
    const auto weight = cpu_->Pack({view}, format, false);
    ASSERT_NE(weight, nullptr);
    std::vector<float> x(kCols * kCols, 0.0f);
    for (size_t k = 0; k < kCols; ++k) x[k * kCols + k] = 1.0f;
    std::vector<float> out(static_cast<size_t>(kCols * num_zeros));
    LinearArgs args;
    args.x = Tensor::F32(x.data(), kCols, kCols);
    args.weight = weight.get();
    args.out = Tensor::F32(out.data(), kCols, num_zeros);
    cpu_->Linear(args);
    for (int64_t k = 0; k < kCols; ++k) {
      for (int64_t n = 0; n < num_zeros; ++n) {
        const int code = codes[static_cast<size_t>(n * kCols + k)];
        const int zero = format.asymmetric ? zeros[static_cast<size_t>(n * num_groups)]
                                           : format.symmetric_zero();
        ASSERT_EQ(out[static_cast<size_t>(k * num_zeros + n)],
                  0.5f * static_cast<float>(code - zero))
            << FormatName(format) << " code " << code << " zero " << zero;
      }
    }
  }
}

// A NaN makes all outputs of its row NaN, and zeros make them 0. Other rows are not affected.
TEST_P(CpuWeightOnlyTest, ZerosAndBrokenRows) {
  constexpr int64_t kCols = 80;
  constexpr size_t kOutputs = 33;
  for (const WeightFormat& format : WeightOnlyFormats()) {
    const BuiltLinear built = BuildLinear({5, kOutputs, kCols, format}, 21);
    BuiltLinear broken = built;
    for (size_t k = 0; k < kCols; ++k) broken.x[kCols + k] = 0.0f;
    broken.x[2 * kCols + 74] = std::nanf("");
    broken.x[3 * kCols] = std::numeric_limits<float>::infinity();
    const std::vector<float> good = RunLinear(cpu_.get(), built);
    const std::vector<float> out = RunLinear(cpu_.get(), broken);
    for (size_t i = 0; i < kOutputs; ++i) {
      EXPECT_EQ(out[i], good[i]);
      EXPECT_EQ(out[kOutputs + i], 0.0f);
      EXPECT_TRUE(std::isnan(out[2 * kOutputs + i]));
      EXPECT_FALSE(std::isfinite(out[3 * kOutputs + i]) && out[3 * kOutputs + i] != 0.0f);
      EXPECT_EQ(out[4 * kOutputs + i], good[4 * kOutputs + i]);
    }
  }
}

// The workspace that a plan holds for prepared rows is at least what LinearOp uses.
TEST(PreparedRowsTest, FitTheirPlan) {
  constexpr int64_t kRows = 1 << 16;  // so many that the rounding to memory pages hides nothing
  for (const WeightFormat& plain : QuantizedFormats()) {
    for (const WeightFormat& format : {plain, plain.WithBF16Activations()}) {
      for (int64_t cols = 1; cols <= 9000; cols += cols < 2200 ? 1 : 16) {
        const cpu::QuantShape shape = cpu::NewQuantShape(cols, format, DType::kF32);
        const int64_t row_bytes = shape.row_scale + static_cast<int64_t>(sizeof(float));
        const int64_t lines = CeilDiv(row_bytes, cpu::kCacheLine) | 1;
        ASSERT_GE(PreparedBytes(kRows, cols), kRows * lines * cpu::kCacheLine)
            << FormatName(format) << " " << cols;
      }
    }
  }
}

}  // namespace
}  // namespace tessera::testing

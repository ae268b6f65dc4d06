// Compares Linear with int8, int5 and int4 weights on every ISA with ref, bit for bit. Equality is
// exact because integer sums are exact and the order of float operations is fixed. Only the norm
// before a Linear may be rounded differently.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "tests/lib/op_fixtures.h"

namespace tessera::testing {
namespace {

class CpuQuantizedTest : public ::testing::TestWithParam<std::string> {
 protected:
  CpuQuantizedTest() : team_(2), cpu_(NewCpuBackend(GetParam(), &team_)), ref_(NewRefBackend()) {}

  // Runs the same Linear on both backends.
  void ExpectAsRef(const std::vector<WeightView>& parts, const WeightFormat& format,
                   std::vector<float> x, const std::string& what) {
    const int64_t cols = parts[0].cols;
    const int64_t rows = static_cast<int64_t>(x.size()) / cols;
    std::vector<float> outs[2];
    Backend* const backends[2] = {cpu_.get(), ref_.get()};
    for (int b = 0; b < 2; ++b) {
      const auto weight = backends[b]->Pack(parts, format, false);
      ASSERT_NE(weight, nullptr);
      EXPECT_TRUE(weight->format() == format);
      outs[b].resize(static_cast<size_t>(rows * weight->rows()));
      LinearArgs args;
      args.x = Tensor::F32(x.data(), rows, cols);
      args.weight = weight.get();
      args.out = Tensor::F32(outs[b].data(), rows, weight->rows());
      backends[b]->Linear(args);
    }
    ExpectSameBits(outs[0], outs[1], what);
  }

  ThreadTeam team_;
  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<Backend> ref_;
};

INSTANTIATE_TEST_SUITE_P(Isa, CpuQuantizedTest, ::testing::ValuesIn(WithTwin(CpuIsas())),
                         [](const auto& info) { return info.param; });

// The shapes end inside a panel, a line, a group or a tile of rows.
TEST_P(CpuQuantizedTest, RaggedShapesEqualRef) {
  for (const WeightFormat& format : QuantizedFormats()) {
    for (int64_t rows = 1; rows <= 64; rows += rows < 14 ? 1 : 10) {
      for (const auto& [n, k] :
           {std::pair<int64_t, int64_t>{15, 31}, {16, 1}, {49, 130}, {1, 65}, {83, 36}}) {
        LinearCase linear{rows, n, k, format};
        linear.bias = true;
        linear.epilogue = Epilogue::kResidualAdd;
        const BuiltLinear built = BuildLinear(linear, 11);
        ExpectSameBits(RunLinear(cpu_.get(), built), RunLinear(ref_.get(), built), linear.name());
      }
    }
  }
}

// Every size of a rotation, with rows that end inside a panel, a group or a tile of rows.
TEST_P(CpuQuantizedTest, RotatedShapesEqualRef) {
  for (const WeightFormat& plain : QuantizedFormats()) {
    for (const int64_t rows : {1, 2, 7, 13, 33}) {
      for (const auto& [n, k] :
           {std::pair<int64_t, int64_t>{15, 16}, {49, 144}, {20, 96}, {17, 192}, {33, 384}}) {
        const WeightFormat format = plain.Rotated(k);
        ASSERT_NE(format.rotation, 0);
        const BuiltLinear built = BuildLinear({rows, n, k, format}, 17);
        ExpectSameBits(RunLinear(cpu_.get(), built), RunLinear(ref_.get(), built),
                       built.linear.name());
      }
    }
  }
}

// A row's norm may differ from ref's in its last bit, which changes one code in some thousands by
// 1. This changes an output by 1 / 127 of the row's maximum (about 3 sigma) times one weight (about
// 1 / sqrt(k)).
TEST_P(CpuQuantizedTest, NormsAndEpiloguesMatchRef) {
  for (const WeightFormat& format : QuantizedFormats()) {
    for (int64_t rows : {1, 5, 33}) {
      for (LinearCase linear :
           {LinearCase{rows, 2 * 37, 45, format, true, true, false, Epilogue::kGatedAct},
            LinearCase{rows, 2 * 40, 96, format, false, false, false, Epilogue::kGatedAct,
                       Activation::kGeluTanh},
            LinearCase{rows, 50, 172, format, true, true, true, Epilogue::kResidualAdd},
            LinearCase{rows, 64, 320, format, true},
            LinearCase{rows, 48, 320, format.Rotated(320), true}}) {
        const BuiltLinear built = BuildLinear(linear, 13);
        const double flip = linear.pre_norm ? 0.1 / std::sqrt(static_cast<double>(linear.k)) : 0.0;
        ExpectClose(RunLinear(cpu_.get(), built), RunLinear(ref_.get(), built), 5e-6 + flip, 1e-5,
                    linear.name());
      }
    }
  }
}

TEST_P(CpuQuantizedTest, RowAloneEqualsRowInBatch) {
  ThreadTeam single(1);
  const auto alone = NewCpuBackend(GetParam(), &single);
  for (const WeightFormat& format : {WeightFormat(DType::kI8), WeightFormat(DType::kI4, 32),
                                     WeightFormat(DType::kI4, 64, true)}) {
    for (const LinearCase& base :
         {LinearCase{200, 150, 131, format, true, true, false, Epilogue::kResidualAdd},
          LinearCase{200, 50, 96, format.Rotated(96), true},
          LinearCase{200, 2 * 85, 96, format, true, false, false, Epilogue::kGatedAct}}) {
      ExpectRowsAsAlone(cpu_.get(), alone.get(), base, 3);
    }
  }
}

// The largest possible products, with all combinations of signs, must not saturate.
TEST_P(CpuQuantizedTest, ExtremesDoNotSaturate) {
  constexpr int64_t kCols = 4096;
  for (const WeightFormat& format : QuantizedFormats()) {
    const int max_code = format.max_code();
    std::vector<uint8_t> codes;
    for (int64_t n = 0; n < 4; ++n) {
      for (int64_t k = 0; k < kCols; ++k) {
        const bool high = n == 0 || (n == 2 && k % 2 == 0) || (n == 3 && k % 5 < 3);
        codes.push_back(static_cast<uint8_t>(high ? max_code : 0));
      }
    }
    const size_t num_groups = static_cast<size_t>(format.NumGroups(kCols));
    const std::vector<float> scales(4 * num_groups, 0.125f);
    std::vector<uint8_t> zeros(4 * num_groups, static_cast<uint8_t>(max_code));
    std::fill(zeros.begin(), zeros.begin() + static_cast<ptrdiff_t>(num_groups), uint8_t{0});
    const WeightView view{codes.data(),
                          format.dtype,
                          4,
                          kCols,
                          scales.data(),
                          DType::kF32,
                          format.asymmetric ? zeros.data() : nullptr};
    std::vector<float> x;
    for (int pattern = 0; pattern < 4; ++pattern) {
      for (int64_t k = 0; k < kCols; ++k) {
        const bool negative =
            pattern == 1 || (pattern == 2 && k % 2 == 0) || (pattern == 3 && k % 3 == 0);
        x.push_back(negative ? -3.0f : 3.0f);
      }
    }
    ExpectAsRef({view}, format, x, FormatName(format));
  }
}

// A fused weight consists of a part that is already quantised (codes, zeros, and scales of every
// type) and a part of floats that Pack quantises.
TEST_P(CpuQuantizedTest, ReadyPartsAreTakenAsTheyAre) {
  constexpr int64_t kCols = 200;
  const std::vector<float> own = RandomFloats(20 * kCols, 0.3f, 1);
  const std::vector<float> x = RandomFloats(5 * kCols, 1.0f, 2);
  for (const WeightFormat& format : QuantizedFormats()) {
    const size_t cells = 21 * static_cast<size_t>(format.NumGroups(kCols));
    const std::vector<float> random = RandomFloats(cells, 0.02f, 3);
    std::vector<uint8_t> codes;
    for (int64_t i = 0; i < 21 * kCols; ++i) {
      codes.push_back(static_cast<uint8_t>((i * 2654435761u >> 8) % (format.max_code() + 1u)));
    }
    std::vector<uint8_t> zeros;
    std::vector<uint16_t> f16;
    std::vector<uint16_t> bf16;
    for (size_t i = 0; i < cells; ++i) {
      // The zero points of GPTQ go up to 16.
      zeros.push_back(static_cast<uint8_t>(i * 7 % (format.max_code() + 1u)));
      if (format.dtype == DType::kI4 && i % 5 == 0) zeros.back() = 16;
      f16.push_back(FloatToF16(random[i]));
      bf16.push_back(FloatToBF16(random[i]));
    }
    WeightView ready{codes.data(),
                     format.dtype,
                     21,
                     kCols,
                     random.data(),
                     DType::kF32,
                     format.asymmetric ? zeros.data() : nullptr};
    const WeightView ours{own.data(), DType::kF32, 20, kCols};
    ExpectAsRef({ready}, format, x, FormatName(format) + " fp32");
    ExpectAsRef({ours, ready}, format, x, FormatName(format) + " mixed");
    ready.scales = f16.data();
    ready.scale_dtype = DType::kF16;
    ExpectAsRef({ready, ready}, format, x, FormatName(format) + " fp16");
    ready.scales = bf16.data();
    ready.scale_dtype = DType::kBF16;
    ExpectAsRef({ready}, format, x, FormatName(format) + " bf16");
    ready.zeros = nullptr;
    ExpectAsRef({ready, ours}, format, x, FormatName(format) + " without zeros");
  }
}

// The outputs of a row of zeros are 0. All outputs of a row that contains NaN or infinity are NaN.
// The other rows of the batch are not affected.
TEST_P(CpuQuantizedTest, ZerosAndBrokenRows) {
  constexpr int64_t kCols = 80;
  constexpr int64_t kOutputs = 33;
  const float infinity = std::numeric_limits<float>::infinity();
  for (const WeightFormat& format :
       {WeightFormat(DType::kI8), WeightFormat(DType::kI4, 32), WeightFormat(DType::kI4, 32, true),
        WeightFormat(DType::kI8).Rotated(kCols)}) {
    const BuiltLinear built = BuildLinear({7, kOutputs, kCols, format}, 21);
    BuiltLinear broken = built;
    const auto x = [&broken](int64_t row, int64_t k) -> float& {
      return broken.x[static_cast<size_t>(row * kCols + k)];
    };
    for (int64_t k = 0; k < kCols; ++k) {
      x(1, k) = 0.0f;
      x(4, k) *= 1e-34f;
    }
    x(2, 74) = std::nanf("");
    x(3, 0) = infinity;
    x(5, 40) = -infinity;
    for (Backend* backend : {cpu_.get(), ref_.get()}) {
      const std::vector<float> good = RunLinear(backend, built);
      const std::vector<float> out = RunLinear(backend, broken);
      for (size_t i = 0; i < out.size(); ++i) {
        const size_t row = i / kOutputs;
        if (row == 0 || row == 6) {
          EXPECT_EQ(out[i], good[i]);
        } else if (row == 1 || row == 4) {
          EXPECT_EQ(out[i], 0.0f);
        } else {
          EXPECT_TRUE(std::isnan(out[i])) << "row " << row;
        }
      }
    }
  }
}

// One packed weight serves both Embed and Logits (tied embeddings).
TEST_P(CpuQuantizedTest, EmbedAndLogitsEqualRef) {
  constexpr int64_t kVocab = 77;
  constexpr int64_t kHidden = 80;
  const std::vector<float> table = RandomFloats(kVocab * kHidden, 0.3f, 1);
  std::vector<float> hidden = RandomFloats(9 * kHidden, 1.0f, 2);
  BatchArena arena;
  StepBatch batch;
  batch.tokens = arena.AddCopy(std::vector<TokenId>{3, 0, 76, 16, 15});
  batch.segments = arena.AddCopy(std::vector<Segment>{{0, 0, 5, -1}});
  const std::vector<int32_t> token_rows = {8, 0, 3};
  std::vector<WeightFormat> formats = QuantizedFormats();
  for (const WeightFormat& plain : QuantizedFormats()) formats.push_back(plain.Rotated(kHidden));
  for (const WeightFormat& format : formats) {
    std::vector<float> embedded[2];
    std::vector<float> logits[2];
    Backend* const backends[2] = {cpu_.get(), ref_.get()};
    for (int b = 0; b < 2; ++b) {
      const auto weight =
          backends[b]->Pack({{table.data(), DType::kF32, kVocab, kHidden}}, format, false);
      embedded[b].resize(5 * kHidden);
      EmbedArgs embed;
      embed.batch = {&batch, arena.base()};
      embed.table = weight.get();
      embed.scale = 1.7f;
      embed.out = Tensor::F32(embedded[b].data(), 5, kHidden);
      backends[b]->Embed(embed);
      logits[b].resize(3 * kVocab);
      LogitsArgs args;
      args.hidden = Tensor::F32(hidden.data(), 9, kHidden);
      args.token_rows = token_rows.data();
      args.num_rows = 3;
      args.weight = weight.get();
      args.out = Tensor::F32(logits[b].data(), 3, kVocab);
      backends[b]->Logits(args);
    }
    ExpectSameBits(embedded[0], embedded[1], FormatName(format));
    ExpectSameBits(logits[0], logits[1], FormatName(format));
    const float step = format.dtype == DType::kI8 ? 0.02f : 0.2f;
    EXPECT_NEAR(embedded[0][1], table[3 * kHidden + 1] * 1.7f, step);
  }
}

}  // namespace
}  // namespace tessera::testing

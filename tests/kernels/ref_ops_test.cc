// Compares Linear, Logits, Embed and page ops of the reference backend with formulas in fp64.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "kernels/device/backend.h"
#include "tests/lib/op_fixtures.h"
#include "tests/lib/op_properties.h"

namespace tessera::testing {
namespace {

std::vector<double> NaiveNorm(const std::vector<double>& x, const std::vector<float>& weight) {
  double sum = 0.0;
  for (double value : x) sum += value * value;
  const double factor = 1.0 / std::sqrt(sum / static_cast<double>(x.size()) + 1e-5);
  std::vector<double> out;
  for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] * factor * weight[i]);
  return out;
}

std::vector<float> NaiveLinear(const BuiltLinear& built) {
  const LinearCase& linear = built.linear;
  std::vector<float> result;
  for (int64_t row = 0; row < linear.rows; ++row) {
    std::vector<double> x(built.x.begin() + row * linear.k, built.x.begin() + (row + 1) * linear.k);
    if (linear.pre_norm) x = NaiveNorm(x, built.pre_norm);
    std::vector<double> y(linear.n, 0.0);
    for (int64_t n = 0; n < linear.n; ++n) {
      for (int64_t k = 0; k < linear.k; ++k) {
        const double input = linear.format == DType::kBF16
                                 ? BF16ToFloat(FloatToBF16(static_cast<float>(x[k])))
                                 : x[k];
        y[n] += input * built.weight[n * linear.k + k];
      }
      if (linear.bias) y[n] += built.bias[n];
    }
    if (linear.post_norm) y = NaiveNorm(y, built.post_norm);
    for (int64_t i = 0; i < built.out_cols(); ++i) {
      if (linear.epilogue == Epilogue::kResidualAdd) y[i] += built.out[row * linear.n + i];
      if (linear.epilogue == Epilogue::kGatedAct) {
        const double g = y[i];
        const double act =
            linear.activation == Activation::kSilu
                ? g / (1.0 + std::exp(-g))
                : 0.5 * g * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (g + 0.044715 * g * g * g)));
        y[i] = act * y[linear.n / 2 + i];
      }
      result.push_back(static_cast<float>(y[i]));
    }
  }
  return result;
}

TEST(RefLinear, MatchesTheFormula) {
  const auto backend = NewRefBackend();
  uint64_t seed = 100;
  for (const LinearCase& linear : LinearGrid()) {
    const BuiltLinear built = BuildLinear(linear, seed += 10);
    // After a norm, fp32 and fp64 may round an input to neighbouring bf16 values. One such
    // difference changes an output by at most 2^-8 |x w|.
    const bool flips = linear.format == DType::kBF16 && linear.pre_norm;
    ExpectClose(RunLinear(backend.get(), built), NaiveLinear(built), flips ? 5e-3 : 1e-5, 1e-5,
                linear.name());
  }
}

TEST(RefLinear, RowsAreIndependent) {
  const auto backend = NewRefBackend();
  for (const LinearCase& linear : LinearGrid()) {
    ExpectRowsAreIndependent(backend.get(), linear, 5);
  }
}

TEST(RefLinear, Bf16WeightsRoundTheInput) {
  const auto backend = NewRefBackend();
  const float one_and_a_bit = 1.0f + 0x1p-9f;  // rounds to 1 in bf16
  const std::vector<float> weight = {1.0f};
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const auto packed = backend->Pack({{weight.data(), DType::kF32, 1, 1}}, dtype, false);
    float x = one_and_a_bit;
    float out = 0.0f;
    LinearArgs args;
    args.x = Tensor::F32(&x, 1, 1);
    args.weight = packed.get();
    args.out = Tensor::F32(&out, 1, 1);
    backend->Linear(args);
    EXPECT_EQ(out, dtype == DType::kBF16 ? 1.0f : one_and_a_bit);
  }
}

TEST(RefPack, ReadsEveryStoredTypeAndStacksParts) {
  const auto backend = NewRefBackend();
  const std::vector<float> f32 = {1.5f, -2.0f};
  const std::vector<BF16> bf16 = {FloatToBF16(0.25f), FloatToBF16(-3.0f)};
  const std::vector<F16> f16 = {0x3c00, 0x0001};  // 1 and the smallest subnormal
  const auto packed = backend->Pack({{f32.data(), DType::kF32, 1, 2},
                                     {bf16.data(), DType::kBF16, 1, 2},
                                     {f16.data(), DType::kF16, 1, 2}},
                                    DType::kF32, false);
  EXPECT_EQ(packed->rows(), 3);
  EXPECT_EQ(packed->cols(), 2);
  EXPECT_GE(packed->bytes(), 3u * 2u * 4u);
  std::vector<float> out(3);
  for (int k : {0, 1}) {
    std::vector<float> x = {k == 0 ? 1.0f : 0.0f, k == 1 ? 1.0f : 0.0f};
    LinearArgs args;
    args.x = Tensor::F32(x.data(), 1, 2);
    args.weight = packed.get();
    args.out = Tensor::F32(out.data(), 1, 3);
    backend->Linear(args);
    EXPECT_EQ(out, k == 0 ? (std::vector<float>{1.5f, 0.25f, 1.0f})
                          : (std::vector<float>{-2.0f, -3.0f, 0x1p-24f}));
  }
}

TEST(RefLogits, GathersNormsAndCaps) {
  const auto backend = NewRefBackend();
  const int hidden = 24, vocab = 37;
  std::vector<float> x = RandomFloats(5 * hidden, 1.0f, 1);
  const std::vector<float> weight = RandomFloats(vocab * hidden, 0.3f, 2);
  std::vector<float> norm = RandomFloats(hidden, 1.0f, 3);
  const auto packed =
      backend->Pack({{weight.data(), DType::kF32, vocab, hidden}}, DType::kF32, false);
  const std::vector<int32_t> rows = {4, 1};
  std::vector<float> out(rows.size() * vocab);
  LogitsArgs args;
  args.hidden = Tensor::F32(x.data(), 5, hidden);
  args.token_rows = rows.data();
  args.num_rows = 2;
  args.final_norm = {norm.data(), 1e-5f};
  args.weight = packed.get();
  args.softcap = 2.0f;
  args.out = Tensor::F32(out.data(), 2, vocab);
  backend->Logits(args);

  std::vector<float> expected;
  for (int32_t row : rows) {
    const std::vector<double> normed = NaiveNorm(
        std::vector<double>(x.begin() + row * hidden, x.begin() + (row + 1) * hidden), norm);
    for (int n = 0; n < vocab; ++n) {
      double y = 0.0;
      for (int k = 0; k < hidden; ++k) y += normed[k] * weight[n * hidden + k];
      expected.push_back(static_cast<float>(2.0 * std::tanh(y / 2.0)));
    }
  }
  ExpectClose(out, expected, 1e-5, 1e-5);
}

TEST(RefEmbed, ScalesAndTakesTheSlotsToken) {
  const auto backend = NewRefBackend();
  const std::vector<float> table = {0, 1, 10, 11, 20, 21};
  const auto packed = backend->Pack({{table.data(), DType::kF32, 3, 2}}, DType::kBF16, false);
  BatchArena arena;
  StepBatch batch;
  batch.tokens = arena.AddCopy(std::vector<TokenId>{2, kLastSampledToken, 0});
  batch.segments = arena.AddCopy(std::vector<Segment>{{0, 0, 1, -1}, {3, 1, 2, -1}});
  const std::vector<TokenId> slot_tokens = {0, 0, 0, 1};
  std::vector<float> out(6);
  EmbedArgs args;
  args.batch = {&batch, arena.base()};
  args.table = packed.get();
  args.scale = 2.0f;
  args.slot_tokens = slot_tokens.data();
  args.out = Tensor::F32(out.data(), 3, 2);
  backend->Embed(args);
  EXPECT_EQ(out, (std::vector<float>{40, 42, 20, 22, 0, 2}));
}

TEST(RefAllocate, GivesZeroedMemoryOrNothing) {
  const auto backend = NewRefBackend();
  const auto buffer = backend->Allocate(1000);
  ASSERT_NE(buffer, nullptr);
  EXPECT_EQ(buffer->size(), 1000u);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(static_cast<char*>(buffer->data())[i], 0);
}

TEST(RefApply, PageOps) {
  const auto backend = NewRefBackend();
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (int page_tokens : {8, 16, 64}) {
      AttentionCase attention;
      attention.page_tokens = page_tokens;
      attention.kv_dtype = dtype;
      attention.windows = {0, 32};
      attention.layers_per_group = 3;
      attention.segments = {{100, 4}, {3, 1}};
      ExpectPageOpsWork(backend.get(), attention, 9);
    }
  }
}

}  // namespace
}  // namespace tessera::testing

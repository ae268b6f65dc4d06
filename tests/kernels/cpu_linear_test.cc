// Tests of Linear, Logits and Embed of the cpu backend on every ISA: they are compared with ref,
// and a row must have the same bits alone and in any batch, with any number of threads.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "tests/lib/op_fixtures.h"

namespace tessera::testing {
namespace {

// The cpu backend groups the fp32 sum over k in another way than ref, so outputs (of order 1)
// differ by a few rounding errors of partial sums: 6e-8 each, growing like sqrt(k). With bf16, the
// norm may also differ from ref's fp64 norm in its last bit. Then about one element in 2^16 is
// rounded to the other neighbouring bf16 (2^-9 relative), which changes an output by
// 2^-9 / sqrt(k).
double LinearTolerance(const LinearCase& linear) {
  const double fp32 = 4e-7 * std::sqrt(static_cast<double>(linear.k)) + 2e-6;
  const double flip = linear.pre_norm && linear.format == DType::kBF16
                          ? 8e-3 / std::sqrt(static_cast<double>(linear.k))
                          : 0.0;
  return fp32 + flip;
}

class CpuLinearTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backend> New(ThreadTeam* team) const { return NewCpuBackend(GetParam(), team); }
};

INSTANTIATE_TEST_SUITE_P(Isa, CpuLinearTest, ::testing::ValuesIn(WithTwin(CpuIsas())),
                         [](const auto& info) { return info.param; });

TEST_P(CpuLinearTest, MatchesRef) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  const auto ref = NewRefBackend();
  EXPECT_EQ(cpu->name(), "cpu/" + GetParam());
  for (const LinearCase& linear : LinearGrid()) {
    const BuiltLinear built = BuildLinear(linear, 7);
    ExpectClose(RunLinear(cpu.get(), built), RunLinear(ref.get(), built), LinearTolerance(linear),
                1e-5, linear.name());
  }
}

// The rounding errors of one long fp32 sum of positive numbers grow with its length; those of sums
// of runs do not. ref sums in fp64.
TEST_P(CpuLinearTest, LongFp32SumsAreNearTheExactOnes) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  const auto ref = NewRefBackend();
  BuiltLinear built = BuildLinear({3, 64, 4096, DType::kF32}, 29);
  for (std::vector<float>* numbers : {&built.x, &built.weight}) {
    for (float& number : *numbers) number = 1.0f + std::fabs(number);
  }
  const std::vector<float> out = RunLinear(cpu.get(), built);
  const std::vector<float> exact = RunLinear(ref.get(), built);
  double error = 0.0;
  for (size_t i = 0; i < out.size(); ++i) error += std::fabs(out[i] / exact[i] - 1.0);
  error /= static_cast<double>(out.size());
  RecordProperty("error", std::to_string(1e9 * error));
  EXPECT_LT(error, 2.5e-7);
}

// The shapes end inside a panel, a pair of k, a vector or a tile of rows.
TEST_P(CpuLinearTest, RaggedShapesMatchRef) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  const auto ref = NewRefBackend();
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int64_t rows = 1; rows <= 70; rows += rows < 14 ? 1 : 7) {
      for (const auto& [n, k] :
           {std::pair<int64_t, int64_t>{15, 31}, {16, 1}, {49, 130}, {1, 65}, {83, 17}}) {
        LinearCase linear{rows, n, k, dtype};
        linear.pre_norm = true;
        linear.bias = true;
        linear.epilogue = Epilogue::kResidualAdd;
        const BuiltLinear built = BuildLinear(linear, 11);
        ExpectClose(RunLinear(cpu.get(), built), RunLinear(ref.get(), built),
                    LinearTolerance(linear), 1e-5, linear.name());
      }
      LinearCase gated{rows, 2 * 37, 45, dtype};
      gated.bias = true;
      gated.epilogue = Epilogue::kGatedAct;
      const BuiltLinear built = BuildLinear(gated, 13);
      ExpectClose(RunLinear(cpu.get(), built), RunLinear(ref.get(), built), LinearTolerance(gated),
                  1e-5, gated.name());
    }
  }
}

// Tests the activations over their whole range, with a 1 x 1 identity weight.
TEST_P(CpuLinearTest, ActivationsMatchRef) {
  ThreadTeam team(1);
  const auto cpu = New(&team);
  const auto ref = NewRefBackend();
  for (Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    LinearCase linear{4001, 2, 1, DType::kF32};
    linear.epilogue = Epilogue::kGatedAct;
    linear.activation = activation;
    BuiltLinear built = BuildLinear(linear, 1);
    built.weight = {1.0f, 0.0f};
    built.bias = {0.0f, 1.0f};
    built.linear.bias = true;
    for (int64_t i = 0; i < linear.rows; ++i) {
      built.x[static_cast<size_t>(i)] = static_cast<float>(i - 2000) * 0.05f;
    }
    // The bound is 2 ulp each for exp, tanh and the division.
    ExpectClose(RunLinear(cpu.get(), built), RunLinear(ref.get(), built), 1e-6, 2e-6,
                linear.name());
  }
}

TEST_P(CpuLinearTest, RowAloneEqualsRowInBatch) {
  ThreadTeam team(2);
  ThreadTeam single(1);
  const auto cpu = New(&team);
  const auto alone = New(&single);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const LinearCase& base :
         {LinearCase{300, 150, 131, dtype, true, true, false, Epilogue::kResidualAdd},
          LinearCase{300, 2 * 85, 96, dtype, true, false, false, Epilogue::kGatedAct},
          LinearCase{300, 40, 64, dtype, true, false, true, Epilogue::kResidualAdd}}) {
      const BuiltLinear built = BuildLinear(base, 3);
      const size_t cols = static_cast<size_t>(built.out_cols());
      std::vector<float> rows;
      for (int64_t row = 0; row < base.rows; ++row) {
        const std::vector<float> out = RunLinear(alone.get(), built, row, 1);
        rows.insert(rows.end(), out.begin(), out.end());
      }
      ExpectSameBits(RunLinear(cpu.get(), built), rows, base.name());
      for (int64_t count = 1; count <= 40; ++count) {
        const std::vector<float> out = RunLinear(cpu.get(), built, 17, count);
        const std::vector<float> expected(
            rows.begin() + 17 * static_cast<ptrdiff_t>(cols),
            rows.begin() + (17 + count) * static_cast<ptrdiff_t>(cols));
        ExpectSameBits(out, expected, base.name() + " rows " + std::to_string(count));
      }
    }
  }
}

TEST_P(CpuLinearTest, ThreadsDoNotShow) {
  std::vector<float> expected;
  for (int threads : {1, 2, 3}) {
    ThreadTeam team(threads);
    const auto cpu = New(&team);
    std::vector<float> all;
    for (int64_t rows : {1, 5, 64, 200}) {
      LinearCase linear{rows, 1000, 300, DType::kBF16, true};
      const std::vector<float> out = RunLinear(cpu.get(), BuildLinear(linear, 5));
      all.insert(all.end(), out.begin(), out.end());
    }
    if (threads == 1) expected = all;
    ExpectSameBits(all, expected, std::to_string(threads) + " threads");
  }
}

// These rows do not fit in one block that the cache can hold. The division into blocks of rows must
// not change the result.
TEST_P(CpuLinearTest, LargeShapesMatchRowsAlone) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  const LinearCase linear{300, 64, 4864, DType::kBF16};
  const BuiltLinear built = BuildLinear(linear, 19);
  const std::vector<float> out = RunLinear(cpu.get(), built);
  for (int64_t row : {0, 52, 107, 299}) {
    const std::vector<float> expected(out.begin() + row * 64, out.begin() + (row + 1) * 64);
    ExpectSameBits(RunLinear(cpu.get(), built, row, 1), expected, "row " + std::to_string(row));
  }
}

// Reads every row of a packed weight by Embed.
std::vector<float> EmbedAll(Backend* backend, const PackedWeight& weight, float scale) {
  const int vocab = static_cast<int>(weight.rows());
  BatchArena arena;
  StepBatch batch;
  std::vector<TokenId> tokens(static_cast<size_t>(vocab));
  std::iota(tokens.begin(), tokens.end(), 0);
  tokens.push_back(kLastSampledToken);
  batch.tokens = arena.AddCopy(tokens);
  batch.segments = arena.AddCopy(
      std::vector<Segment>{{0, 0, vocab, -1}, {/*slot=*/2, vocab, /*num_tokens=*/1, -1}});
  const std::vector<TokenId> slot_tokens = {0, 0, vocab - 1};
  std::vector<float> out(tokens.size() * static_cast<size_t>(weight.cols()));
  EmbedArgs args;
  args.batch = {&batch, arena.base()};
  args.table = &weight;
  args.scale = scale;
  args.slot_tokens = slot_tokens.data();
  args.out = Tensor::F32(out.data(), vocab + 1, weight.cols());
  backend->Embed(args);
  return out;
}

TEST_P(CpuLinearTest, PackedWeightsRoundTrip) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  constexpr int64_t kCols = 45;
  const std::vector<float> a = RandomFloats(21 * kCols, 1.0f, 1);
  std::vector<BF16> b_bf16;
  b_bf16.reserve(8 * kCols);
  for (float value : RandomFloats(8 * kCols, 1.0f, 2)) b_bf16.push_back(FloatToBF16(value));
  const std::vector<F16> c_f16(5 * kCols, F16{0x3555});  // 0.33325195
  const std::vector<WeightView> parts = {{a.data(), DType::kF32, 21, kCols},
                                         {b_bf16.data(), DType::kBF16, 8, kCols},
                                         {c_f16.data(), DType::kF16, 5, kCols}};
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    std::vector<float> expected = a;
    for (BF16 value : b_bf16) expected.push_back(BF16ToFloat(value));
    expected.resize(expected.size() + 5 * kCols, 0.33325195f);
    if (dtype == DType::kBF16) RoundToBF16(&expected);
    expected.insert(expected.end(), expected.end() - kCols, expected.end());  // the sampled token
    for (float& value : expected) value *= 0.5f;
    const auto weight = cpu->Pack(parts, dtype, false);
    ASSERT_NE(weight, nullptr);
    EXPECT_EQ(weight->rows(), 34);
    EXPECT_EQ(weight->cols(), kCols);
    EXPECT_EQ(weight->dtype(), dtype);
    EXPECT_GE(weight->bytes(), static_cast<size_t>(34 * kCols * DTypeBytes(dtype)));
    ExpectSameBits(EmbedAll(cpu.get(), *weight, 0.5f), expected, DTypeName(dtype));
  }
}

// Words of 16 rows are packed by vectors, what is left of the rows and of the panels is not.
TEST_P(CpuLinearTest, WeightsInThePackedTypeKeepTheirBits) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  for (int64_t cols : {1, 16, 31, 32, 75, 1031}) {
    std::vector<float> expected = RandomFloats(static_cast<size_t>(36 * cols), 1.0f, 7);
    RoundToBF16(&expected);
    std::vector<BF16> bf16;
    bf16.reserve(expected.size());
    for (float value : expected) bf16.push_back(FloatToBF16(value));
    const auto as_f32 = cpu->Pack({{expected.data(), DType::kF32, 36, cols}}, DType::kF32, false);
    const auto as_bf16 = cpu->Pack(
        {{bf16.data(), DType::kBF16, 19, cols}, {bf16.data() + 19 * cols, DType::kBF16, 17, cols}},
        DType::kBF16, false);
    expected.insert(expected.end(), expected.end() - cols, expected.end());  // the sampled token
    ExpectSameBits(EmbedAll(cpu.get(), *as_f32, 1.0f), expected, "f32 " + std::to_string(cols));
    ExpectSameBits(EmbedAll(cpu.get(), *as_bf16, 1.0f), expected, "bf16 " + std::to_string(cols));
  }
}

class RowCounter final : public RowObserver {
 public:
  explicit RowCounter(int64_t rows) : counts_(static_cast<size_t>(rows)) {}
  void WillRead(int64_t begin, int64_t end) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (int64_t row = begin; row < end; ++row) ++counts_.at(static_cast<size_t>(row));
  }
  const std::vector<int>& counts() const { return counts_; }

 private:
  std::mutex mutex_;
  std::vector<int> counts_;
};

TEST_P(CpuLinearTest, PackTellsObserversOfEachRowOnce) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  const std::vector<float> data(100 * 8, 0.5f);
  for (const WeightFormat& format : {WeightFormat(DType::kF32), WeightFormat(DType::kI8)}) {
    for (const bool gated : {false, true}) {
      RowCounter first(21);
      RowCounter last(gated ? 21 : 100);
      std::vector<WeightView> parts = {{data.data(), DType::kF32, 21, 8}};
      if (!gated) parts.push_back({data.data(), DType::kF32, 5, 8});  // nobody watches
      parts.push_back({data.data(), DType::kF32, static_cast<int64_t>(last.counts().size()), 8});
      parts.front().observer = &first;
      parts.back().observer = &last;
      ASSERT_NE(cpu->Pack(parts, format, gated), nullptr);
      EXPECT_EQ(first.counts(), std::vector<int>(21, 1)) << gated;
      EXPECT_EQ(last.counts(), std::vector<int>(last.counts().size(), 1)) << gated;
    }
  }
}

std::vector<float> RunLogits(Backend* backend, DType dtype, const std::vector<int32_t>& rows,
                             float softcap, bool with_norm = true) {
  constexpr int64_t kHidden = 70;
  constexpr int64_t kVocab = 1003;
  std::vector<float> hidden = RandomFloats(50 * kHidden, 1.0f, 1);
  const std::vector<float> norm = RandomFloats(kHidden, 1.0f, 2);
  std::vector<float> table = RandomFloats(kVocab * kHidden, 0.3f, 3);
  const auto weight = backend->Pack({{table.data(), DType::kF32, kVocab, kHidden}}, dtype, false);
  std::vector<float> out(rows.size() * kVocab);
  LogitsArgs args;
  args.hidden = Tensor::F32(hidden.data(), 50, kHidden);
  args.token_rows = rows.data();
  args.num_rows = static_cast<int64_t>(rows.size());
  if (with_norm) args.final_norm = {norm.data(), 1e-5f};
  args.weight = weight.get();
  args.softcap = softcap;
  args.out = Tensor::F32(out.data(), args.num_rows, kVocab);
  backend->Logits(args);
  return out;
}

TEST_P(CpuLinearTest, LogitsMatchRef) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  const auto ref = NewRefBackend();
  std::vector<int32_t> rows(40);
  for (int32_t i = 0; i < 40; ++i) rows[static_cast<size_t>(i)] = (i * 7) % 50;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (float softcap : {0.0f, 3.0f}) {
      // Logits are of order 3; see LinearTolerance.
      const double abs = dtype == DType::kF32 ? 5e-6 : 4e-3;
      const std::vector<float> all = RunLogits(cpu.get(), dtype, rows, softcap);
      ExpectClose(all, RunLogits(ref.get(), dtype, rows, softcap), abs, 2e-6);
      ExpectSameBits(RunLogits(cpu.get(), dtype, {rows[3]}, softcap),
                     std::vector<float>(all.begin() + 3 * 1003, all.begin() + 4 * 1003));
    }
  }
}

// Without a norm, fp32 rows are used where they are: the gathered rows, not the first rows.
TEST_P(CpuLinearTest, LogitsWithoutANormGatherTheirRows) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  const auto ref = NewRefBackend();
  const std::vector<int32_t> rows = {49, 3, 3, 17, 0};
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const double abs = dtype == DType::kF32 ? 5e-6 : 4e-3;
    const std::vector<float> all = RunLogits(cpu.get(), dtype, rows, 0.0f, /*with_norm=*/false);
    ExpectClose(all, RunLogits(ref.get(), dtype, rows, 0.0f, false), abs, 2e-6);
    ExpectSameBits(RunLogits(cpu.get(), dtype, {rows[3]}, 0.0f, false),
                   std::vector<float>(all.begin() + 3 * 1003, all.begin() + 4 * 1003));
  }
}

// Both backends use the same sampler. This test checks that the cpu backend distributes the rows
// and collects the results correctly.
TEST(CpuBackendTest, SamplesAsRef) {
  if (CpuIsas().empty()) GTEST_SKIP() << "no AVX2 here";
  constexpr int64_t kVocab = 777;
  constexpr int kRows = 20;
  ThreadTeam team(2);
  const auto cpu = NewCpuBackend("", &team);
  const auto ref = NewRefBackend();
  BatchArena arena;
  StepBatch batch;
  std::vector<SamplerRow> rows(kRows + 3);
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r].slot = static_cast<int32_t>(r);
    rows[r].temperature = r % 3 == 0 ? 0.0f : 0.9f;
    rows[r].top_k = r % 4 == 1 ? 12 : 0;
    rows[r].num_logprobs = r % 2 == 0 ? 3 : -1;
    rows[r].seed = r;
  }
  batch.sampler_rows = arena.AddCopy(rows);
  StepResult results[2];
  std::vector<TokenId> slots[2];
  Backend* const backends[2] = {cpu.get(), ref.get()};
  for (int b = 0; b < 2; ++b) {
    std::vector<float> logits = RandomFloats(kRows * kVocab, 2.0f, 5);
    slots[b].assign(rows.size(), -9);
    SampleArgs args;
    args.batch = {&batch, arena.base()};
    args.row_begin = 3;
    args.num_rows = kRows;
    args.logits = Tensor::F32(logits.data(), kRows, kVocab);
    args.slot_tokens = slots[b].data();
    PlaceOutputs(args.batch, &results[b], &args);
    backends[b]->Sample(args);
  }
  EXPECT_EQ(slots[0], slots[1]);
  ASSERT_EQ(results[0].rows.size(), results[1].rows.size());
  for (size_t r = 0; r < results[0].rows.size(); ++r) {
    EXPECT_EQ(results[0].rows[r].token, results[1].rows[r].token) << r;
    EXPECT_EQ(results[0].rows[r].logprob, results[1].rows[r].logprob) << r;
    EXPECT_EQ(results[0].rows[r].top.begin, results[1].rows[r].top.begin) << r;
  }
  EXPECT_EQ(results[0].top.size(), results[1].top.size());
}

TEST(CpuBackendTest, KnowsItsInstructionSets) {
  ThreadTeam team(1);
  EXPECT_EQ(NewCpuBackend("mmx", &team), nullptr);
  const std::vector<std::string> isas = CpuIsas();
  if (isas.empty()) GTEST_SKIP() << "no AVX2 here";
  unsetenv("TESSERA_CPU_ISA");
  EXPECT_EQ(NewCpuBackend("", &team)->name(), "cpu/" + isas.front());
  setenv("TESSERA_CPU_ISA", isas.back().c_str(), 1);
  EXPECT_EQ(NewCpuBackend("", &team)->name(), "cpu/" + isas.back());
  EXPECT_EQ(NewCpuBackend(isas.front(), &team)->name(), "cpu/" + isas.front());
  unsetenv("TESSERA_CPU_ISA");
}

TEST(CpuBackendTest, AllocatesZeroedMemoryOrNothing) {
  if (CpuIsas().empty()) GTEST_SKIP() << "no AVX2 here";
  ThreadTeam team(1);
  const auto cpu = NewCpuBackend("", &team);
  const auto buffer = cpu->Allocate(3 << 20);
  ASSERT_NE(buffer, nullptr);
  EXPECT_EQ(buffer->size(), size_t{3} << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % (2 << 20), 0u);
  const char* const bytes = static_cast<const char*>(buffer->data());
  for (size_t i = 0; i < buffer->size(); i += 511) ASSERT_EQ(bytes[i], 0);
  EXPECT_EQ(cpu->Allocate(size_t{1} << 60), nullptr);
  EXPECT_EQ(cpu->Allocate(~size_t{0}), nullptr);
}

}  // namespace
}  // namespace tessera::testing

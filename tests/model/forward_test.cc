// Compares the forward pass with results of other implementations, on every backend.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include "kernels/base/log.h"
#include "tests/lib/shared_data.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

constexpr float kFp32Tolerance = 1e-4f;

// The parameter is (name of a golden model, name of a backend).
class GoldenTest : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  const std::string& model_name() const { return std::get<0>(GetParam()); }
  const std::string& backend_name() const { return std::get<1>(GetParam()); }
};

TEST_P(GoldenTest, Fp32LogitsOfAllPositions) {
  TestBackend device(backend_name());
  TinyOptions options;
  options.dtype = WeightDtype::kF32;
  TinyModel model(GoldenModelDir(model_name()), device.backend.get(), options);
  const Golden golden = LoadGoldenModel(model_name());
  EXPECT_LE(MaxDifference(model.AllLogits(golden.all_ids(), 512), golden.logits), kFp32Tolerance);
  EXPECT_LE(MaxDifference(model.AllLogits(golden.all_ids(), 7), golden.logits), kFp32Tolerance);
}

TEST_P(GoldenTest, GreedyIds) {
  TestBackend device(backend_name());
  TinyOptions options;
  options.dtype = WeightDtype::kF32;
  TinyModel model(GoldenModelDir(model_name()), device.backend.get(), options);
  const Golden golden = LoadGoldenModel(model_name());
  EXPECT_EQ(model.Greedy(golden.prompt_ids, static_cast<int>(golden.greedy_ids.size())),
            golden.greedy_ids);
}

// With `auto`, float16 weights become fp32, which represents float16 exactly.
TEST_P(GoldenTest, AutoKeepsTheStoredType) {
  TestBackend device(backend_name());
  TinyModel model(GoldenModelDir(model_name()), device.backend.get());
  const bool is_bf16 = model.spec().stored_dtype == DType::kBF16;
  EXPECT_EQ(model.model().weights().dtype, is_bf16 ? DType::kBF16 : DType::kF32);
}

// Returns the largest difference of each row of logits.
std::vector<float> RowDifferences(const std::vector<float>& a, const std::vector<float>& b,
                                  int64_t vocab) {
  CHECK_EQ(a.size(), b.size());
  std::vector<float> rows(a.size() / static_cast<size_t>(vocab));
  for (size_t i = 0; i < a.size(); ++i) {
    float& row = rows[i / static_cast<size_t>(vocab)];
    const float difference = std::fabs(a[i] - b[i]);
    if (!(difference <= row)) {
      row = std::isnan(difference) ? std::numeric_limits<float>::infinity() : difference;
    }
  }
  return rows;
}

// The tokens of a golden model in one sequence, then in sequences of 8.
std::vector<std::vector<TokenId>> WholeAndShort(const std::string& model_name) {
  constexpr ptrdiff_t kShort = 8;
  const std::vector<TokenId> ids = LoadGoldenModel(model_name).all_ids();
  std::vector<std::vector<TokenId>> sequences = {ids};
  for (auto first = ids.begin(); first != ids.end();) {
    const auto end = first + std::min(kShort, ids.end() - first);
    sequences.emplace_back(first, end);
    first = end;
  }
  return sequences;
}

std::vector<std::vector<float>> LogitsOf(const std::string& model_name,
                                         const std::string& backend_name,
                                         const TinyOptions& options) {
  TestBackend device(backend_name);
  TinyModel model(GoldenModelDir(model_name), device.backend.get(), options);
  std::vector<std::vector<float>> logits;
  for (const std::vector<TokenId>& ids : WholeAndShort(model_name)) {
    logits.push_back(model.AllLogits(ids, 512));
  }
  return logits;
}

// Returns LogitsOf(model_name, "ref", options), computed once for all backends.
const std::vector<std::vector<float>>& RefLogits(const std::string& model_name,
                                                 const TinyOptions& options) {
  using Key = std::tuple<std::string, WeightDtype, ActivationDtype, DType>;
  static std::map<Key, std::vector<std::vector<float>>> results;
  std::vector<std::vector<float>>& logits =
      results[{model_name, options.dtype, options.activations, options.kv_dtype}];
  if (logits.empty()) logits = LogitsOf(model_name, "ref", options);
  return logits;
}

// Compares a backend with ref when both round at the same points. The backend then differs from ref
// only in the order of its fp32 sums, which changes logits of up to 8 by about 1e-6. Where such a
// difference moves a value across a rounding boundary, one element jumps: by 1/256 of its value in
// bf16, by 1/127 of its row's largest value as an int8 activation. The logits of rows that attend
// to the element then change by some hundredths. All rows must agree within `jump_tolerance`. A
// share of at least `tight_share` of the rows must agree within 1e-4, because a missing or extra
// rounding would change all rows; this is counted in sequences of 8 tokens, in which one jump
// reaches few rows.
void ExpectAgreesWithRef(const std::string& model_name, const std::string& backend_name,
                         const TinyOptions& options, double tight_share, float jump_tolerance) {
  constexpr float kRowTolerance = 1e-4f;
  const std::vector<std::vector<float>> logits = LogitsOf(model_name, backend_name, options);
  const std::vector<std::vector<float>>& expected = RefLogits(model_name, options);
  const size_t num_ids = LoadGoldenModel(model_name).all_ids().size();
  const auto vocab = static_cast<int64_t>(logits[0].size() / num_ids);
  float worst = 0.0f;
  int num_tight = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    for (const float difference : RowDifferences(logits[i], expected[i], vocab)) {
      worst = std::max(worst, difference);
      if (i > 0 && difference <= kRowTolerance) ++num_tight;
    }
  }
  EXPECT_LE(worst, jump_tolerance);
  EXPECT_GE(num_tight, tight_share * static_cast<double>(num_ids)) << " of " << num_ids;
  ::testing::Test::RecordProperty("tight", num_tight);
  ::testing::Test::RecordProperty("of", static_cast<int>(num_ids));
  ::testing::Test::RecordProperty("worst", std::to_string(worst));
}

TEST_P(GoldenTest, Bf16AgreesWithRef) {
  TinyOptions options;
  options.dtype = WeightDtype::kBF16;
  options.kv_dtype = DType::kBF16;
  ExpectAgreesWithRef(model_name(), backend_name(), options, 0.5, 5e-2f);
}

TEST_P(GoldenTest, QuantizedAgreesWithRef) {
  for (const WeightDtype dtype : {WeightDtype::kI8, WeightDtype::kI5, WeightDtype::kI4}) {
    TinyOptions options;
    options.dtype = dtype;
    ExpectAgreesWithRef(model_name(), backend_name(), options, 0.2, 0.2f);
  }
}

TEST_P(GoldenTest, QuantizedWithBF16ActivationsAgreesWithRef) {
  for (const WeightDtype dtype : {WeightDtype::kI5, WeightDtype::kI4}) {
    TinyOptions options;
    options.dtype = dtype;
    options.activations = ActivationDtype::kBF16;
    ExpectAgreesWithRef(model_name(), backend_name(), options, 0.5, 5e-2f);
  }
}

TEST_P(GoldenTest, Int8KvAgreesWithRef) {
  TinyOptions options;
  options.dtype = WeightDtype::kF32;
  options.kv_dtype = DType::kI8;
  ExpectAgreesWithRef(model_name(), backend_name(), options, 0.5, 5e-2f);
}

// || a - b || / || b ||
double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  CHECK_EQ(a.size(), b.size());
  double error = 0.0;
  double square = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - b[i];
    error += difference * difference;
    square += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(error / square);
}

// The relative error of all quantised logits together is small; a wrong scale, zero point or format
// of one weight would raise it. Single logits may differ much, because the models are tiny and
// random.
TEST_P(GoldenTest, QuantizedIsNearFp32) {
  const Golden golden = LoadGoldenModel(model_name());
  for (const WeightDtype dtype : {WeightDtype::kI8, WeightDtype::kI5, WeightDtype::kI4}) {
    TestBackend device(backend_name());
    TinyOptions options;
    options.dtype = dtype;
    TinyModel model(GoldenModelDir(model_name()), device.backend.get(), options);
    const std::vector<float> logits = model.AllLogits(golden.all_ids(), 512);
    const double relative = RelativeError(logits, golden.logits);
    EXPECT_LE(relative, dtype == WeightDtype::kI8 ? 0.06 : dtype == WeightDtype::kI5 ? 0.4 : 0.6);
    RecordProperty(DTypeName(model.model().weights().dtype), std::to_string(relative));
    EXPECT_TRUE(SameBits(model.AllLogits(golden.all_ids(), 7), logits));
    EXPECT_EQ(model.Greedy(golden.prompt_ids, 8).size(), 8u);
  }
}

// With fp32 weights and an int8 KV cache, the relative error of all logits is small, and the logits
// do not depend on the chunking of the prompt.
TEST_P(GoldenTest, Int8KvIsNearFp32) {
  const Golden golden = LoadGoldenModel(model_name());
  TestBackend device(backend_name());
  TinyOptions options;
  options.dtype = WeightDtype::kF32;
  options.kv_dtype = DType::kI8;
  TinyModel model(GoldenModelDir(model_name()), device.backend.get(), options);
  const std::vector<float> logits = model.AllLogits(golden.all_ids(), 512);
  const double relative = RelativeError(logits, golden.logits);
  EXPECT_GT(relative, 1e-5);  // something was rounded
  EXPECT_LE(relative, 0.03);
  RecordProperty("relative", std::to_string(relative));
  EXPECT_TRUE(SameBits(model.AllLogits(golden.all_ids(), 7), logits));
}

// The logits of bf16 weights are near those of fp32; a rounding at a wrong point would raise the
// error.
TEST_P(GoldenTest, Bf16IsNearFp32) {
  TinyOptions options;
  options.dtype = WeightDtype::kBF16;
  options.kv_dtype = DType::kBF16;
  TestBackend device(backend_name());
  TinyModel model(GoldenModelDir(model_name()), device.backend.get(), options);
  const Golden golden = LoadGoldenModel(model_name());
  EXPECT_LE(MaxDifference(model.AllLogits(golden.all_ids(), 512), golden.logits), 0.5f);
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenTest,
                         ::testing::Combine(::testing::ValuesIn(GoldenModels()),
                                            ::testing::ValuesIn(AllBackends())),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::get<1>(info.param);
                         });

class SharedGoldenTest : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(SharedGoldenTest, LogitsAndGreedyIds) {
  REQUIRE_SHARED_DATA(data);
  const auto& [name, backend_name] = GetParam();
  const std::string stem = data + "/models/goldens/" + name;
  const Golden golden = LoadGolden(stem + ".json", stem + ".logits.f32");
  TestBackend device(backend_name);
  TinyModel model(data + "/models/" + name, device.backend.get());
  EXPECT_EQ(model.Greedy(golden.prompt_ids, static_cast<int>(golden.greedy_ids.size())),
            golden.greedy_ids);
  // The golden has logits of the first positions only.
  const size_t num_rows = golden.logits.size() / model.spec().vocab_size;
  std::vector<TokenId> ids = golden.all_ids();
  ASSERT_LE(num_rows, ids.size());
  ids.resize(num_rows);
  EXPECT_LE(MaxDifference(model.AllLogits(ids, 512), golden.logits), kFp32Tolerance);
}

INSTANTIATE_TEST_SUITE_P(Stories, SharedGoldenTest,
                         ::testing::Combine(::testing::Values("stories260K", "stories3M"),
                                            ::testing::ValuesIn(AllBackends())),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::get<1>(info.param);
                         });

}  // namespace
}  // namespace tessera::testing

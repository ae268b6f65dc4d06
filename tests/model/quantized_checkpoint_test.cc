// Tests of checkpoints that GPTQ, AWQ and compressed-tensors have quantised: dequantised weights
// equal those that tests/golden/make_quantized_goldens.py drew, models run on the checkpoints, and
// unsupported checkpoints are refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/device/quantize.h"
#include "kernels/model/checkpoint/stored_matrix.h"
#include "kernels/model/checkpoint/weights.h"
#include "tests/lib/raw_checkpoint.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

constexpr char kQ[] = "model.layers.0.self_attn.q_proj.";
constexpr char kMixed[] = "w4a16_w8a8";

std::string QuantizedDir(const std::string& name) { return "tests/golden/quantized/" + name; }

Json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return Json::parse(file);
}

std::vector<std::string> QuantizedModels() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(QuantizedDir(""))) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Returns the weights as floats, [rows, cols].
std::vector<float> Dequantize(const WeightView& view, const WeightFormat& format) {
  std::vector<float> weights;
  RowQuantizer rows(format);
  const int64_t group = format.group_size == 0 ? view.cols : format.group_size;
  for (int64_t n = 0; n < view.rows; ++n) {
    rows.Load(view, n);
    for (int64_t k = 0; k < view.cols; ++k) {
      const int code = rows.codes()[k] - rows.zeros()[k / group];
      weights.push_back(rows.scales()[k / group] * static_cast<float>(code));
    }
  }
  return weights;
}

std::string BytesOf(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

uint64_t Fnv1a(const std::string& bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char byte : bytes) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3u;
  return hash;
}

class QuantizedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::replace(name.begin(), name.end(), '/', '_');
    dir_ = absl::StrCat(::testing::TempDir(), "/quantized_", getpid(), "_", name);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void Copy(const std::string& name) {
    config_ = ReadJson(QuantizedDir(name) + "/config.json");
    tensors_ = ReadRawTensors(QuantizedDir(name));
  }
  void Write(size_t header_padding = 0) {
    std::ofstream(dir_ + "/config.json") << config_;
    WriteRawTensors(dir_, tensors_, header_padding);
  }
  absl::StatusOr<WeightPlan> Plan(WeightDtype dtype = WeightDtype::kAuto,
                                  ActivationDtype activations = ActivationDtype::kAuto) {
    Write();
    const auto spec = LoadModelSpec(dir_);
    if (!spec.ok()) return spec.status();
    const auto checkpoint = Checkpoint::OpenDir(dir_);
    if (!checkpoint.ok()) return checkpoint.status();
    return PlanWeights(*spec, **checkpoint, {dtype, activations});
  }
  std::string Error() { return std::string(Plan().status().message()); }
  Json& quantization() { return config_["quantization_config"]; }
  Json& scheme() { return quantization()["config_groups"]["group_0"]; }

  std::string dir_;
  Json config_;
  RawTensors tensors_;
};

class QuantizedGoldenTest : public QuantizedTest,
                            public ::testing::WithParamInterface<std::string> {
 protected:
  // Writes the dequantised model in float32, after a check of its weights against the golden.
  void WriteDequantized(size_t header_padding) {
    Copy(GetParam());
    Write(header_padding);
    const auto spec = LoadModelSpec(dir_);
    ASSERT_TRUE(spec.ok()) << spec.status();
    const auto checkpoint = Checkpoint::OpenDir(dir_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const Json golden = ReadJson(QuantizedDir(GetParam()) + "/golden.json");
    ThreadTeam team(2);
    RawTensors floats;
    for (const WeightRow& row : WeightTable()) {
      const std::string name = WeightName(row, 0);
      const std::string module = name.substr(0, name.rfind('.'));
      if (row.cols != WeightDim::kOne && golden.contains(module)) {
        const int64_t rows = DimSize(row.rows, *spec);
        const int64_t cols = DimSize(row.cols, *spec);
        const auto matrix = FindMatrix(*spec, **checkpoint, name, rows, cols);
        ASSERT_TRUE(matrix.ok()) << matrix.status();
        EXPECT_TRUE(matrix->quantized());
        const UnpackedMatrix unpacked = Unpack(*matrix, &team);
        const std::vector<float> weights = Dequantize(unpacked.view, matrix->format);
        const Json& expected = golden[module];
        for (size_t i = 0; i < expected["first"].size(); ++i) {
          EXPECT_EQ(weights[i], expected["first"][i].get<float>()) << name;
        }
        floats[name] = {"F32", {rows, cols}, BytesOf(weights)};
        EXPECT_EQ(absl::StrFormat("%016x", Fnv1a(floats[name].bytes)),
                  expected["hash"].get<std::string>())
            << name;
      } else if (tensors_.count(name) != 0) {
        floats[name] = tensors_[name];
      }
    }
    tensors_ = floats;
    config_.erase("quantization_config");
    Write();
  }

  void ExpectLikeTheDequantizedModel(ActivationDtype activations, double tolerance);
};

TEST_P(QuantizedGoldenTest, WeightsAreThoseOfTheLibrary) { WriteDequantized(0); }
TEST_P(QuantizedGoldenTest, TensorsMayLieAnywhere) { WriteDequantized(/*header_padding=*/3); }

// The quantised model differs from the dequantised model only in the rounding of activations, to
// bf16 or int8.
TEST_P(QuantizedGoldenTest, RunsLikeTheDequantizedModel) {
  for (const auto& [activations, tolerance] :
       {std::pair(ActivationDtype::kBF16, 0.012), std::pair(ActivationDtype::kI8, 0.06)}) {
    ExpectLikeTheDequantizedModel(activations, tolerance);
  }
}

void QuantizedGoldenTest::ExpectLikeTheDequantizedModel(ActivationDtype activations,
                                                        double tolerance) {
  WriteDequantized(0);
  TinyOptions options;
  options.activations = activations;
  TestBackend ref("ref");
  TinyModel floats(dir_, ref.backend.get());
  TinyModel quantized(QuantizedDir(GetParam()), ref.backend.get(), options);
  const WeightFormat& format = quantized.model().weights().layers[0].qkv->format();
  EXPECT_TRUE(format.quantized());
  EXPECT_EQ(format.activations, activations == ActivationDtype::kI8 ? DType::kI8 : DType::kBF16);
  EXPECT_EQ(quantized.model().weights().embed->dtype(), DType::kF32);
  EXPECT_EQ(quantized.model().weights().lm_head->dtype(), DType::kF32);
  const std::vector<TokenId> ids = {1, 5, 3, 2, 7, 0, 4, 6, 6, 1, 2};
  const std::vector<float> expected = floats.AllLogits(ids, 512);
  const std::vector<float> logits = quantized.AllLogits(ids, 512);
  ASSERT_EQ(logits.size(), expected.size());
  double error = 0.0;
  double square = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    error += std::pow(logits[i] - expected[i], 2);
    square += std::pow(expected[i], 2);
  }
  EXPECT_LE(std::sqrt(error / square), tolerance);
  RecordProperty(DTypeName(format.activations), std::to_string(std::sqrt(error / square)));
  EXPECT_TRUE(SameBits(quantized.AllLogits(ids, 3), logits));
  for (const std::string& name : CpuBackends()) {
    TestBackend cpu(name, 2);
    TinyModel model(QuantizedDir(GetParam()), cpu.backend.get(), options);
    EXPECT_LE(MaxDifference(model.AllLogits(ids, 512), logits), 5e-2f) << name;
  }
}

TEST_P(QuantizedGoldenTest, PlanIsWhatIsPacked) {
  if (CpuBackends().empty()) GTEST_SKIP() << "no AVX2 here";
  Copy(GetParam());
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  const bool is_int8 = GetParam().find("int8") != std::string::npos;
  EXPECT_EQ(plan->dtype, is_int8 ? DType::kI8 : DType::kI4);
  TestBackend cpu(CpuBackends().front());
  TinyModel model(dir_, cpu.backend.get());
  const int64_t estimate = PlannedWeightBytes(model.spec(), *plan);
  EXPECT_GE(estimate, model.model().weights().num_bytes());
  EXPECT_LT(estimate, model.model().weights().num_bytes() + 7 * 4096);
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedGoldenTest, ::testing::ValuesIn(QuantizedModels()),
                         [](const auto& info) { return info.param; });

// The requested dtype applies only to matrices that the checkpoint stores as floats.
TEST_F(QuantizedTest, DtypeIsOfTheFloats) {
  Copy("awq");
  const WeightFormat own = WeightFormat(DType::kI4, 32, /*asymmetric=*/true).WithBF16Activations();
  for (const auto& [asked, table] :
       {std::pair(WeightDtype::kAuto, DType::kF32), std::pair(WeightDtype::kBF16, DType::kBF16),
        std::pair(WeightDtype::kI4, DType::kI8)}) {
    const auto plan = Plan(asked);
    // Only what this program quantises is rotated.
    const int64_t hidden = LoadModelSpec(dir_)->hidden;
    const int32_t rotation = table == DType::kI8 ? RotationOf(hidden) : 0;
    const WeightFormat of_table(table, 0, false, rotation);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->dtype, DType::kI4);
    EXPECT_TRUE(plan->Of(WeightRole::kQkv, 0).format == own);
    EXPECT_TRUE(plan->Of(WeightRole::kEmbed, 0).format == of_table);
    EXPECT_TRUE(plan->Of(WeightRole::kLmHead, 0).format == of_table);
  }
}

// A checkpoint declares the activations for which it was quantised, and a request overrides it.
TEST_F(QuantizedTest, ActivationsAreThoseOfTheCheckpointOrAsked) {
  for (const auto& [name, declared] :
       {std::pair("awq", DType::kBF16), std::pair("gptq_int4", DType::kBF16),
        std::pair("gptq_int8_v2", DType::kBF16), std::pair("packed_int4", DType::kBF16),
        std::pair("int8", DType::kI8)}) {
    tensors_.clear();
    Copy(name);
    for (const auto& [asked, expected] : {std::pair(ActivationDtype::kAuto, declared),
                                          std::pair(ActivationDtype::kBF16, DType::kBF16),
                                          std::pair(ActivationDtype::kI8, DType::kI8)}) {
      const auto plan = Plan(WeightDtype::kAuto, asked);
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_EQ(plan->activations, expected) << name;
      EXPECT_EQ(plan->Of(WeightRole::kQkv, 0).format.activations, expected) << name;
      EXPECT_EQ(plan->Of(WeightRole::kDown, 0).format.activations, expected) << name;
    }
  }
  Copy("int8");
  scheme()["input_activations"] = nullptr;
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->activations, DType::kBF16);
}

// Each module is read as its own config group says: W8A8 in the attention, W4A16 in the MLP.
TEST_F(QuantizedTest, ModulesAreOfTheirConfigGroups) {
  Copy(kMixed);
  const WeightFormat mlp = WeightFormat(DType::kI4, 32).WithBF16Activations();
  auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->Of(WeightRole::kQkv, 0).format == WeightFormat(DType::kI8));
  EXPECT_TRUE(plan->Of(WeightRole::kOut, 0).format == WeightFormat(DType::kI8));
  // The rows of down_proj are one group.
  EXPECT_TRUE(plan->Of(WeightRole::kDown, 0).format ==
              WeightFormat(DType::kI4).WithBF16Activations());
  EXPECT_TRUE(plan->Of(WeightRole::kGateUp, 0).format == mlp);
  EXPECT_EQ(plan->activations, DType::kI8);
  // Groups may differ in their activations alone.
  Json weight_only = quantization()["config_groups"]["group_1"];
  weight_only["input_activations"] = nullptr;
  weight_only["targets"] = {"re:.*o_proj"};
  quantization()["config_groups"]["group_1"]["targets"] = {"Linear"};
  quantization()["config_groups"]["group_2"] = weight_only;
  plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->Of(WeightRole::kQkv, 0).format == WeightFormat(DType::kI8));
  EXPECT_TRUE(plan->Of(WeightRole::kOut, 0).format ==
              WeightFormat(DType::kI8).WithBF16Activations());
}

// The logits are those of the golden's own forward, which takes int8 activations in the attention
// and bfloat16 in the MLP. Other activations give other logits.
TEST_F(QuantizedTest, MixedActivationsAreThoseOfTheGolden) {
  const Json golden = ReadJson(QuantizedDir(kMixed) + "/golden.json");
  const auto error_with = [&](const std::string& backend, ActivationDtype activations) {
    TestBackend with(backend);
    TinyOptions options;
    options.activations = activations;
    TinyModel model(QuantizedDir(kMixed), with.backend.get(), options);
    const auto logits = model.AllLogits(golden["ids"].get<std::vector<TokenId>>(), 512);
    float error = 0.0f;
    for (size_t i = 0; i < logits.size(); ++i) {
      error = std::max(error, std::fabs(logits[i] - golden["logits"][i / 8][i % 8].get<float>()));
    }
    return error;
  };
  EXPECT_LE(error_with("ref", ActivationDtype::kAuto), 1e-4f);
  EXPECT_GE(error_with("ref", ActivationDtype::kBF16), 4e-3f);
  EXPECT_GE(error_with("ref", ActivationDtype::kI8), 4e-3f);
  for (const std::string& isa : CpuBackends()) {
    EXPECT_LE(error_with(isa, ActivationDtype::kAuto), 5e-2f) << isa;
  }
}

TEST_F(QuantizedTest, TargetsAndTensorsMustAgree) {
  const auto error_with = [this](const char* key, const Json& value) {
    tensors_.clear();
    Copy(kMixed);
    quantization()[Json::json_pointer(key)] = value;
    return Error();
  };
  constexpr char kTargets[] = "/config_groups/group_1/targets";
  EXPECT_THAT(
      error_with("/ignore", {"lm_head", "re:.*o_proj"}),
      HasSubstr("o_proj.weight is quantised, but quantization_config of config.json ignores "
                "its module; take model.layers.0.self_attn.o_proj out of ignore"));
  EXPECT_THAT(error_with(kTargets, {"re:.*(q|k|v)_proj"}),
              HasSubstr("o_proj.weight is quantised, but no config group has its module; add "
                        "model.layers.0.self_attn.o_proj to the targets"));
  EXPECT_THAT(error_with(kTargets, {"Linear", "Embedding"}),
              HasSubstr("model.embed_tokens.weight is stored as F16, but the config group group_1 "
                        "quantises its module; add model.embed_tokens to ignore"));
  EXPECT_THAT(error_with(kTargets, {"Linear", "model.layers.0.mlp.up_proj"}),
              HasSubstr("up_proj.weight_packed has shape [32, 8] with scales [32, 2] but"));
  EXPECT_EQ(error_with("/ignore", Json::array()), "");
  EXPECT_EQ(error_with(kTargets, {"Linear"}), "");
}

TEST_F(QuantizedTest, PartsOfOneWeightTakeTheSameActivations) {
  Copy("int8");
  Json weight_only = scheme();
  weight_only["input_activations"] = nullptr;
  weight_only["targets"] = {"re:.*v_proj"};
  quantization()["config_groups"]["group_1"] = weight_only;
  EXPECT_THAT(Error(), HasSubstr("q_proj.weight is quantised for int8 activations but "
                                 "model.layers.0.self_attn.v_proj.weight for bfloat16"));
  for (const ActivationDtype asked : {ActivationDtype::kBF16, ActivationDtype::kI8}) {
    EXPECT_TRUE(Plan(WeightDtype::kAuto, asked).ok());
  }
}

// What is quantised at load is rotated for int8 activations, and not for bf16 activations.
TEST_F(QuantizedTest, ActivationsOfWhatIsQuantisedAtLoad) {
  Copy("awq");
  const int32_t rotation = RotationOf(LoadModelSpec(QuantizedDir("awq"))->hidden);
  ASSERT_NE(rotation, 0);
  for (const auto& [asked, expected] :
       {std::pair(ActivationDtype::kAuto, WeightFormat(DType::kI8, 0, false, rotation)),
        std::pair(ActivationDtype::kBF16, WeightFormat(DType::kI8).WithBF16Activations())}) {
    const auto plan = Plan(WeightDtype::kI8, asked);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_TRUE(plan->Of(WeightRole::kEmbed, 0).format == expected);
  }
}

TEST_F(QuantizedTest, SymmetricIsSeenInTheZeros) {
  Copy("gptq_int4");
  quantization()["sym"] = false;
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_FALSE(plan->Of(WeightRole::kQkv, 0).format.asymmetric);
  EXPECT_EQ(plan->Of(WeightRole::kQkv, 0).group_scales, DType::kF16);
}

TEST_F(QuantizedTest, GroupOfTheWholeRow) {
  Copy("gptq_int4_asym");  // groups of 64 inputs, but down_proj has 32 inputs
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->Of(WeightRole::kQkv, 0).format.group_size, 0);
}

TEST_F(QuantizedTest, ReorderedInputsAreRefused) {
  Copy("gptq_int4");
  quantization()["desc_act"] = true;
  EXPECT_TRUE(Plan().ok()) << "groups in order are fine";
  std::string& index = tensors_[absl::StrCat(kQ, "g_idx")].bytes;
  std::swap(index[0], index[4 * 40]);
  EXPECT_THAT(Error(), HasSubstr("q_proj.g_idx puts input 0 into group 1 instead of 0"));
  EXPECT_THAT(Error(), HasSubstr("desc_act false"));
  tensors_.erase(absl::StrCat(kQ, "g_idx"));
  EXPECT_THAT(Error(), HasSubstr("q_proj.g_idx, which the checkpoint lacks"));
  quantization()["desc_act"] = false;
  EXPECT_TRUE(Plan().ok());
}

// compressed-tensors writes -1 into an unused group index. With actorder "group" the index is used,
// so -1 is an error.
TEST_F(QuantizedTest, UnsetGroupsAreRefusedWhereTheyAreNeeded) {
  Copy("packed_int4");
  for (const auto& [name, tensor] : RawTensors(tensors_)) {
    if (!absl::EndsWith(name, "weight_packed")) continue;
    const int64_t num_inputs = 8 * tensor.shape[1];
    std::string index(static_cast<size_t>(4 * num_inputs), '\0');
    for (int64_t k = 0; k < num_inputs; ++k) index[4 * k] = static_cast<char>(k / 32);
    tensors_[name.substr(0, name.size() - 6) + "g_idx"] = {"I32", {num_inputs}, index};
  }
  scheme()["weights"]["actorder"] = "group";
  EXPECT_EQ(Error(), "");
  std::string& index = tensors_.at(absl::StrCat(kQ, "weight_g_idx")).bytes;
  index.replace(4 * 5, 4, 4, '\xff');
  EXPECT_THAT(Error(), HasSubstr("q_proj.weight_g_idx puts input 5 into group -1 instead of 0"));
  scheme()["weights"]["actorder"] = nullptr;
  EXPECT_EQ(Error(), "");
}

TEST_F(QuantizedTest, ZerosThatTheFirstFormatLosesAreRefused) {
  Copy("gptq_int4_asym_model");
  EXPECT_TRUE(Plan().ok());
  quantization().erase("meta");
  EXPECT_THAT(Error(), HasSubstr("qzeros has a zero point of 0"));
  EXPECT_THAT(Error(), HasSubstr("gptq_v2"));
}

TEST_F(QuantizedTest, BiasOfZerosIsLeftOut) {
  Copy("gptq_int4");
  tensors_[absl::StrCat(kQ, "bias")] = {"F16", {32}, std::string(64, '\0')};
  EXPECT_TRUE(Plan().ok());
  tensors_[absl::StrCat(kQ, "bias")].bytes[7] = 1;
  EXPECT_THAT(Error(), HasSubstr("does not use: model.layers.0.self_attn.q_proj.bias"));
}

TEST_F(QuantizedTest, PartsOfOneWeightMustBeAlike) {
  Copy("packed_int4");
  const std::string v = "model.layers.0.self_attn.v_proj.";
  for (const char* part : {"weight_packed", "weight_scale", "weight_shape"}) {
    tensors_.erase(v + part);
  }
  tensors_[v + "weight"] = {"BF16", {32, 64}, std::string(2 * 32 * 64, '\0')};
  quantization()["ignore"].push_back("model.layers.0.self_attn.v_proj");
  EXPECT_THAT(Error(), HasSubstr("q_proj.weight is stored as int4 in groups of 32 but "
                                 "model.layers.0.self_attn.v_proj.weight as bfloat16"));
}

TEST_F(QuantizedTest, TensorsAreCheckedAgainstTheModel) {
  Copy("packed_int4_asym");
  const RawTensors whole = tensors_;
  const auto error_with = [&](const std::string& part, const RawTensor& tensor) {
    tensors_ = whole;
    tensors_[kQ + part] = tensor;
    return Error();
  };
  EXPECT_THAT(
      error_with("weight_packed", {"I32", {16, 16}, std::string(1024, '\0')}),
      HasSubstr("q_proj.weight_packed has shape [16, 16] with scales [32, 2] but config.json "
                "makes it [32, 8] with scales [32, 2]"));
  EXPECT_THAT(error_with("weight_packed", {"F32", {32, 8}, std::string(1024, '\0')}),
              HasSubstr("q_proj.weight_packed is stored as F32; must be I32"));
  EXPECT_THAT(error_with("weight_scale", {"F32", {32}, std::string(128, '\0')}),
              HasSubstr("with scales [32] but config.json"));
  EXPECT_THAT(error_with("weight_scale", {"I32", {32, 2}, std::string(256, '\0')}),
              HasSubstr("q_proj.weight_scale is stored as I32"));
  EXPECT_THAT(error_with("weight_shape", {"I32", {2}, std::string(8, '\1')}),
              HasSubstr("q_proj.weight_shape does not hold [32, 64]"));
  EXPECT_THAT(error_with("weight_zero_point", {"I32", {4, 4}, std::string(64, '\0')}),
              HasSubstr("q_proj.weight_zero_point has shape [4, 4]"));
  EXPECT_THAT(error_with("weight_zero_point", {"I8", {32, 2}, std::string(64, '\x10')}),
              HasSubstr("has the zero point 16 at 0"));
  // Older writers store zero points as I8 and do not pack them.
  EXPECT_EQ(error_with("weight_zero_point", {"I8", {32, 2}, std::string(64, '\xf8')}), "");
  tensors_ = whole;
  tensors_.erase(absl::StrCat(kQ, "weight_scale"));
  EXPECT_THAT(Error(), HasSubstr("q_proj.weight_scale, which the checkpoint lacks"));
  tensors_.erase(absl::StrCat(kQ, "weight_packed"));
  EXPECT_THAT(Error(), HasSubstr("lacks tensors that config.json asks for: "
                                 "model.layers.0.self_attn.q_proj.weight"));
}

struct ConfigCase {
  const char* name;
  const char* model;
  const char* pointer;  // JSON pointer in quantization_config
  Json value;
  std::vector<std::string> error;  // parts of the message
};

class QuantizationConfigTest : public QuantizedTest,
                               public ::testing::WithParamInterface<ConfigCase> {};

TEST_P(QuantizationConfigTest, IsRefusedByName) {
  const ConfigCase& test = GetParam();
  Copy(test.model);
  quantization()[Json::json_pointer(test.pointer)] = test.value;
  for (const std::string& part : test.error) EXPECT_THAT(Error(), HasSubstr(part));
  EXPECT_THAT(Error(), HasSubstr("config.json: quantization_config."));
}

constexpr char kWeights[] = "/config_groups/group_0/weights/";

std::vector<ConfigCase> ConfigCases() {
  const Json static_activations = {{"num_bits", 8}, {"type", "int"}, {"dynamic", false}};
  const Json float_activations = {{"num_bits", 8}, {"type", "float"}, {"dynamic", true}};
  static const std::string bits = absl::StrCat(kWeights, "num_bits");
  static const std::string type = absl::StrCat(kWeights, "type");
  static const std::string group = absl::StrCat(kWeights, "group_size");
  static const std::string strategy = absl::StrCat(kWeights, "strategy");
  static constexpr char kActivations[] = "/config_groups/group_0/input_activations";
  return {
      {"method", "awq", "/quant_method", "bitsandbytes", {"quant_method", "compressed-tensors"}},
      {"no_method", "awq", "/quant_method", nullptr, {"quant_method is missing"}},
      {"gptq_bits", "gptq_int4", "/bits", 3, {"bits is 3", "4 and 8", "--dtype"}},
      {"gptq_group", "gptq_int4", "/group_size", 16, {"group_size is 16", "multiples of 32"}},
      {"gptq_format",
       "gptq_int4",
       "/checkpoint_format",
       "marlin",
       {"checkpoint_format", "gptq_v2"}},
      {"gptq_marlin", "gptq_int4", "/is_marlin_format", true, {"is_marlin_format is true"}},
      {"gptq_dtype", "gptq_int4", "/pack_dtype", "int64", {"pack_dtype", "int32"}},
      {"gptq_dynamic", "gptq_int4", "/dynamic", {{"+:.*", {{"bits", 8}}}}, {"dynamic", "-:"}},
      {"awq_bits", "awq", "/bits", 8, {"bits is 8", "4"}},
      {"awq_version", "awq", "/version", "gemv", {"version is \"gemv\"", "gemm"}},
      {"awq_zero_point", "awq", "/zero_point", false, {"zero_point is false"}},
      {"format", "packed_int4", "/format", "float-quantized", {"format", "int-quantized"}},
      {"bits", "packed_int4", bits.c_str(), 2, {"group_0.weights.num_bits is 2"}},
      {"fp8", "int8", type.c_str(), "float", {"weights.type is \"float\"", "supported is int"}},
      {"group", "packed_int4", group.c_str(), 48, {"weights.group_size is 48"}},
      {"tensor", "int8", strategy.c_str(), "tensor", {"weights.strategy", "channel and group"}},
      {"static_activations",
       "int8",
       kActivations,
       static_activations,
       {"input_activations.dynamic is false"}},
      {"fp8_activations", "int8", kActivations, float_activations, {"input_activations.type"}},
      {"kv_cache", "int8", "/kv_cache_scheme", {{"num_bits", 8}}, {"kv_cache_scheme"}},
      {"sparse", "int8", "/sparsity_config", {{"format", "marlin-24"}}, {"sparsity_config"}},
      {"no_targets",
       "int8",
       "/config_groups/group_0/targets",
       nullptr,
       {"group_0.targets is missing", "list the modules"}},
      {"bad_target",
       "int8",
       "/config_groups/group_0/targets",
       {"re:.*(mlp"},
       {"group_0.targets", "re:.*(mlp", "no regular expression"}},
      {"slow_target",
       "int8",
       "/config_groups/group_0/targets",
       {"re:.*.*.*.*.*.*[!%]"},
       {"config_groups", "takes more than 10000 steps"}},
      {"bad_ignore", "int8", "/ignore", {"re:*"}, {"ignore", "no regular expression"}},
      {"no_weights",
       "int8",
       "/config_groups/group_0/weights",
       nullptr,
       {"group_0.weights is missing", "how weights are quantised"}},
      {"rotated",
       "int8",
       "/transform_config",
       {{"config_groups", {{"R1", 1}}}},
       {"transform_config"}},
  };
}

INSTANTIATE_TEST_SUITE_P(All, QuantizationConfigTest, ::testing::ValuesIn(ConfigCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tessera::testing

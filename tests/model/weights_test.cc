// Tests of loading weights: the packed weights, their memory, and checkpoints that do not agree
// with their config.json.
#include "kernels/model/checkpoint/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "kernels/base/memory.h"
#include "tests/lib/file_zoo.h"
#include "tests/lib/log_capture.h"
#include "tests/lib/raw_checkpoint.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

class WeightsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/weights_" + std::to_string(getpid()) + "_" +
           ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  // Config and tensors of a golden model; the tensors may then be changed and written to dir_.
  void CopyModel(const std::string& name) {
    const std::string source = GoldenModelDir(name);
    std::filesystem::copy_file(source + "/config.json", dir_ + "/config.json");
    tensors_ = ReadRawTensors(source);
  }

  void Write(size_t header_padding = 0) { WriteRawTensors(dir_, tensors_, header_padding); }

  absl::StatusOr<ModelWeights> Load(const WeightOptions& options = {}) {
    const auto spec = LoadModelSpec(dir_);
    if (!spec.ok()) return spec.status();
    const auto checkpoint = Checkpoint::OpenDir(dir_);
    if (!checkpoint.ok()) return checkpoint.status();
    return LoadWeights(*spec, **checkpoint, device_.backend.get(), options);
  }
  std::string Error() { return std::string(Load().status().message()); }

  TestBackend device_{"ref"};
  std::string dir_;
  RawTensors tensors_;
};

TEST_F(WeightsTest, MissingTensorsAreNamed) {
  CopyModel("llama2");
  tensors_.erase("model.layers.1.mlp.up_proj.weight");
  Write();
  EXPECT_THAT(Error(), HasSubstr("lacks tensors"));
  EXPECT_THAT(Error(), HasSubstr("model.layers.1.mlp.up_proj.weight"));
}

TEST_F(WeightsTest, ManyMissingTensorsAreCounted) {
  CopyModel("llama2");
  const RawTensor embed = tensors_["model.embed_tokens.weight"];
  tensors_ = {{"model.embed_tokens.weight", embed}};
  Write();
  EXPECT_THAT(Error(), HasSubstr("(29 in all)"));
}

TEST_F(WeightsTest, UntiedModelNeedsItsHead) {
  CopyModel("llama2");
  tensors_.erase("lm_head.weight");
  Write();
  EXPECT_THAT(Error(), HasSubstr("lm_head.weight"));
}

TEST_F(WeightsTest, UnexpectedTensorsAreNamed) {
  CopyModel("llama2");
  tensors_["model.layers.0.self_attn.q_proj.bias"] = {"F32", {32}, std::string(128, '\0')};
  Write();
  EXPECT_THAT(Error(), HasSubstr("does not use: model.layers.0.self_attn.q_proj.bias"));
}

TEST_F(WeightsTest, LayersBeyondTheConfigAreUnexpected) {
  CopyModel("llama2");
  tensors_["model.layers.3.input_layernorm.weight"] = {"F32", {32}, std::string(128, '\0')};
  Write();
  EXPECT_THAT(Error(), HasSubstr("model.layers.3.input_layernorm.weight"));
}

TEST_F(WeightsTest, OldLeftoversAreIgnored) {
  CopyModel("llama32");
  tensors_["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {8}, std::string(32, '\0')};
  tensors_["lm_head.weight"] = tensors_["model.embed_tokens.weight"];
  Write();
  const auto weights = Load();
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->lm_head, nullptr);
  EXPECT_EQ(weights->head(), weights->embed.get());
}

// An output table that differs from the embedding table is used, whatever config.json says.
TEST_F(WeightsTest, AStoredHeadThatDiffersIsUsed) {
  CopyModel("llama32");
  RawTensor head = tensors_["model.embed_tokens.weight"];
  tensors_["lm_head.weight"] = head;
  Write();
  const auto untied = [this] {
    ModelSpec spec = *LoadModelSpec(dir_);
    EXPECT_TRUE(spec.tied_embeddings);
    UntieStoredHead(**Checkpoint::OpenDir(dir_), &spec);
    return spec;
  };
  {
    const LogCapture log;
    EXPECT_TRUE(untied().tied_embeddings) << "a copy of the embedding table";
    EXPECT_EQ(log.text(), "");
  }
  head.bytes.back() ^= 1;
  tensors_["lm_head.weight"] = head;
  Write();
  const LogCapture log;
  const ModelSpec spec = untied();
  EXPECT_FALSE(spec.tied_embeddings);
  EXPECT_THAT(log.text(), HasSubstr("lm_head.weight differs from model.embed_tokens.weight"));
  EXPECT_THAT(log.text(), HasSubstr(dir_ + "/model.safetensors"));
  const auto weights =
      LoadWeights(spec, **Checkpoint::OpenDir(dir_), device_.backend.get(), WeightOptions());
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_NE(weights->lm_head, nullptr);
  EXPECT_EQ(weights->head(), weights->lm_head.get());
}

TEST_F(WeightsTest, AModelWithoutAStoredHeadStaysTied) {
  CopyModel("llama32");
  tensors_.erase("lm_head.weight");
  Write();
  ModelSpec spec = *LoadModelSpec(dir_);
  UntieStoredHead(**Checkpoint::OpenDir(dir_), &spec);
  EXPECT_TRUE(spec.tied_embeddings);
}

// Every tensor that the model reads is checked, whether it is packed as it is or quantised.
TEST_F(WeightsTest, NanAndInfinityAreRefused) {
  CopyModel("llama2");
  const RawTensors whole = tensors_;
  for (const auto& [name, tensor] : whole) {
    ASSERT_EQ(tensor.dtype, "F32");
    for (const float bad : {std::nanf(""), -std::numeric_limits<float>::infinity()}) {
      tensors_ = whole;
      std::memcpy(&tensors_[name].bytes[4 * 7], &bad, sizeof(bad));
      Write();
      EXPECT_THAT(Error(), HasSubstr(dir_ + "/model.safetensors: tensor " + name +
                                     " has NaN or infinity at element 7"));
    }
  }
}

TEST_F(WeightsTest, NanIsRefusedInEveryFormatAndPlace) {
  CopyModel("llama2");
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  std::string& bytes = tensors_[name].bytes;
  bytes.replace(bytes.size() - 4, 4, "\xff\xff\xff\xff");
  for (const size_t header_padding : {0, 3}) {
    Write(header_padding);
    for (const WeightDtype dtype :
         {WeightDtype::kF32, WeightDtype::kBF16, WeightDtype::kI8, WeightDtype::kI4}) {
      for (const std::string& backend : AllBackends()) {
        device_.backend.reset();
        device_ = TestBackend(backend, 2);
        WeightOptions options;
        options.request.dtype = dtype;
        EXPECT_THAT(std::string(Load(options).status().message()), HasSubstr(name)) << backend;
      }
    }
  }
}

// The file is truncated in place when the first weight has been read.
TEST_F(WeightsTest, AFileThatIsTruncatedWhileItIsLoadedIsNamed) {
  CopyModel("llama2");
  const std::string file = dir_ + "/model.safetensors";
  for (const std::string& backend : AllBackends()) {
    for (const WeightDtype dtype : {WeightDtype::kF32, WeightDtype::kI8}) {
      device_.backend.reset();
      device_ = TestBackend(backend, 2);
      for (const int64_t left : {0, 5000, -1}) {
        Write();
        const auto bytes = static_cast<int64_t>(std::filesystem::file_size(file));
        int num_calls = 0;
        WeightOptions options;
        options.request.dtype = dtype;
        options.progress = [&](int64_t, int64_t) {
          if (num_calls++ == 0) FileZoo::Truncate(file, left < 0 ? bytes + left : left);
        };
        EXPECT_THAT(std::string(Load(options).status().message()),
                    HasSubstr(file + ": became shorter"));
        EXPECT_LT(num_calls, 12) << "the other layers are not read";
      }
    }
  }
}

TEST_F(WeightsTest, WrongShapesAreNamed) {
  CopyModel("llama2");
  tensors_["model.layers.2.self_attn.k_proj.weight"].shape = {64, 16};
  Write();
  EXPECT_THAT(Error(), HasSubstr("tensor model.layers.2.self_attn.k_proj.weight has shape [64, 16] "
                                 "but config.json makes it [32, 32]"));
}

TEST_F(WeightsTest, NormsAreVectors) {
  CopyModel("llama2");
  tensors_["model.norm.weight"].shape = {32, 1};
  Write();
  EXPECT_THAT(Error(), HasSubstr("tensor model.norm.weight has shape [32, 1]"));
}

TEST_F(WeightsTest, UnsupportedDtypeIsNamed) {
  CopyModel("llama2");
  tensors_["model.norm.weight"].dtype = "I32";
  Write();
  EXPECT_THAT(Error(), HasSubstr("tensor model.norm.weight is stored as I32"));
}

TEST_F(WeightsTest, EstimateIsWhatIsPackedInWholePages) {
  for (const std::string& name : GoldenModels()) {
    const auto spec = LoadModelSpec(GoldenModelDir(name));
    const auto checkpoint = Checkpoint::OpenDir(GoldenModelDir(name));
    ASSERT_TRUE(spec.ok() && checkpoint.ok());
    for (const WeightDtype dtype : {WeightDtype::kF32, WeightDtype::kBF16}) {
      WeightOptions options;
      options.request.dtype = dtype;
      const auto weights = LoadWeights(*spec, **checkpoint, device_.backend.get(), options);
      ASSERT_TRUE(weights.ok()) << weights.status();
      const int64_t estimate =
          PlannedWeightBytes(*spec, *PlanWeights(*spec, **checkpoint, {dtype}));
      // The estimate may exceed the packed bytes by one memory page for each buffer.
      const int64_t num_buffers = 3 + 4 * spec->num_layers;
      EXPECT_GE(estimate, weights->num_bytes()) << name;
      EXPECT_LT(estimate, weights->num_bytes() + num_buffers * 4096) << name;
    }
  }
}

// The ref backend stores each int4 code in a byte, so the test uses a CPU backend.
TEST_F(WeightsTest, QuantizedEstimateIsWhatIsPacked) {
  if (CpuBackends().empty()) GTEST_SKIP() << "no AVX2 here";
  TestBackend cpu(CpuBackends().front());
  for (const std::string& name : GoldenModels()) {
    const auto spec = LoadModelSpec(GoldenModelDir(name));
    const auto checkpoint = Checkpoint::OpenDir(GoldenModelDir(name));
    ASSERT_TRUE(spec.ok() && checkpoint.ok());
    for (const WeightDtype dtype : {WeightDtype::kI8, WeightDtype::kI5, WeightDtype::kI4}) {
      for (const WeightFormat& int4 : {kInt4Format, WeightFormat(DType::kI4, 64, true)}) {
        WeightOptions options;
        options.request.dtype = dtype;
        options.request.int4 = int4;
        const auto weights = LoadWeights(*spec, **checkpoint, cpu.backend.get(), options);
        ASSERT_TRUE(weights.ok()) << weights.status();
        const int64_t estimate =
            PlannedWeightBytes(*spec, *PlanWeights(*spec, **checkpoint, options.request));
        const int64_t num_buffers = 3 + 4 * spec->num_layers;
        EXPECT_GE(estimate, weights->num_bytes()) << name;
        EXPECT_LT(estimate, weights->num_bytes() + num_buffers * 4096) << name;
      }
    }
  }
}

TEST_F(WeightsTest, QuantizedFormatsBySlot) {
  CopyModel("llama2");
  Write();
  WeightOptions options;
  options.request.dtype = WeightDtype::kI4;
  options.request.int4 = WeightFormat(DType::kI4, 64, true);
  const auto int4 = Load(options);
  ASSERT_TRUE(int4.ok()) << int4.status();
  EXPECT_EQ(int4->dtype, DType::kI4);
  // Each weight has the largest rotation that its number of columns allows.
  const auto is = [](const std::unique_ptr<PackedWeight>& weight, const WeightFormat& format) {
    return weight->format() == format.Rotated(weight->cols());
  };
  EXPECT_EQ(int4->embed->format().rotation, 32);  // 32 columns
  EXPECT_TRUE(is(int4->layers[0].qkv, options.request.int4));
  EXPECT_TRUE(is(int4->layers[2].gate_up, options.request.int4));
  EXPECT_TRUE(is(int4->layers[2].down, options.request.int4));
  EXPECT_TRUE(is(int4->layers[0].out, DType::kI8));
  EXPECT_TRUE(is(int4->embed, DType::kI8));
  EXPECT_TRUE(is(int4->lm_head, DType::kI8));
  options.request.dtype = WeightDtype::kI5;
  const auto int5 = Load(options);
  ASSERT_TRUE(int5.ok()) << int5.status();
  EXPECT_EQ(int5->dtype, DType::kI5);
  EXPECT_TRUE(is(int5->layers[0].qkv, kInt5Format));
  EXPECT_TRUE(is(int5->layers[0].out, DType::kI8));
  EXPECT_TRUE(is(int5->layers[2].gate_up, kInt5Format));
  EXPECT_TRUE(is(int5->layers[2].down, kInt5Format));
  EXPECT_TRUE(is(int5->embed, DType::kI8));
  EXPECT_TRUE(is(int5->lm_head, DType::kI8));
  options.request.dtype = WeightDtype::kI8;
  const auto int8 = Load(options);
  ASSERT_TRUE(int8.ok()) << int8.status();
  EXPECT_TRUE(is(int8->layers[0].down, DType::kI8));
  EXPECT_TRUE(is(int8->lm_head, DType::kI8));
}

TEST_F(WeightsTest, ProgressCountsUpToTheCheckpoint) {
  CopyModel("llama_bias");
  Write();
  int64_t expected = 0;
  for (const auto& [name, tensor] : tensors_) expected += static_cast<int64_t>(tensor.bytes.size());
  int64_t last = 0;
  WeightOptions options;
  options.progress = [&](int64_t done, int64_t total) {
    EXPECT_GT(done, last);
    EXPECT_EQ(total, expected);
    last = done;
  };
  ASSERT_TRUE(Load(options).ok());
  EXPECT_EQ(last, expected);
}

// A header whose length is not a multiple of 4 leaves the tensors unaligned.
TEST_F(WeightsTest, UnalignedTensors) {
  CopyModel("llama_bias");
  Write(/*header_padding=*/3);
  TinyModel model(dir_, device_.backend.get());
  const Golden golden = LoadGoldenModel("llama_bias");
  EXPECT_LE(MaxDifference(model.AllLogits(golden.all_ids(), 512), golden.logits), 1e-4f);
}

// fp32 represents float16 exactly, so a checkpoint that the test converts to float32 gives the same
// bits.
TEST_F(WeightsTest, Float16IsExactInFloat32) {
  CopyModel("llama_fp16");
  for (auto& [name, tensor] : tensors_) {
    std::string floats;
    for (size_t i = 0; i < tensor.bytes.size(); i += 2) {
      F16 half;
      std::memcpy(&half, tensor.bytes.data() + i, sizeof(half));
      const float value = F16ToFloat(half);
      floats.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    tensor = {"F32", tensor.shape, floats};
  }
  Write();
  TinyModel converted(dir_, device_.backend.get());
  TinyModel stored(GoldenModelDir("llama_fp16"), device_.backend.get());
  EXPECT_EQ(stored.model().weights().dtype, DType::kF32);
  const std::vector<TokenId> ids = LoadGoldenModel("llama_fp16").prompt_ids;
  EXPECT_TRUE(SameBits(converted.AllLogits(ids, 512), stored.AllLogits(ids, 512)));
}

// One float32 matrix among bfloat16 matrices makes the model float32, so that no weight is rounded
// unless the user asks for it.
TEST_F(WeightsTest, MixedTypesAreFloat32) {
  CopyModel("llama_bf16_sharded");
  Write();
  const auto bf16 = Load();
  ASSERT_TRUE(bf16.ok()) << bf16.status();
  EXPECT_EQ(bf16->dtype, DType::kBF16);
  RawTensor& head = tensors_["lm_head.weight"];
  head = {"F32", head.shape, std::string(head.bytes.size() * 2, '\0')};
  Write();
  const auto mixed = Load();
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  EXPECT_EQ(mixed->dtype, DType::kF32);
}

TEST(ModelCreate, SaysWhatTheArenaTakes) {
  const auto spec = LoadModelSpec(GoldenModelDir("llama2"));
  ASSERT_TRUE(spec.ok());
  // A token has 32 columns of the residual, 96 of qkv, 32 of the attention's output, 88 of the
  // gated MLP and one token row. There are 64 rows of 128 logits.
  EXPECT_EQ(Model::ArenaBytes(*spec, {1024, 8}), 4 * (1024 * (32 + 96 + 32 + 88 + 1) + 64 * 128));
}

}  // namespace
}  // namespace tessera::testing

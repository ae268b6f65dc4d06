// Tests of quantised folders: what is written is read back as the same numbers, the quantised model
// is nearer to the original than one whose weights are rounded to nearest, and errors come before
// the work and name what to change.
#include "kernels/model/quantize/quantize_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/device/quantize.h"
#include "kernels/model/checkpoint/safetensors_writer.h"
#include "kernels/model/checkpoint/stored_matrix.h"
#include "kernels/model/quantize/pack_quantized.h"
#include "tests/lib/raw_checkpoint.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Sequences = std::vector<std::vector<TokenId>>;

class Folder {
 public:
  Folder()
      : path_(fs::temp_directory_path() / absl::StrCat("quantize_", ::getpid(), "_", next_++)) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  std::string At(const std::string& name) const { return (path_ / name).string(); }

 private:
  static inline int next_ = 0;
  const fs::path path_;
};

Sequences RandomText(int64_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  Sequences sequences;
  for (int s = 0; s < 6; ++s) {
    sequences.emplace_back();
    const size_t length = s == 5 ? 17 : 48;
    while (sequences.back().size() < length) {
      sequences.back().push_back(static_cast<TokenId>(random() % static_cast<uint32_t>(vocab)));
    }
  }
  return sequences;
}

QuantizeOptions OptionsOf(const WeightFormat& format, const std::string& backend) {
  QuantizeOptions options;
  options.format = format;
  options.backend = backend;
  return options;
}

// The sum of squared differences between the logits of two models for some sequences.
double LogitError(const std::string& a, const std::string& b, const Sequences& sequences) {
  TestBackend device(CpuBackends().front());
  TinyModel model_a(a, device.backend.get());
  TinyModel model_b(b, device.backend.get());
  double error = 0.0;
  for (const auto& sequence : sequences) {
    const std::vector<float> logits_a = model_a.AllLogits(sequence, 512);
    const std::vector<float> logits_b = model_b.AllLogits(sequence, 512);
    for (size_t i = 0; i < logits_a.size(); ++i) {
      error += (double{logits_a[i]} - logits_b[i]) * (double{logits_a[i]} - logits_b[i]);
    }
  }
  return error;
}

// Copies a model and rounds every matrix of its layers to nearest, in groups.
void WriteRoundedModel(const std::string& dir, const WeightFormat& format, const std::string& out) {
  fs::create_directories(out);
  fs::copy_file(fs::path(dir) / "config.json", fs::path(out) / "config.json");
  RawTensors tensors = ReadRawTensors(dir);
  RowQuantizer quantizer(format);
  for (auto& [name, tensor] : tensors) {
    if (!absl::StrContains(name, "_proj.weight")) continue;
    const std::map<std::string, DType> types = {
        {"F32", DType::kF32}, {"F16", DType::kF16}, {"BF16", DType::kBF16}};
    const WeightView view{tensor.bytes.data(), types.at(tensor.dtype), tensor.shape[0],
                          tensor.shape[1]};
    std::vector<float> rounded;
    for (int64_t row = 0; row < view.rows; ++row) {
      quantizer.Load(view, row);
      for (int64_t col = 0; col < view.cols; ++col) {
        const int64_t group = col / format.group_size;
        rounded.push_back(quantizer.scales()[group] *
                          static_cast<float>(quantizer.codes()[col] - quantizer.zeros()[group]));
      }
    }
    tensor.dtype = "F32";
    tensor.bytes.assign(reinterpret_cast<const char*>(rounded.data()),
                        rounded.size() * sizeof(float));
  }
  WriteRawTensors(out, tensors);
}

// The golden models whose columns are whole groups: floats of every type, sharded, with post-norms,
// windows and norms of queries and keys.
std::vector<std::string> GoldenModelsInGroups() {
  return {"gemma3", "gemma2", "qwen3", "llama_bf16_sharded", "llama_fp16"};
}

class QuantizeFolderTest : public ::testing::TestWithParam<std::string> {};

TEST_P(QuantizeFolderTest, TheModelIsNearerThanOneRoundedToNearest) {
  std::vector<std::string> names = {"gemma3"};
  if (GetParam() != "ref") names = GoldenModelsInGroups();
  for (const std::string& name : names) {
    for (const bool asymmetric : {false, true}) {
      SCOPED_TRACE(absl::StrCat(name, asymmetric ? " asymmetric" : ""));
      Folder folder;
      const std::string dir = GoldenModelDir(name);
      const WeightFormat format(DType::kI4, 32, asymmetric);
      ThreadTeam team(2);
      const Sequences text = RandomText(128, 1);
      int32_t layers = 0;
      const auto progress = [&layers](const QuantizeProgress& done) {
        EXPECT_EQ(done.num_layers_done, ++layers);
        EXPECT_GT(done.worst_error, 0.0);
        EXPECT_LT(done.worst_error, 0.1);
      };
      const absl::Status status = QuantizeFolder(dir, text, OptionsOf(format, GetParam()), &team,
                                                 progress, folder.At("quantized"));
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(layers, LoadModelSpec(dir)->num_layers);
      WriteRoundedModel(dir, format, folder.At("rounded"));
      const double rounded = LogitError(dir, folder.At("rounded"), text);
      EXPECT_LT(LogitError(dir, folder.At("quantized"), text), 0.75 * rounded);
    }
  }
}

TEST_P(QuantizeFolderTest, EightBitsAreMuchNearerThanFour) {
  Folder folder;
  const std::string dir = GoldenModelDir("qwen3");
  const Sequences text = RandomText(128, 2);
  ThreadTeam team(1);
  for (const DType dtype : {DType::kI4, DType::kI8}) {
    const absl::Status status = QuantizeFolder(dir, text, OptionsOf(dtype, GetParam()), &team,
                                               nullptr, folder.At(DTypeName(dtype)));
    ASSERT_TRUE(status.ok()) << status;
  }
  EXPECT_LT(LogitError(dir, folder.At("int8"), text),
            0.02 * LogitError(dir, folder.At("int4"), text));
}

INSTANTIATE_TEST_SUITE_P(Backends, QuantizeFolderTest,
                         ::testing::Values("ref", CpuBackends().front()),
                         [](const ::testing::TestParamInfo<std::string>& info) {
                           return info.param;
                         });

TEST(QuantizedFilesTest, KeepsEveryOtherFileAndTensor) {
  Folder folder;
  const std::string dir = folder.At("model");
  fs::copy(GoldenModelDir("llama_bf16_sharded"), dir);
  std::ofstream(dir + "/chat_template.jinja") << "{{ x }}";
  std::ofstream(dir + "/pytorch_model.bin") << "old weights";
  ThreadTeam team(1);
  const std::string out = folder.At("out");
  ASSERT_TRUE(
      QuantizeFolder(dir, RandomText(128, 3), OptionsOf(DType::kI4, "ref"), &team, nullptr, out)
          .ok());
  EXPECT_TRUE(fs::exists(out + "/chat_template.jinja"));
  EXPECT_FALSE(fs::exists(out + "/pytorch_model.bin"));
  EXPECT_FALSE(fs::exists(out + "/model.safetensors.index.json"));
  RawTensors before = ReadRawTensors(dir);
  RawTensors after = ReadRawTensors(out);
  size_t kept = 0;
  for (const auto& [name, tensor] : before) {
    if (absl::StrContains(name, "_proj.weight")) {
      EXPECT_FALSE(after.contains(name)) << name;
      continue;
    }
    ASSERT_TRUE(after.contains(name)) << name;
    EXPECT_EQ(after[name].bytes, tensor.bytes) << name;
    ++kept;
  }
  EXPECT_GE(kept, 9u);
}

TEST(QuantizedFilesTest, ErrorsSayWhatToChange) {
  Folder folder;
  ThreadTeam team(1);
  const Sequences text = RandomText(128, 4);
  const auto quantize = [&](const std::string& dir, const WeightFormat& format,
                            const std::string& out, const Sequences& sequences) {
    return std::string(
        QuantizeFolder(dir, sequences, OptionsOf(format, "ref"), &team, nullptr, out).message());
  };
  const std::string dir = GoldenModelDir("qwen3");
  std::ofstream(folder.At("file")) << "x";
  EXPECT_THAT(quantize(dir, DType::kI4, folder.At("file"), text), HasSubstr("a new folder"));
  EXPECT_THAT(quantize(dir, WeightFormat(DType::kI4, 64), folder.At("a"), text),
              HasSubstr("groups of 64 do not divide the 32 inputs"));
  EXPECT_THAT(quantize(GoldenModelDir("mistral"), DType::kI4, folder.At("a"), text),
              HasSubstr("--group-size"));
  EXPECT_THAT(quantize(dir, DType::kI4, folder.At("a"), {{1, 2, 128}}),
              HasSubstr("the token id 128"));
  EXPECT_FALSE(fs::exists(folder.At("a")));
  ASSERT_EQ(quantize(dir, DType::kI4, folder.At("a"), text), "");
  EXPECT_THAT(quantize(folder.At("a"), DType::kI4, folder.At("b"), text),
              HasSubstr("quantised already (compressed-tensors)"));
}

// A matrix with more rows than whole words of zero points, through a file and back.
TEST(PackedTensorsTest, AreReadBackAsTheSameNumbers) {
  for (const WeightFormat& format :
       {WeightFormat(DType::kI4, 32), WeightFormat(DType::kI4, 32, true),
        WeightFormat(DType::kI8, 32), WeightFormat(DType::kI8, 32, true)}) {
    Folder folder;
    std::mt19937 random(5);
    QuantizedMatrix matrix;
    matrix.rows = 13;
    matrix.cols = 64;
    matrix.format = format;
    for (int i = 0; i < 13 * 64; ++i) {
      matrix.codes.push_back(static_cast<uint8_t>(random() % (format.max_code() + 1u)));
    }
    for (int i = 0; i < 13 * 2; ++i) {
      matrix.scales.push_back(FloatToBF16(static_cast<float>(i + 1) / 64.0f));
      if (format.asymmetric) {
        matrix.zeros.push_back(static_cast<uint8_t>(random() % (format.max_code() + 1u)));
      }
    }
    const PackedTensors packed(matrix);
    ASSERT_TRUE(WriteSafetensors(folder.At("model.safetensors"), packed.Tensors("model.x")).ok());
    const auto checkpoint = Checkpoint::OpenFile(folder.At("model.safetensors"));
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    ModelSpec spec;
    spec.quantization.method = QuantMethod::kCompressedTensors;
    spec.quantization.grids = {{format.dtype == DType::kI8 ? 8 : 4, 32, false}};
    spec.quantization.grid_of["model.x"] = 0;
    const auto stored = FindMatrix(spec, **checkpoint, "model.x.weight", 13, 64);
    ASSERT_TRUE(stored.ok()) << stored.status();
    EXPECT_EQ(stored->tensor_names.size(), (*checkpoint)->tensors().size());
    ThreadTeam team(1);
    const UnpackedMatrix unpacked = Unpack(*stored, &team);
    EXPECT_EQ(unpacked.codes, matrix.codes);
    EXPECT_EQ(stored->zeros, matrix.zeros);
    ASSERT_EQ(unpacked.scales.size(), matrix.scales.size() * sizeof(BF16));
    EXPECT_EQ(std::memcmp(unpacked.scales.data(), matrix.scales.data(), unpacked.scales.size()), 0);
  }
}

TEST(SafetensorsWriterTest, WritesWholeFilesOrNone) {
  Folder folder;
  const float floats[3] = {1.0f, -2.5f, 0.25f};
  const char byte = 7;
  const std::vector<TensorToWrite> tensors = {
      {"b.byte", "I8", {1}, &byte, 1},
      {"a.floats", "F32", {3, 1}, reinterpret_cast<const char*>(floats), sizeof(floats)},
      {"c.none", "F32", {0, 5}, nullptr, 0}};
  const std::string path = folder.At("x.safetensors");
  ASSERT_TRUE(WriteSafetensors(path, tensors).ok());
  const auto checkpoint = Checkpoint::OpenFile(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().size(), 3u);
  const StoredTensor* const read = (*checkpoint)->Find("a.floats");
  ASSERT_NE(read, nullptr);
  EXPECT_EQ(read->shape, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(std::memcmp(read->data, floats, sizeof(floats)), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(read->data) % 4, 0u);
  EXPECT_EQ((*checkpoint)->Find("b.byte")->data[0], 7);
  EXPECT_FALSE(fs::exists(path + ".part"));

  const absl::Status status = WriteSafetensors(folder.At("no/x.safetensors"), tensors);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no/x.safetensors"));
  fs::create_directories(folder.At("taken/inside"));
  EXPECT_FALSE(WriteSafetensors(folder.At("taken"), tensors).ok());
  EXPECT_FALSE(fs::exists(folder.At("taken.part")));
}

}  // namespace
}  // namespace tessera::testing

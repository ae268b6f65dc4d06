// Tests of model folders that are something else: other formats, other things in place of the
// files, and files that change while they are mapped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "kernels/model/checkpoint/json_file.h"
#include "kernels/model/checkpoint/safetensors.h"
#include "kernels/model/model_spec.h"
#include "tests/lib/file_zoo.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using testing::FileZoo;
using ::testing::HasSubstr;

constexpr char kTensor[] = R"({"a":{"dtype":"F32","shape":[2048],"data_offsets":[0,8192]}})";

class ForeignModelTest : public ::testing::Test {
 protected:
  static std::string File() {
    const std::string header = kTensor;
    std::string bytes(8, '\0');
    bytes[0] = static_cast<char>(header.size());
    return bytes + header + std::string(8192, '\1');
  }
  std::string SpecError(const std::string& path) {
    return std::string(LoadModelSpec(path).status().message());
  }
  std::string WeightsError() {
    return std::string(Checkpoint::OpenDir(zoo_.dir()).status().message());
  }

  FileZoo zoo_;
};

TEST_F(ForeignModelTest, EveryFileMustBeAFile) {
  for (const FileZoo::Beast& beast : FileZoo::Beasts()) {
    SCOPED_TRACE(beast.kind);
    (zoo_.*beast.make)("config.json");
    EXPECT_THAT(SpecError(zoo_.dir()), AllOf(HasSubstr("/config.json: "), HasSubstr(beast.says)));
    std::filesystem::remove_all(zoo_.Path("config.json"));
    std::filesystem::copy_file("tests/golden/models/llama2/config.json", zoo_.Path("config.json"));
    (zoo_.*beast.make)("generation_config.json");
    EXPECT_THAT(SpecError(zoo_.dir()),
                AllOf(HasSubstr("/generation_config.json: "), HasSubstr(beast.says)));
    (zoo_.*beast.make)("model.safetensors");
    EXPECT_THAT(WeightsError(), AllOf(HasSubstr("/model.safetensors: "), HasSubstr(beast.says)));
    std::filesystem::remove_all(zoo_.Path("model.safetensors"));
    (zoo_.*beast.make)("model.safetensors.index.json");
    EXPECT_THAT(WeightsError(),
                AllOf(HasSubstr("/model.safetensors.index.json: "), HasSubstr(beast.says)));
    zoo_.File("model.safetensors.index.json", R"({"weight_map":{"a":"one.safetensors"}})");
    (zoo_.*beast.make)("one.safetensors");
    EXPECT_THAT(WeightsError(), AllOf(HasSubstr("/one.safetensors: "), HasSubstr(beast.says)));
    std::filesystem::remove_all(zoo_.dir());
    std::filesystem::create_directories(zoo_.dir());
  }
}

TEST_F(ForeignModelTest, AJsonFileOfTerabytesIsRefused) {
  const auto file = JsonFile::Open(zoo_.Sparse("adapter_config.json", int64_t{1} << 40));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("has at most 16777216"));
}

TEST_F(ForeignModelTest, OtherFormatsAreNamed) {
  const std::pair<std::vector<const char*>, std::vector<const char*>> folders[] = {
      {{"pytorch_model.bin"}, {"PyTorch's format only (pytorch_model.bin)", "save_pretrained"}},
      {{"pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"},
       {"pytorch_model-00001-of-00002.bin, pytorch_model.bin.index.json"}},
      {{"consolidated.00.pth"}, {"consolidated.00.pth"}},
      {{"model-q4_k_m.gguf"}, {"its weights in model-q4_k_m.gguf only", "GGUF is not supported"}},
      {{"consolidated.safetensors"}, {"has consolidated.safetensors but", "download the index"}},
      {{"README.md"}, {"neither model.safetensors nor", "download the weights"}},
      {{}, {"neither model.safetensors nor"}},
  };
  for (const auto& [names, says] : folders) {
    std::filesystem::remove_all(zoo_.dir());
    std::filesystem::create_directories(zoo_.dir());
    for (const char* name : names) zoo_.File(name, "x");
    for (const char* part : says) {
      EXPECT_THAT(WeightsError(), AllOf(HasSubstr(zoo_.dir() + ": has "), HasSubstr(part)));
    }
  }
}

TEST_F(ForeignModelTest, APathThatIsNoModelFolderIsNamed) {
  EXPECT_THAT(SpecError(zoo_.File("m.gguf", "GGUF")),
              AllOf(HasSubstr("m.gguf: is a GGUF file"), HasSubstr("Hugging Face layout")));
  EXPECT_THAT(SpecError(zoo_.File("model.safetensors", File())),
              AllOf(HasSubstr("is a file; give the folder"), HasSubstr("Hugging Face layout")));
  EXPECT_THAT(SpecError(zoo_.Path("none")), HasSubstr("none/config.json: No such file"));
  zoo_.File("gguf/a.gguf", "GGUF");
  EXPECT_THAT(SpecError(zoo_.Path("gguf")), HasSubstr("has no config.json but a.gguf; GGUF"));
  zoo_.File("adapter/adapter_config.json", "{}");
  EXPECT_THAT(SpecError(zoo_.Path("adapter")),
              HasSubstr("is a LoRA adapter; give it by --adapters"));
  zoo_.File("meta/params.json", "{}");
  EXPECT_THAT(SpecError(zoo_.Path("meta")), HasSubstr("original format of Meta and Mistral"));
}

TEST_F(ForeignModelTest, OtherContentIsNamed) {
  const std::string zeros(100, '\0');
  const std::pair<std::string, const char*> files[] = {
      {std::string("GGUF\x03\0\0\0", 8) + zeros, "is a GGUF file"},
      {std::string("PK\x03\x04\0\0\x08\x08", 8) + zeros, "is a PyTorch file"},
      {"<!DOCTYPE html><html><body>404</body></html>", "is a web page"},
  };
  for (const auto& [bytes, says] : files) {
    zoo_.File("model.safetensors", bytes);
    EXPECT_THAT(WeightsError(), AllOf(HasSubstr("/model.safetensors: "), HasSubstr(says)));
  }
}

// A header of '<' bytes is a header of 60 bytes.
TEST_F(ForeignModelTest, AShortHeaderIsNoWebPage) {
  const std::string header = kTensor;
  ASSERT_LT(header.size(), static_cast<size_t>('<') + 1);
  std::string bytes(8, '\0');
  bytes[0] = '<';
  zoo_.File("model.safetensors",
            bytes + header + std::string('<' - header.size(), ' ') + std::string(8192, '\1'));
  EXPECT_EQ(WeightsError(), "");
}

TEST_F(ForeignModelTest, ACheckpointThatIsTruncatedReadsZerosAndIsReported) {
  const std::string path = zoo_.File("model.safetensors", File());
  const auto checkpoint = Checkpoint::OpenDir(zoo_.dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE((*checkpoint)->CheckIntact().ok());
  FileZoo::Truncate(path, 0);
  const StoredTensor& tensor = *(*checkpoint)->Find("a");
  EXPECT_EQ(std::string(tensor.data, 8192), std::string(8192, '\0'));
  EXPECT_THAT(std::string((*checkpoint)->CheckIntact().message()),
              HasSubstr(path + ": became shorter"));
}

}  // namespace
}  // namespace tessera

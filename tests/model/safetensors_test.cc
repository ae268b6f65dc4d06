// Tests of safetensors files that are valid, truncated or have a header that contradicts the file.
#include "kernels/model/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace tessera {
namespace {

using ::testing::HasSubstr;

std::string File(const std::string& header, size_t data_bytes) {
  std::string bytes(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, sizeof(length));
  bytes += header;
  for (size_t i = 0; i < data_bytes; ++i) bytes.push_back(static_cast<char>(i));
  return bytes;
}

TEST(ParseSafetensors, ReadsTensorsInAnyOrder) {
  const std::string bytes = File(
      R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},"__metadata__":{"format":"pt"},)"
      R"("a":{"data_offsets":[0,8],"shape":[2],"dtype":"F32"},)"
      R"("none":{"dtype":"I64","shape":[0,7],"data_offsets":[8,8]},)"
      R"("scalar":{"dtype":"F16","shape":[],"data_offsets":[20,22]}}   )",
      22);
  const auto tensors = ParseSafetensors("f", bytes);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 4u);
  const StoredTensor& b = tensors->at("b");
  EXPECT_EQ(b.dtype, DType::kBF16);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.ShapeString(), "[2, 3]");
  EXPECT_EQ(b.num_bytes, 12);
  EXPECT_EQ(b.data[0], 8);
  EXPECT_EQ(tensors->at("scalar").num_bytes, 2);
  EXPECT_EQ(tensors->at("none").num_bytes, 0);
  EXPECT_FALSE(tensors->at("none").dtype.has_value());
}

TEST(ParseSafetensors, EmptyHeaderIsAnEmptyFile) {
  const auto tensors = ParseSafetensors("f", File("{}", 0));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_TRUE(tensors->empty());
}

struct BadFile {
  const char* name;
  std::string bytes;
  std::vector<const char*> says;  // texts that the error message contains
};

std::vector<BadFile> BadFiles() {
  const auto one = [](const std::string& body, size_t data_bytes) {
    return File("{\"weight.x\":" + body + "}", data_bytes);
  };
  std::string long_header = File("{}", 0);
  long_header[2] = 1;
  std::string huge_header = File("{}", 0);
  huge_header[7] = '\x7f';
  return {
      {"empty", "", {"too short"}},
      {"seven_bytes", "1234567", {"too short"}},
      {"header_past_the_end", long_header, {"truncated"}},
      {"header_of_exabytes", huge_header, {"100000000 are allowed"}},
      {"no_header", File("", 4), {"not a JSON object"}},
      {"header_is_a_list", File("[]", 0), {"not a JSON object"}},
      {"header_is_cut", File("{\"a\":{\"dtype\":\"F3", 0), {"not valid JSON"}},
      {"behind_the_header", File("{} x", 0), {"not valid JSON"}},
      {"invalid_utf8", File("{\"\xff\":1}", 0), {"not valid JSON"}},
      {"data_truncated",
       one(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})", 15),
       {"weight.x", "has only 15", "truncated"}},
      {"bytes_behind",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", 5),
       {"1 bytes behind"}},
      {"hole_in_front",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})", 8),
       {"weight.x", "hole of 4"}},
      {"overlap",
       File(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
            R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
            8),
       {"tensor b", "overlaps"}},
      {"same_bytes_twice",
       File(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
            R"("b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
            8),
       {"tensor b", "overlaps"}},
      {"begin_behind_end",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[8,4]})", 8),
       {"weight.x", "begin <= end"}},
      {"one_offset",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[4]})", 4),
       {"weight.x", "[begin, end]"}},
      {"three_offsets",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})", 4),
       {"weight.x", "[begin, end]"}},
      {"shape_is_not_the_range",
       one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", 8),
       {"weight.x", "8 bytes", "F32 [3]"}},
      {"dtype_is_not_the_range",
       one(R"({"dtype":"BF16","shape":[2],"data_offsets":[0,8]})", 8),
       {"weight.x", "BF16 [2]"}},
      // 2^33 * 2^31 elements of 4 bytes are 0 modulo 2^64.
      {"shape_overflows",
       one(R"({"dtype":"F32","shape":[8589934592,2147483648],"data_offsets":[0,0]})", 0),
       {"weight.x", "not what F32"}},
      {"empty_but_absurd",
       one(R"({"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[0,0]})", 0),
       {"weight.x", "absurd shape"}},
      {"nine_dimensions",
       one(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]})", 4),
       {"weight.x", "too many numbers in shape"}},
      {"negative_size",
       one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", 4),
       {"weight.x", "negative"}},
      {"fraction",
       one(R"({"dtype":"F32","shape":[1.5],"data_offsets":[0,4]})", 4),
       {"weight.x", "not an integer"}},
      {"number_beyond_64_bits",
       one(R"({"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]})", 4),
       {"weight.x", "not an integer"}},
      {"shape_of_strings",
       one(R"({"dtype":"F32","shape":["1"],"data_offsets":[0,4]})", 4),
       {"weight.x", "string"}},
      {"shape_is_a_number",
       one(R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})", 4),
       {"weight.x", "number where none"}},
      {"shape_is_null",
       one(R"({"dtype":"F32","shape":null,"data_offsets":[0,4]})", 4),
       {"weight.x", "null"}},
      {"nested_list",
       one(R"({"dtype":"F32","shape":[[1]],"data_offsets":[0,4]})", 4),
       {"weight.x", "wrong place"}},
      {"object_inside",
       one(R"({"dtype":"F32","shape":{},"data_offsets":[0,4]})", 4),
       {"weight.x", "object inside"}},
      {"unknown_dtype",
       one(R"({"dtype":"F13","shape":[1],"data_offsets":[0,4]})", 4),
       {"weight.x", "not known", "F32, F16 or BF16"}},
      {"dtype_is_a_number",
       one(R"({"dtype":7,"shape":[1],"data_offsets":[0,4]})", 4),
       {"weight.x", "number where none"}},
      {"no_dtype", one(R"({"shape":[1],"data_offsets":[0,4]})", 4), {"weight.x", "must have"}},
      {"no_offsets", one(R"({"dtype":"F32","shape":[1]})", 4), {"weight.x", "must have"}},
      {"unknown_list",
       one(R"({"dtype":"F32","shape":[1],"strides":[1],"data_offsets":[0,4]})", 4),
       {"weight.x", "unknown list strides"}},
      {"two_shapes",
       one(R"({"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]})", 4),
       {"weight.x", "two shapes"}},
      {"two_dtypes",
       one(R"({"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]})", 4),
       {"weight.x", "dtype twice"}},
      {"same_name_twice",
       File(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
            R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
            8),
       {"tensor a", "twice"}},
      {"tensor_is_a_string", File(R"({"a":"b"})", 0), {"tensor a"}},
      {"tensor_is_a_list", File(R"({"a":[1]})", 0), {"tensor a", "wrong place"}},
      {"metadata_of_numbers", File(R"({"__metadata__":{"a":1}})", 0), {"__metadata__"}},
      {"metadata_of_lists", File(R"({"__metadata__":{"a":[1]}})", 0), {"__metadata__"}},
      {"metadata_of_objects", File(R"({"__metadata__":{"a":{}}})", 0), {"__metadata__"}},
      {"a_million_brackets", File("{\"a\":" + std::string(1 << 20, '['), 0), {"tensor a"}},
      {"a_million_braces",
       File(
           [] {
             std::string header;
             for (int i = 0; i < (1 << 20); ++i) header += "{\"a\":";
             return header;
           }(),
           0),
       {"tensor a", "object inside"}},
  };
}

class BadFileTest : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadFileTest, IsRefusedByName) {
  const auto tensors = ParseSafetensors("dir/the.safetensors", GetParam().bytes);
  ASSERT_EQ(tensors.status().code(), absl::StatusCode::kInvalidArgument) << tensors.status();
  EXPECT_THAT(std::string(tensors.status().message()), HasSubstr("dir/the.safetensors"));
  EXPECT_LT(tensors.status().message().size(), 1000u);
  for (const char* part : GetParam().says) {
    EXPECT_THAT(std::string(tensors.status().message()), HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(All, BadFileTest, ::testing::ValuesIn(BadFiles()),
                         [](const auto& info) { return info.param.name; });

// Every prefix of a good file is refused, and nothing is read past its end (asan).
TEST(ParseSafetensors, EveryTruncationIsRefused) {
  const std::string bytes = File(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::string prefix(bytes.data(), size);
    EXPECT_FALSE(ParseSafetensors("f", prefix).ok()) << size;
  }
  EXPECT_TRUE(ParseSafetensors("f", bytes).ok());
}

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/checkpoint_" + std::to_string(getpid()) + "_" +
           ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << bytes;
  }
  void WriteShard(const std::string& name, const std::string& tensor) {
    Write(name, File("{\"" + tensor + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4));
  }
  std::string Error() { return std::string(Checkpoint::OpenDir(dir_).status().message()); }

  std::string dir_;
};

TEST_F(CheckpointTest, NeitherFileNorIndex) {
  EXPECT_THAT(Error(), HasSubstr("neither model.safetensors nor"));
}

TEST_F(CheckpointTest, EmptyFile) {
  Write("model.safetensors", "");
  EXPECT_THAT(Error(), HasSubstr("model.safetensors: is empty"));
}

TEST_F(CheckpointTest, FolderInPlaceOfTheFile) {
  std::filesystem::create_directories(dir_ + "/model.safetensors");
  EXPECT_THAT(Error(), HasSubstr("model.safetensors: is a folder; give a regular file"));
}

TEST_F(CheckpointTest, Shards) {
  WriteShard("one.safetensors", "a");
  WriteShard("two.safetensors", "b");
  Write("model.safetensors.index.json",
        R"({"metadata":{},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const auto checkpoint = Checkpoint::OpenDir(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().size(), 2u);
  ASSERT_NE((*checkpoint)->Find("b"), nullptr);
  EXPECT_EQ((*checkpoint)->Find("c"), nullptr);
  (*checkpoint)->Drop(*(*checkpoint)->Find("b"));
  EXPECT_EQ((*checkpoint)->Find("b")->data[3], 3);
}

// Older and newer versions of transformers name the parts of a multimodal model differently.
TEST_F(CheckpointTest, OfAMultimodalModelTheLanguageModelIsTaken) {
  const std::vector<std::vector<const char*>> layouts = {
      {"language_model.model.norm.weight", "language_model.lm_head.weight", "vision_tower.a.weight",
       "multi_modal_projector.b.weight"},
      {"model.language_model.norm.weight", "lm_head.weight", "model.vision_tower.a.weight",
       "model.multi_modal_projector.b.weight"}};
  for (const std::vector<const char*>& names : layouts) {
    nlohmann::json map;
    for (size_t i = 0; i < names.size(); ++i) {
      const std::string file = "part" + std::to_string(i) + ".safetensors";
      WriteShard(file, names[i]);
      map[names[i]] = file;
    }
    Write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
    const auto checkpoint = Checkpoint::OpenDir(dir_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ((*checkpoint)->tensors().size(), 2u);
    EXPECT_EQ((*checkpoint)->num_left_out(), 2);
    ASSERT_NE((*checkpoint)->Find("model.norm.weight"), nullptr);
    EXPECT_EQ((*checkpoint)->Find("model.norm.weight")->data[3], 3);
    EXPECT_NE((*checkpoint)->Find("lm_head.weight"), nullptr);
  }
}

TEST_F(CheckpointTest, ATensorOfTheLanguageModelIsStoredOnce) {
  WriteShard("one.safetensors", "language_model.model.a");
  WriteShard("two.safetensors", "model.language_model.a");
  Write("model.safetensors.index.json",
        R"({"weight_map":{"language_model.model.a":"one.safetensors",)"
        R"("model.language_model.a":"two.safetensors"}})");
  EXPECT_THAT(Error(), HasSubstr("is a second model.a of the language model"));
}

TEST_F(CheckpointTest, IndexNamesAMissingShard) {
  WriteShard("one.safetensors", "a");
  Write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  EXPECT_THAT(Error(), HasSubstr("two.safetensors: No such file"));
}

TEST_F(CheckpointTest, IndexNamesATensorThatTheShardLacks) {
  WriteShard("one.safetensors", "a");
  Write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors"}})");
  EXPECT_THAT(Error(), HasSubstr("tensor b is not in one.safetensors"));
}

TEST_F(CheckpointTest, TwoShardsWithOneTensor) {
  WriteShard("one.safetensors", "a");
  WriteShard("two.safetensors", "a");
  Write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  EXPECT_THAT(Error(), HasSubstr("tensor a is also in"));
}

TEST_F(CheckpointTest, IndexLeavesTheFolder) {
  Write("model.safetensors.index.json", R"({"weight_map":{"a":"../one.safetensors"}})");
  EXPECT_THAT(Error(), HasSubstr("weight_map.a is \"../one.safetensors\""));
}

TEST_F(CheckpointTest, IndexOfWrongTypes) {
  for (const char* index : {"[]", "{}", "{\"weight_map\":3}", "{\"weight_map\":{\"a\":3}}", "{"}) {
    Write("model.safetensors.index.json", index);
    EXPECT_THAT(Error(), HasSubstr("model.safetensors.index.json: ")) << index;
  }
}

}  // namespace
}  // namespace tessera

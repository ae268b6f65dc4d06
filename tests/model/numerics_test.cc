// Tests of the text that describes a loaded model's numerics (numerics.h). The text ends with a
// tag, a hash of KV; two models must have the same tag exactly if the KV that they compute has the
// same bits.
#include "kernels/model/numerics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "tests/lib/raw_checkpoint.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr char kModel[] = "llama2";

std::string Tag(const std::string& dir, const std::string& backend, const TinyOptions& options = {},
                int num_threads = 1) {
  TestBackend device(backend, num_threads);
  TinyModel model(dir, device.backend.get(), options);
  const auto tag = NumericsTag(device.backend.get(), &model.model(), model.layout());
  return tag.ok() ? *tag : std::string(tag.status().message());
}

class NumericsTest : public ::testing::TestWithParam<std::string> {};

TEST_P(NumericsTest, TagsRepeatWhateverTheThreadsPagesAndSteps) {
  for (const DType kv_dtype : {DType::kF32, DType::kI8}) {
    TinyOptions options;
    options.kv_dtype = kv_dtype;
    const std::string dir = GoldenModelDir("qwen2_padded_group");
    const std::string tag = Tag(dir, GetParam(), options);
    EXPECT_EQ(tag.size(), 32u) << tag;
    EXPECT_EQ(Tag(dir, GetParam(), options), tag);
    EXPECT_EQ(Tag(dir, GetParam(), options, /*num_threads=*/3), tag);
    for (const int32_t page_tokens : {8, 64}) {
      options.page_tokens = page_tokens;
      EXPECT_EQ(Tag(dir, GetParam(), options), tag) << page_tokens;
    }
    options.max_tokens = 7;
    EXPECT_EQ(Tag(dir, GetParam(), options), tag) << "in steps of 7 tokens";
  }
}

TEST_P(NumericsTest, TheModelComputesAsBeforeAfterwards) {
  const std::vector<TokenId> prompt = LoadGoldenModel(kModel).prompt_ids;
  TestBackend device(GetParam());
  TinyModel plain(GoldenModelDir(kModel), device.backend.get());
  TinyModel probed(GoldenModelDir(kModel), device.backend.get());
  const auto first = NumericsTag(device.backend.get(), &probed.model(), probed.layout());
  EXPECT_TRUE(SameBits(probed.AllLogits(prompt, 512), plain.AllLogits(prompt, 512)));
  const auto second = NumericsTag(device.backend.get(), &probed.model(), probed.layout());
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(*first, *second);
}

INSTANTIATE_TEST_SUITE_P(Backends, NumericsTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param; });

TEST(NumericsTagTest, AnotherByteOfAWeightInTheFirstLayersIsAnotherTag) {
  const std::string dir = absl::StrCat(::testing::TempDir(), "/numerics_", getpid());
  fs::create_directories(dir);
  fs::copy_file(GoldenModelDir(kModel) + "/config.json", dir + "/config.json",
                fs::copy_options::overwrite_existing);
  RawTensors tensors = ReadRawTensors(GoldenModelDir(kModel));
  WriteRawTensors(dir, tensors);
  const std::string tag = Tag(dir, "ref");
  for (const char* name :
       {"self_attn.k_proj.weight", "self_attn.v_proj.weight", "input_layernorm.weight",
        "self_attn.o_proj.weight", "mlp.down_proj.weight"}) {
    std::string& bytes = tensors[absl::StrCat("model.layers.0.", name)].bytes;
    bytes[2] ^= 0x40;  // of a float32's significand
    WriteRawTensors(dir, tensors);
    EXPECT_NE(Tag(dir, "ref"), tag) << name;
    bytes[2] ^= 0x40;
  }
  WriteRawTensors(dir, tensors);
  EXPECT_EQ(Tag(dir, "ref"), tag);
  fs::remove_all(dir);
}

// The K and V rows of the first two layers after a prompt, in page memory as they lie.
std::string KvBits(const std::string& backend, const TinyOptions& options) {
  TestBackend device(backend);
  TinyModel model(GoldenModelDir(kModel), device.backend.get(), options);
  std::vector<TokenId> tokens;
  for (int i = 0; i < 16; ++i) {  // the tokens of the tag
    tokens.push_back(static_cast<TokenId>((i * 7919 + 17) % model.spec().vocab_size));
  }
  const int sequence = model.AddSequence(tokens);
  model.Step({{sequence, 16}});
  const GroupLayout& group = model.layout().groups[0];
  std::string bits;
  for (int token = 0; token < 16; ++token) {
    const char* const page = model.pool().Page(model.pages(sequence, 0)[token / group.page_tokens]);
    for (int layer = 0; layer < 2; ++layer) {
      for (int head = 0; head < group.kv_heads; ++head) {
        const char* const keys = page + group.HeadOffset(layer, head);
        for (const char* const rows : {keys, keys + group.value_offset()}) {
          for (const GroupLayout::TokenArray& array : group.token_arrays()) {
            const int64_t at = array.offset + token % group.page_tokens * array.element_bytes;
            bits.append(rows + at, static_cast<size_t>(array.element_bytes));
          }
        }
      }
    }
  }
  return bits;
}

TEST(NumericsTagTest, InstructionSetsShareATagExactlyWhereTheirKvHasTheSameBits) {
  for (const WeightDtype dtype : {WeightDtype::kF32, WeightDtype::kBF16, WeightDtype::kI4}) {
    TinyOptions options;
    options.dtype = dtype;
    std::map<std::string, std::string> tag_of_bits;
    std::map<std::string, std::string> bits_of_tag;
    for (const std::string& backend : AllBackends()) {
      const std::string bits = KvBits(backend, options);
      const std::string tag = Tag(GoldenModelDir(kModel), backend, options);
      EXPECT_EQ(tag_of_bits.emplace(bits, tag).first->second, tag) << backend;
      EXPECT_EQ(bits_of_tag.emplace(tag, bits).first->second, bits) << backend;
    }
    RecordProperty(absl::StrCat("kinds_of_bits_", static_cast<int>(dtype)),
                   static_cast<int>(tag_of_bits.size()));
  }
}

TEST(NumericsTagTest, KvTypesHaveTagsOfTheirOwn) {
  TinyOptions options;
  std::map<std::string, DType> seen;
  for (const DType kv_dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    options.kv_dtype = kv_dtype;
    EXPECT_TRUE(seen.emplace(Tag(GoldenModelDir(kModel), "ref", options), kv_dtype).second);
  }
}

TEST(NumericsKeyTest, NamesTheFormatsAndEndsWithTheTag) {
  TestBackend device("ref");
  TinyOptions options;
  options.dtype = WeightDtype::kI4;
  options.kv_dtype = DType::kBF16;
  TinyModel model(GoldenModelDir(kModel), device.backend.get(), options);
  const auto tag = NumericsTag(device.backend.get(), &model.model(), model.layout());
  const auto key = NumericsKey(device.backend.get(), &model.model(), model.layout());
  ASSERT_TRUE(tag.ok() && key.ok());
  EXPECT_EQ(*key, absl::StrCat("embed int8h32; head int8h32; layers 0-2 int4/32h32 int8h32 "
                               "int4/32h32 int4/32; attention blocks of 256; kv bfloat16; tag ",
                               *tag));
}

TEST(NumericsKeyTest, LayersOfOtherFormatsAreListedApart) {
  ModelWeights weights;
  TestBackend device("ref");
  const std::vector<float> numbers(32 * 32, 1.0f);
  WeightView view;
  view.data = numbers.data();
  view.rows = view.cols = 32;
  const auto pack = [&](const WeightFormat& format) {
    return device.backend->Pack({view}, format, false);
  };
  weights.embed = pack(DType::kF32);
  for (const WeightFormat& format :
       {WeightFormat(DType::kBF16), WeightFormat(DType::kBF16), WeightFormat(DType::kI4, 32, true),
        WeightFormat(DType::kI8, 0, false, 16), WeightFormat(DType::kI8).WithBF16Activations()}) {
    LayerWeights& layer = weights.layers.emplace_back();
    for (auto* weight : {&layer.qkv, &layer.out, &layer.gate_up, &layer.down}) {
      *weight = pack(format);
    }
  }
  PageLayout layout;
  layout.groups.resize(2);
  EXPECT_EQ(FormatsText(weights, layout),
            "embed float32; head tied; layers 0-1 bfloat16 bfloat16 bfloat16 bfloat16; 2-2 "
            "int4/32a int4/32a int4/32a int4/32a; 3-3 int8h16 int8h16 int8h16 int8h16; 4-4 "
            "int8:bfloat16 int8:bfloat16 int8:bfloat16 int8:bfloat16; attention blocks of 256; kv "
            "float32 float32");
}

}  // namespace
}  // namespace tessera::testing

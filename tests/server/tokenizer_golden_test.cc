// Tests against the ids and texts of other implementations: PyPI's `tokenizers` (goldens.json),
// llama.cpp's vocabulary tests and transformers.js.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "server/text/tokenizer/tokenizer.h"
#include "tests/lib/shared_data.h"

namespace tessera {
namespace {

using Ids = std::vector<TokenId>;
using nlohmann::json;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

std::unique_ptr<Tokenizer> Loaded(absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer) {
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

// Loads the folder's tokenizer.model with `legacy`, which is what its tokenizer.json does, whatever
// its tokenizer_config.json says.
std::unique_ptr<Tokenizer> LoadLegacyModel(const std::string& folder) {
  std::string copy = (std::filesystem::temp_directory_path() / "legacy_XXXXXX").string();
  if (mkdtemp(copy.data()) == nullptr) return nullptr;
  json config = json::parse(ReadFile(folder + "/tokenizer_config.json"));
  config["legacy"] = true;
  std::ofstream(copy + "/tokenizer_config.json") << config.dump();
  std::filesystem::copy_file(folder + "/tokenizer.model", copy + "/tokenizer.model");
  std::unique_ptr<Tokenizer> tokenizer = Loaded(LoadSentencePieceTokenizer(copy));
  std::filesystem::remove_all(copy);
  return tokenizer;
}

struct Case {
  const char* golden;
  bool sentencepiece;
  bool round_trip;  // decoding with special tokens returns the original text
};

class HuggingFaceGolden : public ::testing::TestWithParam<Case> {};

TEST_P(HuggingFaceGolden, IdsAndTextsAreEqual) {
  REQUIRE_SHARED_DATA(shared);
  const Case& c = GetParam();
  const std::string folder = shared + "/tokenizers";
  const std::unique_ptr<Tokenizer> tokenizer =
      c.sentencepiece ? LoadLegacyModel(folder + "/" + c.golden)
                      : Loaded(LoadJsonTokenizer(folder + "/" + c.golden));
  ASSERT_NE(tokenizer, nullptr);
  const json goldens = json::parse(ReadFile(folder + "/goldens.json"));
  const std::vector<std::string> texts = goldens["texts"];
  const json& golden = goldens["ids"][c.golden];
  ASSERT_EQ(golden["plain"].size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const Ids ids = tokenizer->Encode(texts[i], /*add_special=*/false);
    EXPECT_EQ(ids, golden["plain"][i].get<Ids>()) << "text " << i << ": " << texts[i];
    if (c.round_trip) {
      EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/false), texts[i]) << i;
    }
  }
  for (size_t i = 0; i < golden["with_special"].size(); ++i) {
    EXPECT_EQ(tokenizer->Encode(texts[i], /*add_special=*/true),
              golden["with_special"][i].get<Ids>())
        << texts[i];
  }
  for (size_t i = 0; i < golden["decoded_skip_special"].size(); ++i) {
    EXPECT_EQ(tokenizer->Decode(golden["plain"][i].get<Ids>(), /*skip_special=*/true),
              golden["decoded_skip_special"][i].get<std::string>())
        << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Shared, HuggingFaceGolden,
                         ::testing::Values(Case{"gpt2", false, true}, Case{"llama3", false, true},
                                           Case{"qwen2", false, false}, Case{"qwen3", false, false},
                                           Case{"tinyllama", false, false},
                                           Case{"tinyllama", true, false}),
                         [](const auto& info) {
                           return std::string(info.param.golden) +
                                  (info.param.sentencepiece ? "_model" : "_json");
                         });

// NFC changes some texts. Decoding returns the normalized text, which encodes to the same ids.
TEST(HuggingFaceGolden, NormalizedTextsRoundTripThroughIds) {
  REQUIRE_SHARED_DATA(shared);
  const json goldens = json::parse(ReadFile(shared + "/tokenizers/goldens.json"));
  const std::vector<std::string> texts = goldens["texts"];
  for (const char* name : {"qwen2", "qwen3"}) {
    const auto tokenizer = Loaded(LoadJsonTokenizer(shared + "/tokenizers/" + name));
    ASSERT_NE(tokenizer, nullptr);
    int num_equal = 0;
    for (const std::string& text : texts) {
      const Ids ids = tokenizer->Encode(text, false);
      const std::string back = tokenizer->Decode(ids, false);
      num_equal += back == text ? 1 : 0;
      EXPECT_EQ(tokenizer->Encode(back, false), ids) << text;
    }
    EXPECT_GT(num_equal, 250) << name;
  }
}

struct LlamaCppCase {
  const char* vectors;
  const char* folder;
  bool sentencepiece;
};

class LlamaCppVectors : public ::testing::TestWithParam<LlamaCppCase> {};

TEST_P(LlamaCppVectors, IdsAreEqual) {
  REQUIRE_SHARED_DATA(shared);
  const LlamaCppCase& c = GetParam();
  const std::string dir = shared + "/tokenizers/" + c.folder;
  const auto tokenizer =
      Loaded(c.sentencepiece ? LoadSentencePieceTokenizer(dir) : LoadJsonTokenizer(dir));
  ASSERT_NE(tokenizer, nullptr);
  const std::string base = shared + "/tokenizers/vectors/ggml-vocab-" + c.vectors + ".gguf";
  const std::string input = ReadFile(base + ".inp");
  std::istringstream output(ReadFile(base + ".out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  int num_texts = 0;
  for (size_t begin = 0; begin < input.size(); ++num_texts) {
    const size_t end = std::min(input.find(separator, begin), input.size());
    const std::string text = input.substr(begin, end - begin);
    begin = end + separator.size();
    std::string line;
    ASSERT_TRUE(std::getline(output, line));
    std::istringstream numbers(line);
    Ids expected;
    for (TokenId id; numbers >> id;) expected.push_back(id);
    EXPECT_EQ(tokenizer->Encode(text, /*add_special=*/false), expected) << text;
  }
  EXPECT_GE(num_texts, 45);
}

INSTANTIATE_TEST_SUITE_P(Shared, LlamaCppVectors,
                         ::testing::Values(LlamaCppCase{"gpt-2", "gpt2", false},
                                           LlamaCppCase{"llama-bpe", "llama3", false},
                                           LlamaCppCase{"llama-spm", "tinyllama", true},
                                           LlamaCppCase{"llama-spm", "tinyllama", false},
                                           LlamaCppCase{"qwen2", "qwen2", false},
                                           LlamaCppCase{"deepseek-r1-qwen", "qwen2", false}),
                         [](const auto& info) {
                           std::string name = info.param.vectors;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name + (info.param.sentencepiece ? "_model" : "_json");
                         });

// The collection of transformers.js has texts with ids but no tokenizers, so the test uses its
// cases for tokenizers of the shared data. It does not use the decoded texts, because
// transformers.js cleans up their spaces.
TEST(TransformersJsVectors, IdsAreEqual) {
  REQUIRE_SHARED_DATA(shared);
  const json vectors =
      json::parse(ReadFile(shared + "/tokenizers/vectors/hf_tokenizer_vectors.json"));
  struct Row {
    const char* family;
    const char* tokenizer;
    const char* folder;
    bool add_special;
  };
  const Row rows[] = {{"gpt2", "openai-community/gpt2", "gpt2", true},
                      {"gpt2", "Xenova/gpt2", "gpt2", true},
                      {"qwen2", "Xenova/Qwen1.5-0.5B-Chat", "qwen2", true},
                      {"llama", "Xenova/llama-tokenizer", "tinyllama", true},
                      {"llama", "Xenova/llama3-tokenizer-new", "llama3", true}};
  for (const Row& row : rows) {
    const auto tokenizer = Loaded(LoadTokenizer(shared + "/tokenizers/" + row.folder));
    ASSERT_NE(tokenizer, nullptr);
    for (const auto& [name, test] : vectors[row.family][row.tokenizer].items()) {
      const std::string text = test["text"];
      const Ids expected = test["ids"].get<Ids>();
      EXPECT_EQ(tokenizer->Encode(text, row.add_special), expected)
          << row.tokenizer << " " << name << ": " << text;
    }
  }
}

}  // namespace
}  // namespace tessera

// Tests of every supported component of a tokenizer.json against PyPI's `tokenizers`.
// tokenizer_variants.py generates tiny tokenizers that each have one component changed. The same
// file tests that streamed decoding equals whole decoding.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "server/text/tokenizer/detokenizer.h"
#include "server/text/tokenizer/json_tokenizer.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

using Ids = std::vector<TokenId>;
using nlohmann::json;

const char* const kGoldens = "tests/server/tokenizer_variants.json";

json ReadGoldens() {
  std::ifstream file(kGoldens);
  return json::parse(file);
}

// Replaces members of the base document by the members of the patch. The members of `model` are
// replaced one by one.
std::string Patched(json document, const json& patch) {
  for (const auto& [key, value] : patch.items()) {
    if (key == "model") {
      document["model"].update(value);
    } else {
      document[key] = value;
    }
  }
  return document.dump();
}

template <class Body>
void ForEachVariant(const Body& body) {
  const json goldens = ReadGoldens();
  ASSERT_GT(goldens["variants"].size(), 70u);
  for (const json& variant : goldens["variants"]) {
    const std::string base = variant["base"];
    SCOPED_TRACE(base + " " + variant["name"].get<std::string>());
    const auto tokenizer =
        NewJsonTokenizer(Patched(goldens["bases"][base], variant["patch"]), TokenizerConfig());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const json& c : variant["cases"]) body(**tokenizer, c);
  }
}

TEST(TokenizerVariants, EncodeAsHuggingFace) {
  ForEachVariant([](const Tokenizer& tokenizer, const json& c) {
    const std::string text = c["text"];
    EXPECT_EQ(tokenizer.Encode(text, false), c["plain"].get<Ids>()) << text;
    EXPECT_EQ(tokenizer.Encode(text, true), c["special"].get<Ids>()) << text;
  });
}

TEST(TokenizerVariants, DecodeAsHuggingFace) {
  ForEachVariant([](const Tokenizer& tokenizer, const json& c) {
    EXPECT_EQ(tokenizer.Decode(c["plain"].get<Ids>(), false), c["decoded"].get<std::string>());
    EXPECT_EQ(tokenizer.Decode(c["ids"].get<Ids>(), true), c["ids_decoded"].get<std::string>())
        << c["ids"];
  });
}

// Pushes random ids in random chunks. The joined text must equal the decoded whole list.
TEST(TokenizerVariants, StreamingEqualsWhole) {
  std::mt19937 random(3);
  ForEachVariant([&](const Tokenizer& tokenizer, const json& c) {
    Ids ids = c["ids"].get<Ids>();
    const Ids plain = c["plain"].get<Ids>();
    ids.insert(ids.end(), plain.begin(), plain.end());
    for (int repeat = 0; repeat < 4; ++repeat) {
      std::shuffle(ids.begin(), ids.end(), random);
      IncrementalDetokenizer detokenizer(&tokenizer, {});
      std::string text;
      for (size_t at = 0; at < ids.size();) {
        const size_t size = std::min<size_t>(1 + random() % 3, ids.size() - at);
        const std::string delta = detokenizer.Push(std::span<const TokenId>(ids).subspan(at, size));
        EXPECT_TRUE(IsValidUtf8(delta));
        text += delta;
        at += size;
        EXPECT_EQ(text + detokenizer.Held(),
                  tokenizer.Decode(std::span<const TokenId>(ids).first(at), true));
      }
      text += detokenizer.Flush();
      EXPECT_EQ(text, tokenizer.Decode(ids, true));
    }
  });
}

}  // namespace
}  // namespace tessera

// Tests of streamed text: the detokenizer with real vocabularies, and stop strings against a naive
// search.
#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "server/text/tokenizer/detokenizer.h"
#include "server/text/tokenizer/stop_matcher.h"
#include "server/text/tokenizer/tokenizer.h"
#include "server/text/tokenizer/utf8.h"
#include "tests/lib/shared_data.h"

namespace tessera {
namespace {

using Ids = std::vector<TokenId>;
using nlohmann::json;

bool StartsWith(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

class DetokenizerOnGoldens : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Tokenizer> Load(const std::string& shared) {
    const std::string folder = shared + "/tokenizers/" + GetParam();
    auto tokenizer = std::string(GetParam()) == "tinyllama" ? LoadSentencePieceTokenizer(folder)
                                                            : LoadJsonTokenizer(folder);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
  }
};

// Splits the ids of each golden at random into a prompt and generated tokens, and the generated
// tokens into chunks.
TEST_P(DetokenizerOnGoldens, DeltasAreDecodeMinusPrompt) {
  REQUIRE_SHARED_DATA(shared);
  const auto tokenizer = Load(shared);
  ASSERT_NE(tokenizer, nullptr);
  std::ifstream file(shared + "/tokenizers/goldens.json");
  const json goldens = json::parse(file);
  std::mt19937 random(11);
  int num_compared = 0;
  for (const json& row : goldens["ids"][GetParam()]["plain"]) {
    const Ids ids = row.get<Ids>();
    const std::span<const TokenId> all(ids);
    const size_t num_prompt = random() % (ids.size() + 1);
    IncrementalDetokenizer detokenizer(tokenizer.get(), all.first(num_prompt));
    std::string text;
    for (size_t at = num_prompt; at < ids.size();) {
      const size_t size = std::min<size_t>(1 + random() % 4, ids.size() - at);
      const std::string delta = detokenizer.Push(all.subspan(at, size));
      EXPECT_TRUE(IsValidUtf8(delta));
      EXPECT_EQ(delta.find(kReplacementCharacter),
                std::string::npos);  // the goldens are valid text
      text += delta;
      at += size;
    }
    text += detokenizer.Flush();
    const std::string whole = tokenizer->Decode(ids, true);
    const std::string prompt = tokenizer->Decode(all.first(num_prompt), true);
    if (!StartsWith(whole, prompt)) continue;  // the prompt ends inside a code point
    EXPECT_EQ(text, whole.substr(prompt.size()));
    ++num_compared;
  }
  EXPECT_GT(num_compared, 150);
}

INSTANTIATE_TEST_SUITE_P(Shared, DetokenizerOnGoldens,
                         ::testing::Values("gpt2", "llama3", "qwen2", "qwen3", "tinyllama"));

TEST(IncrementalDetokenizer, HoldsBrokenCodePointsAndSpacesAsLlama2) {
  REQUIRE_SHARED_DATA(shared);
  const auto loaded = LoadSentencePieceTokenizer(shared + "/tokenizers/tinyllama");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Tokenizer& t = **loaded;
  const auto byte = [&](const char* name) { return *t.TokenToId(name); };
  const TokenId once = *t.TokenToId("\xE2\x96\x81Once");

  // The first word of a text loses its space, later words keep theirs. BOS has no text.
  EXPECT_EQ(IncrementalDetokenizer(&t, Ids{1}).Push(once), "Once");
  EXPECT_EQ(IncrementalDetokenizer(&t, Ids{1, once}).Push(once), " Once");

  // A newline at the end of the prompt is not returned again when the run of byte tokens continues.
  IncrementalDetokenizer after_newline(&t, Ids{1, once, byte("<0x0A>")});
  EXPECT_EQ(after_newline.Push(byte("<0xE2>")), "");
  EXPECT_EQ(after_newline.Push(byte("<0x82>")), "");
  EXPECT_EQ(after_newline.Held(), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(after_newline.Push(byte("<0xAC>")), "");
  EXPECT_EQ(after_newline.Held(), "\xE2\x82\xAC");
  EXPECT_EQ(after_newline.Push(once), "\xE2\x82\xAC Once");

  // A run that is not UTF-8 becomes one U+FFFD per byte.
  IncrementalDetokenizer broken(&t, {});
  EXPECT_EQ(broken.Push(Ids{byte("<0x41>"), byte("<0xFF>")}), "");
  EXPECT_EQ(broken.Flush(), "\xEF\xBF\xBD\xEF\xBF\xBD");

  // Special tokens have text only if skip_special is false; ids outside the vocabulary have no
  // text.
  EXPECT_EQ(IncrementalDetokenizer(&t, {}).Push(Ids{once, 2, 99999, -7}), "Once");
  EXPECT_EQ(IncrementalDetokenizer(&t, {}, /*skip_special=*/false).Push(Ids{once, 2}), "Once</s>");
}

TEST(IncrementalDetokenizer, ACompletedCodePointOfThePromptComesOutOnce) {
  REQUIRE_SHARED_DATA(shared);
  const auto loaded = LoadJsonTokenizer(shared + "/tokenizers/gpt2");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Tokenizer& t = **loaded;
  const Ids llama = t.Encode("\xF0\x9F\xA6\x99", false);  // three tokens
  ASSERT_EQ(llama.size(), 3u);
  IncrementalDetokenizer detokenizer(&t, std::span<const TokenId>(llama).first(2));
  EXPECT_EQ(detokenizer.Push(llama[2]), "\xF0\x9F\xA6\x99");
  // The code point is never completed. Its U+FFFD belongs to the text of the prompt.
  IncrementalDetokenizer broken(&t, std::span<const TokenId>(llama).first(2));
  EXPECT_EQ(broken.Push(*t.TokenToId("a")), "a");
}

// The definition of a stop match, searched in quadratic time.
struct NaiveStop {
  size_t end = std::string::npos;
  size_t index = 0;
};
NaiveStop FindNaively(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    NaiveStop best;
    for (size_t i = 0; i < stops.size(); ++i) {
      const std::string& stop = stops[i];
      if (stop.empty() || stop.size() > end) continue;
      if (text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      if (best.end == std::string::npos || stop.size() > stops[best.index].size()) best = {end, i};
    }
    if (best.end != std::string::npos) return best;
  }
  return {};
}

TEST(StopMatcher, AgreesWithTheDefinition) {
  std::mt19937 random(5);
  const auto word = [&](size_t max_size) {
    std::string text;
    for (size_t i = 1 + random() % max_size; i > 0; --i) text += "ab\n"[random() % 3];
    return text;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = random() % 5; i > 0; --i) stops.push_back(word(6));
    if (random() % 8 == 0) stops.push_back("");
    const StopSet set(stops);
    const bool include = random() % 2 == 0;
    StopMatcher matcher(&set, include);
    const std::string text = word(40);
    const NaiveStop expected = FindNaively(text, stops);
    std::string shown;
    std::optional<size_t> match;
    size_t fed = 0;
    while (fed < text.size() && !match.has_value()) {
      const std::string delta = text.substr(fed, 1 + random() % 5);
      fed += delta.size();
      const bool would = matcher.WouldMatch(delta);
      const StopMatcher::Result result = matcher.Feed(delta);
      EXPECT_EQ(would, result.match.has_value());
      shown += result.text;
      match = result.match;
      if (match.has_value()) continue;
      // The held text must be the longest suffix that is a prefix of a stop string.
      size_t held = 0;
      for (const std::string& stop : stops) {
        for (size_t n = 1; n < stop.size() && n <= fed; ++n) {
          if (text.compare(fed - n, n, stop, 0, n) == 0) held = std::max(held, n);
        }
      }
      EXPECT_EQ(shown.size() + held, fed);
    }
    if (expected.end == std::string::npos) {
      EXPECT_FALSE(match.has_value());
      EXPECT_EQ(shown + matcher.Flush(), text);
      continue;
    }
    ASSERT_TRUE(match.has_value());
    EXPECT_EQ(stops[*match], stops[expected.index]);
    const size_t end = include ? expected.end : expected.end - stops[expected.index].size();
    EXPECT_EQ(shown, text.substr(0, end));
  }
}

TEST(StopMatcher, TenThousandStopStringsCostLittle) {
  std::mt19937 random(9);
  std::vector<std::string> stops;
  for (int i = 0; i < 10000; ++i) {
    std::string stop;
    for (int j = 0; j < 100; ++j) stop += static_cast<char>('a' + random() % 3);
    stops.push_back(stop + "#" + std::to_string(i));
  }
  const std::clock_t start = std::clock();  // CPU time, because the machine may be busy
  const StopSet set(stops);
  StopMatcher matcher(&set, false);
  std::string shown;
  for (int i = 0; i < 1000; ++i) {  // each text is a long prefix of a stop string
    const StopMatcher::Result result = matcher.Feed(stops[i].substr(0, 100));
    ASSERT_FALSE(result.match.has_value());
    shown += result.text;
  }
  const StopMatcher::Result result = matcher.Feed("...." + stops[7777]);
  ASSERT_TRUE(result.match.has_value());
  EXPECT_EQ(*result.match, 7777u);
  EXPECT_EQ((shown + result.text).size(), 100004u);
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 20.0);
}

}  // namespace
}  // namespace tessera

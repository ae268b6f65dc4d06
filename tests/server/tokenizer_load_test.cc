// Tests of loading tokenizers: the effect of the configuration files, the errors for unsupported
// files, and that a hostile file causes only an error.
#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "server/text/tokenizer/json_tokenizer.h"
#include "server/text/tokenizer/spm_tokenizer.h"
#include "server/text/tokenizer/tokenizer.h"
#include "server/text/tokenizer/utf8.h"
#include "tests/lib/shared_data.h"

namespace tessera {
namespace {

using Ids = std::vector<TokenId>;
using nlohmann::json;

// A tiny tokenizer.json. "a" and "b" merge; c is a token, d is not.
json TinyDocument() {
  return json::parse(R"({
    "added_tokens": [
      {"id": 5, "content": "<s>", "special": true, "normalized": false},
      {"id": 6, "content": "</s>", "special": true, "normalized": false}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, " ": 4}, "merges": ["a b"]},
    "decoder": {"type": "Fuse"}
  })");
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const json& document,
                                                const TokenizerConfig& config = {}) {
  return NewJsonTokenizer(document.dump(), config);
}

// A folder that is deleted at the end of the test.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tokenizer_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  void Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << bytes;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

TEST(Utf8, NamesTheFirstFault) {
  EXPECT_TRUE(ValidateUtf8("").ok());
  EXPECT_TRUE(ValidateUtf8(std::string_view("a\0\xC3\xA9\xF4\x8F\xBF\xBF", 8)).ok());
  const std::pair<std::string, int> faults[] = {
      {"abcdefghijk\xFFz", 11}, {"\xC0\x80", 0},       {"ab\xE2\x82", 2}, {"\xED\xA0\x80", 0},
      {"\xF4\x90\x80\x80", 0},  {"x\xF0\x9F\xA6z", 1}, {"\x80", 0}};
  for (const auto& [text, offset] : faults) {
    const absl::Status status = ValidateUtf8(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find("offset " + std::to_string(offset) + ";"),
              std::string::npos)
        << status;
  }
}

TEST(Utf8, ReplacesMaximalSubparts) {
  const auto lossy = [](std::string_view bytes) {
    std::string text;
    AppendLossy(bytes, /*final=*/true, &text);
    return text;
  };
  const std::string r(kReplacementCharacter);
  EXPECT_EQ(lossy("a\xF0\x9F\xA6z"), "a" + r + "z");
  EXPECT_EQ(lossy("\xE0\x80\x80"), r + r + r);
  EXPECT_EQ(lossy("\xF4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(lossy("\xE2\x82"), r);
  std::string text;
  EXPECT_EQ(AppendLossy("ok\xE2\x82", /*final=*/false, &text), 2u);
  EXPECT_EQ(text, "ok");
}

TEST(JsonTokenizer, EncodesAndDecodesATinyVocabulary) {
  const auto loaded = Load(TinyDocument());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Tokenizer& t = **loaded;
  EXPECT_EQ(t.Encode("abc ab<s>ba", false), (Ids{3, 2, 4, 3, 5, 1, 0}));
  EXPECT_EQ(t.Encode("adb", false), (Ids{3}));  // d is unknown and there is no unk_token
  EXPECT_EQ(t.vocab_size(), 7);
  EXPECT_EQ(t.Decode(Ids{5, 3, 2}, true), "abc");
  EXPECT_EQ(t.Decode(Ids{5, 3, 2}, false), "<s>abc");
  EXPECT_EQ(t.Decode(Ids{-1, 7, 1 << 30, 0}, false), "a");
  EXPECT_TRUE(t.IsSpecial(5));
  EXPECT_FALSE(t.IsSpecial(3));
  EXPECT_FALSE(t.IsSpecial(-1));
  EXPECT_FALSE(t.IsSpecial(1000));
  EXPECT_EQ(t.TokenToId("ab"), std::optional<TokenId>(3));
  EXPECT_EQ(t.TokenToId("ba"), std::nullopt);
  EXPECT_EQ(t.TokenText(3), "ab");
  EXPECT_EQ(t.TokenBytes(99), "");
  EXPECT_EQ(t.bos_id(), std::nullopt);
  EXPECT_EQ(t.Encode("", true), Ids{});
  EXPECT_EQ(t.Encode("a\xFF", false), (Ids{0}));  // invalid UTF-8 causes no error
}

// Spaces that may be at the end of the text are held back, even across several tokens.
TEST(JsonTokenizer, StripsAtTheEndAcrossTokens) {
  json document = TinyDocument();
  document["decoder"] = json::parse(R"({"type": "Sequence", "decoders": [
      {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 0, "stop": 2}]})");
  const auto loaded = Load(document);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Tokenizer& t = **loaded;
  EXPECT_EQ(t.Decode(Ids{0, 4}, true), "a");
  EXPECT_EQ(t.Decode(Ids{0, 4, 4}, true), "a");
  EXPECT_EQ(t.Decode(Ids{0, 4, 4, 4}, true), "a ");
  EXPECT_EQ(t.Decode(Ids{0, 4, 4, 4, 1}, true), "a   b");
  EXPECT_EQ(t.Decode(Ids{0, 4, 1, 4}, true), "a b");
}

TEST(JsonTokenizer, TakesIdsOfTheVocabularyForAddedTokensOnIt) {
  json document = TinyDocument();
  document["added_tokens"].push_back({{"id", 77}, {"content", "c"}, {"special", true}});
  const auto loaded = Load(document);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->vocab_size(), 7);
  EXPECT_TRUE((*loaded)->IsSpecial(2));
}

TEST(JsonTokenizer, ConfigurationRulesSpecialTokens) {
  json document = TinyDocument();
  document["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}}})");
  TempFolder folder;
  folder.Write("tokenizer.json", document.dump());
  const auto load = [&](const std::string& config) {
    folder.Write("tokenizer_config.json", config);
    auto loaded = LoadTokenizer(folder.path());
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *std::move(loaded);
  };
  auto t = load(R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}})");
  EXPECT_EQ(t->bos_id(), std::optional<TokenId>(5));
  EXPECT_EQ(t->eos_id(), std::optional<TokenId>(6));
  EXPECT_EQ(t->Encode("a", true), (Ids{5, 0}));

  t = load(R"({"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer",
               "add_bos_token": false, "add_eos_token": true})");
  EXPECT_EQ(t->Encode("a", true), (Ids{0, 6}));

  // These tokens are only in tokenizer_config.json. The id 3 is already used, so that token is left
  // out.
  t = load(R"({"bos_token": null, "pad_token": "<pad>", "unk_token": "b",
               "added_tokens_decoder": {"9": {"content": "<x>", "special": true},
                                        "3": {"content": "<y>", "special": true}}})");
  EXPECT_EQ(t->bos_id(), std::nullopt);
  EXPECT_EQ(t->vocab_size(), 10);
  EXPECT_EQ(t->Encode("a<x>a", false), (Ids{0, 9, 0}));
  EXPECT_TRUE(t->IsSpecial(9));
  EXPECT_TRUE(t->IsSpecial(1));
  EXPECT_EQ(t->TokenToId("<pad>"), std::nullopt);
  EXPECT_EQ(t->Decode(Ids{8, 7, 0}, false), "a");  // an id without a token adds no text

  folder.Write("special_tokens_map.json", R"({"bos_token": "<s>", "eos_token": "c"})");
  t = load(R"({"eos_token": "</s>"})");
  EXPECT_EQ(t->bos_id(), std::optional<TokenId>(5));
  EXPECT_EQ(t->eos_id(), std::optional<TokenId>(6));  // tokenizer_config.json has precedence

  // Names of tokens are any members that end in _token, and those of extra_special_tokens.
  folder.Write("special_tokens_map.json", R"({"bos_token": "<s>", "eos_token": {"content": "x"}})");
  t = load(R"({"eos_token": "</s>", "add_bos_token": true, "pad_token": null, "image_token": "<i>",
               "unk_token": {"content": "<u>"}, "extra_special_tokens": {"voice": "<v>"}})");
  EXPECT_EQ(t->named_tokens(),
            (std::vector<std::pair<std::string, std::string>>{{"eos_token", "</s>"},
                                                              {"image_token", "<i>"},
                                                              {"unk_token", "<u>"},
                                                              {"voice", "<v>"},
                                                              {"bos_token", "<s>"}}));

  folder.Write("tokenizer_config.json", R"({"bos_token": 7})");
  EXPECT_EQ(LoadTokenizer(folder.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(LoadTokenizer, AddedTokensFile) {
  TempFolder folder;
  folder.Write("tokenizer.json", TinyDocument().dump());
  folder.Write("added_tokens.json", R"({"<x>": 9, "<y>": 8})");
  folder.Write("special_tokens_map.json", R"({"pad_token": "<y>"})");
  const auto load = [&folder] {
    auto loaded = LoadTokenizer(folder.path());
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *std::move(loaded);
  };
  auto t = load();
  EXPECT_EQ(t->Encode("a<x>ab<y>", false), (Ids{0, 9, 3, 8}));
  EXPECT_FALSE(t->IsSpecial(9));
  EXPECT_TRUE(t->IsSpecial(8));
  // The file has no flags, so it does not change what tokenizer.json says of a token.
  json document = TinyDocument();
  document["added_tokens"].push_back({{"id", 9},
                                      {"content", "<x>"},
                                      {"special", true},
                                      {"normalized", false},
                                      {"lstrip", false},
                                      {"rstrip", true},
                                      {"single_word", false}});
  folder.Write("tokenizer.json", document.dump());
  t = load();
  EXPECT_EQ(t->Encode("<x>  a", false), (Ids{9, 0}));
  EXPECT_TRUE(t->IsSpecial(9));
  folder.Write("tokenizer.json", TinyDocument().dump());
  // The newer description of the added tokens has precedence, even if it is empty.
  folder.Write("tokenizer_config.json", R"({"added_tokens_decoder": {}})");
  t = load();
  EXPECT_EQ(t->TokenToId("<x>"), std::nullopt);
  folder.Write("tokenizer_config.json", "{}");
  for (const auto& [text, says] : {std::pair("[]", "is not a JSON object"),
                                   std::pair(R"({"<x>": "9"})", "added_tokens.json: '<x>'"),
                                   std::pair("{", "added_tokens.json")}) {
    folder.Write("added_tokens.json", text);
    const absl::Status status = LoadTokenizer(folder.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_NE(std::string(status.message()).find(says), std::string::npos) << status;
  }
}

TEST(LoadTokenizer, FallsBackToTheModelAndNamesWhatIsWrong) {
  TempFolder folder;
  EXPECT_EQ(LoadTokenizer(folder.path()).status().code(), absl::StatusCode::kNotFound);
  folder.Write("tokenizer.json", R"({"model": {"type": "Unigram", "vocab": []}})");
  const absl::Status unsupported = LoadTokenizer(folder.path()).status();
  EXPECT_EQ(unsupported.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(std::string(unsupported.message()).find("Unigram"), std::string::npos) << unsupported;
  folder.Write("tokenizer.model", "this is no model");
  EXPECT_EQ(LoadTokenizer(folder.path()).status().code(), absl::StatusCode::kInvalidArgument);

  REQUIRE_SHARED_DATA(shared);
  folder.Write("tokenizer.model", ReadFile(shared + "/tokenizers/tinyllama/tokenizer.model"));
  const auto loaded = LoadTokenizer(folder.path());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->Encode("Hello", true), (Ids{1, 15043}));
  EXPECT_EQ((*loaded)->bos_id(), std::optional<TokenId>(1));
  EXPECT_EQ((*loaded)->eos_id(), std::optional<TokenId>(2));

  folder.Write("tokenizer.json", "{broken");
  EXPECT_EQ(LoadTokenizer(folder.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

struct Refusal {
  std::string name;
  std::function<void(json*)> change;
  std::string message_has;
};

TEST(JsonTokenizer, RefusesWhatItCannotDoAndNamesIt) {
  const auto component = [](const char* part, const char* text) {
    return [part, text](json* d) { (*d)[part] = json::parse(text); };
  };
  const std::vector<Refusal> refusals = {
      {"no model", [](json* d) { d->erase("model"); }, "'model' must be an object"},
      {"model type", [](json* d) { (*d)["model"]["type"] = "WordPiece"; }, "WordPiece"},
      {"model type is no string", [](json* d) { (*d)["model"]["type"] = 5; }, "a string"},
      {"vocab list", [](json* d) { (*d)["model"]["vocab"] = json::array(); }, "vocab"},
      {"empty vocab", [](json* d) { (*d)["model"]["vocab"] = json::object(); }, "empty"},
      {"negative id", [](json* d) { (*d)["model"]["vocab"]["x"] = -1; }, "id -1"},
      {"absurd id", [](json* d) { (*d)["model"]["vocab"]["x"] = 1e18; }, "integer"},
      {"huge id", [](json* d) { (*d)["model"]["vocab"]["x"] = 1ll << 60; }, "ids from 0 to"},
      {"beyond 64 bits", [](json* d) { (*d)["model"]["vocab"]["x"] = ~0ull; }, "integer"},
      {"id as text", [](json* d) { (*d)["model"]["vocab"]["x"] = "7"; }, "integer"},
      {"two tokens, one id", [](json* d) { (*d)["model"]["vocab"]["x"] = 3; }, "same id 3"},
      {"no merges", [](json* d) { (*d)["model"].erase("merges"); }, "'merges'"},
      {"merge of unknown", [](json* d) { (*d)["model"]["merges"] = {"a q"}; }, "'q'"},
      {"merge into unknown", [](json* d) { (*d)["model"]["merges"] = {"b a"}; }, "'ba'"},
      {"merge without space", [](json* d) { (*d)["model"]["merges"] = {"ab"}; }, "one space"},
      {"merge of three",
       [](json* d) {
         (*d)["model"]["merges"] = {{"a", "b", "c"}};
       },
       "merges[0]"},
      {"suffix", [](json* d) { (*d)["model"]["end_of_word_suffix"] = "</w>"; },
       "end_of_word_suffix"},
      {"dropout", [](json* d) { (*d)["model"]["dropout"] = 0.1; }, "dropout"},
      {"flag of wrong type", [](json* d) { (*d)["model"]["fuse_unk"] = "no"; }, "fuse_unk"},
      {"added tokens object", [](json* d) { (*d)["added_tokens"] = json::object(); }, "array"},
      {"added token without id",
       [](json* d) {
         (*d)["added_tokens"] = {{{"content", "x"}}};
       },
       "'id'"},
      {"added token on another's id", [](json* d) { (*d)["added_tokens"][0]["id"] = 3; },
       "same id 3"},
      {"normalizer", component("normalizer", R"({"type": "BertNormalizer"})"), "BertNormalizer"},
      {"normalizer without type", component("normalizer", "{}"), "'type'"},
      {"nested normalizer",
       component("normalizer", R"({"type": "Sequence", "normalizers": [{"type": "Nmt"}]})"),
       "normalizer.normalizers[0] of type 'Nmt'"},
      {"pre-tokenizer", component("pre_tokenizer", R"({"type": "BertPreTokenizer"})"), "BertPre"},
      {"behavior",
       component("pre_tokenizer",
                 R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Odd"})"),
       "Odd"},
      {"empty pattern",
       component("pre_tokenizer",
                 R"({"type": "Split", "pattern": {"String": ""}, "behavior": "Removed"})"),
       "must not be empty"},
      {"bad regex",
       component("pre_tokenizer",
                 R"({"type": "Split", "pattern": {"Regex": "a(b"}, "behavior": "Removed"})"),
       "unclosed group"},
      {"regex verb",
       component("pre_tokenizer",
                 R"({"type": "Split", "pattern": {"Regex": "(*NO_JIT)a"}, "behavior": "Removed"})"),
       "verb"},
      {"post-processor", component("post_processor", R"({"type": "Odd"})"), "Odd"},
      {"template with unknown id", component("post_processor", R"({"type": "TemplateProcessing",
                 "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A"}}],
                 "special_tokens": {"x": {"id": "x", "ids": [4000], "tokens": ["x"]}}})"),
       "4000"},
      {"template without text",
       component("post_processor", R"({"type": "TemplateProcessing", "single": []})"),
       "exactly once"},
      {"decoder", component("decoder", R"({"type": "WordPiece"})"), "WordPiece"},
      {"decoder order",
       component(
           "decoder",
           R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]})"),
       "ByteFallback"},
      {"strip of wrong type",
       component("decoder", R"({"type": "Strip", "content": "ab", "start": 1, "stop": 0})"),
       "Strip"},
  };
  for (const Refusal& refusal : refusals) {
    json document = TinyDocument();
    refusal.change(&document);
    const absl::Status status = Load(document).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status))
        << refusal.name << ": " << status;
    if (refusal.name == "strip of wrong type") continue;
    EXPECT_NE(std::string(status.message()).find(refusal.message_has), std::string::npos)
        << refusal.name << ": " << status;
  }
}

TEST(JsonTokenizer, SurvivesDeepNesting) {
  std::string lists;
  for (int i = 0; i < 200000; ++i) lists += "[";
  EXPECT_FALSE(NewJsonTokenizer(lists, {}).ok());
  std::string closed = "{\"model\": " + lists;
  for (int i = 0; i < 200000; ++i) closed += "]";
  EXPECT_FALSE(NewJsonTokenizer(closed + "}", {}).ok());
  json document = TinyDocument();
  json nested = {{"type", "NFC"}};
  for (int i = 0; i < 50; ++i) nested = {{"type", "Sequence"}, {"normalizers", {nested}}};
  document["normalizer"] = nested;
  EXPECT_EQ(Load(document).status().code(), absl::StatusCode::kInvalidArgument);
}

// The CPU time of `body` in seconds. Wall time would depend on the load of the machine.
double SecondsOf(const std::function<void()>& body) {
  const std::clock_t start = std::clock();
  body();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

TEST(JsonTokenizer, CatastrophicPatternsGiveUp) {
  json document = TinyDocument();
  document["pre_tokenizer"] =
      json::parse(R"({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"})");
  const auto loaded = Load(document);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const std::string text = std::string(5000, 'a') + "b";
  EXPECT_LT(SecondsOf([&] { EXPECT_EQ((*loaded)->Encode(text, false).size(), 5000u); }), 30.0);
}

TEST(JsonTokenizer, LongRunsOfSpaceAreLinear) {
  json document = TinyDocument();
  document["pre_tokenizer"] =
      json::parse(R"({"type": "Split", "pattern": {"Regex": "\\s+$"}, "behavior": "Isolated"})");
  const auto loaded = Load(document);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const std::string text = std::string(1 << 20, ' ') + "a";
  EXPECT_LT(SecondsOf([&] { (*loaded)->Encode(text, false); }), 30.0);
}

// Encoding one giant word must take neither quadratic time nor recursion, with both
// implementations.
TEST(Tokenizer, GiantWordsTakeSeconds) {
  REQUIRE_SHARED_DATA(shared);
  const auto json_kind = LoadJsonTokenizer(shared + "/tokenizers/gpt2");
  const auto model_kind = LoadSentencePieceTokenizer(shared + "/tokenizers/tinyllama");
  ASSERT_TRUE(json_kind.ok() && model_kind.ok());
  std::mt19937 random(1);
  std::string letters;
  for (int i = 0; i < (1 << 20); ++i) letters += static_cast<char>('a' + random() % 26);
  for (const Tokenizer* tokenizer : {json_kind->get(), model_kind->get()}) {
    for (const std::string& text :
         {letters, std::string(1 << 20, 'a'), std::string(1 << 20, ' ')}) {
      EXPECT_LT(SecondsOf([&] {
                  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text, false), true), text);
                }),
                60.0);
    }
  }
}

// Compares with the ids of SentencePiece itself; tokenizer_sentencepiece.py generates them.
TEST(SpmTokenizer, EncodesAsSentencePiece) {
  REQUIRE_SHARED_DATA(shared);
  const json texts = json::parse(ReadFile(shared + "/tokenizers/goldens.json"))["texts"];
  const json goldens = json::parse(ReadFile("tests/server/tokenizer_sentencepiece.json"));
  ASSERT_EQ(goldens.size(), 3u);
  for (const auto& [folder, rows] : goldens.items()) {
    const auto tokenizer = LoadSentencePieceTokenizer(shared + "/" + folder);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    ASSERT_GT(rows.size(), 40u);
    for (const auto& [index, ids] : rows.items()) {
      const std::string text = texts[std::stoul(index)];
      EXPECT_EQ((*tokenizer)->Encode(text, false), ids.get<Ids>()) << folder << ": " << text;
    }
  }
}

// Compares with the ids of transformers' LlamaTokenizer; tokenizer_llama.py generates them.
TEST(SpmTokenizer, EncodesAddedTokensAndPrefixesAsLlamaTokenizer) {
  REQUIRE_SHARED_DATA(shared);
  const json goldens = json::parse(ReadFile("tests/server/tokenizer_llama.json"));
  ASSERT_EQ(goldens["rows"].size(), 4u);
  for (const json& row : goldens["rows"]) {
    TempFolder folder;
    const std::string model = row["model"];
    folder.Write("tokenizer.model", ReadFile(shared + "/" + model + "/tokenizer.model"));
    folder.Write("added_tokens.json", row["added_tokens"].dump());
    folder.Write("tokenizer_config.json", row["config"].dump());
    const auto tokenizer = LoadTokenizer(folder.path());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (size_t i = 0; i < goldens["texts"].size(); ++i) {
      const std::string text = goldens["texts"][i];
      EXPECT_EQ((*tokenizer)->Encode(text, true), row["ids"][i].get<Ids>())
          << row["config"] << " of " << model << ": '" << text << "'";
    }
    for (const auto& [content, id] : row["added_tokens"].items()) {
      EXPECT_EQ((*tokenizer)->Decode(Ids{id}, false), content);
      EXPECT_EQ((*tokenizer)->IsSpecial(id), content == "<|im_start|>");
    }
  }
}

// A model file that is truncated at any length or has wrong lengths causes an error, never a crash.
TEST(SpmTokenizer, SurvivesDamagedModels) {
  REQUIRE_SHARED_DATA(shared);
  const std::string model = ReadFile(shared + "/models/stories260K/tokenizer.model");
  ASSERT_FALSE(model.empty());
  std::mt19937 random(2);
  for (int round = 0; round < 400; ++round) {
    std::string damaged = model;
    if (round % 2 == 0) damaged.resize(random() % damaged.size());
    for (int i = 0; i <= round % 3 && !damaged.empty(); ++i) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    const auto tokenizer = NewSpmTokenizer(damaged, {});
    if (tokenizer.ok()) (*tokenizer)->Decode((*tokenizer)->Encode("once upon", true), true);
  }
}

TEST(Tokenizer, ManyThreadsShareOne) {
  REQUIRE_SHARED_DATA(shared);
  for (const char* name : {"gpt2", "tinyllama"}) {
    const auto tokenizer = LoadTokenizer(shared + "/tokenizers/" + name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const std::string text = ReadFile(shared + "/eval/tinyshakespeare/input.txt").substr(0, 50000);
    const Ids expected = (*tokenizer)->Encode(text, true);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        EXPECT_EQ((*tokenizer)->Encode(text, true), expected);
        EXPECT_EQ((*tokenizer)->Decode(expected, true), text);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

}  // namespace
}  // namespace tessera

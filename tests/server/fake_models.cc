#include "tests/server/fake_models.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/base/log.h"
#include "server/text/template/chat_templates.h"
#include "server/text/tokenizer/tokenizer.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera::testing {
namespace {

// The printable character that stands for a byte in GPT-2's byte alphabet.
std::string ByteAsText(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code_point = byte;
  if (!printable(byte)) {
    code_point = 256;
    for (int b = 0; b < byte; ++b) code_point += printable(b) ? 0 : 1;
  }
  std::string text;
  AppendUtf8(static_cast<char32_t>(code_point), &text);
  return text;
}

nlohmann::json AddedToken(int id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

}  // namespace

void WriteByteTokenizer(const std::string& dir, bool with_chat_template) {
  nlohmann::json vocab;
  for (int byte = 0; byte < 256; ++byte) vocab[ByteAsText(byte)] = byte;
  const nlohmann::json tokenizer = {
      {"version", "1.0"},
      {"added_tokens",
       {AddedToken(kFakeBos, "<s>"), AddedToken(kFakeEos, "</s>"),
        AddedToken(kFakeLong, std::string(static_cast<size_t>(kFakeLongBytes), '~'))}},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "ByteLevel"},
        {"add_prefix_space", false},
        {"trim_offsets", true},
        {"use_regex", false}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single",
         {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
          {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
        {"pair", nlohmann::json::array()},
        {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {kFakeBos}}, {"tokens", {"<s>"}}}}}}}},
      {"decoder",
       {{"type", "ByteLevel"},
        {"add_prefix_space", false},
        {"trim_offsets", true},
        {"use_regex", false}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"vocab", vocab},
        {"merges", nlohmann::json::array()}}}};
  nlohmann::json config = {
      {"bos_token", "<s>"}, {"eos_token", "</s>"}, {"tokenizer_class", "PreTrainedTokenizerFast"}};
  if (with_chat_template) {
    config["chat_template"] =
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'forbidden' %}"
        "{{ raise_exception('no such role here') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if tools %}<tools:{{ tools | length }}>{% endif %}"
        "{% if extra is defined %}<{{ extra }}>{% endif %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}";
  }
  std::ofstream(dir + "/tokenizer.json") << tokenizer.dump();
  std::ofstream(dir + "/tokenizer_config.json") << config.dump();
}

std::string MakeTempDir(const std::string& name) {
  std::string dir = (std::filesystem::temp_directory_path() / (name + "_XXXXXX")).string();
  CHECK(mkdtemp(dir.data()) != nullptr) << dir;
  return dir;
}

std::shared_ptr<const ChatTemplates> TemplatesOf(const std::string& source) {
  const std::string dir = MakeTempDir("template");
  std::ofstream(dir + "/chat_template.jinja") << source;
  auto templates = std::make_shared<const ChatTemplates>(ChatTemplates::Load(dir));
  std::filesystem::remove_all(dir);
  return templates;
}

std::vector<ServedModel> FakeModels() {
  std::vector<ServedModel> models;
  for (const char* name : {"bytes", "plain"}) {
    const std::string dir = MakeTempDir(name);
    WriteByteTokenizer(dir, /*with_chat_template=*/models.empty());
    ServedModel& model = models.emplace_back();
    model.name = name;
    model.index = static_cast<int32_t>(models.size()) - 1;
    model.family = "fake";
    model.vocab_size = 300;
    model.max_model_len = kFakeContext;
    model.hidden = 8;
    model.max_prompt_bytes = DefaultMaxPromptBytes(kFakeContext);
    model.eos_ids = {kFakeEos};
    auto tokenizer = LoadTokenizer(dir);
    CHECK(tokenizer.ok()) << tokenizer.status();
    model.tokenizer = *std::move(tokenizer);
    model.special_tokens = model.tokenizer->named_tokens();
    model.chat_templates = std::make_shared<ChatTemplates>(ChatTemplates::Load(dir));
    std::filesystem::remove_all(dir);
  }
  return models;
}

}  // namespace tessera::testing

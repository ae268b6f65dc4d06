// Tests that find a model's chat template and convert messages to its input.
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text/template/chat_template.h"
#include "server/text/template/chat_template_source.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

class ModelDir : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(dir_ / name, std::ios::binary) << text;
  }
  absl::StatusOr<std::optional<ChatTemplateSource>> Load() {
    return LoadChatTemplateSource(dir_.string());
  }
  std::string LoadedText() {
    const auto source = Load();
    if (!source.ok()) return "error: " + std::string(source.status().message());
    return source->has_value() ? (*source)->text : "nothing";
  }

  std::filesystem::path dir_;
};

TEST_F(ModelDir, WithoutTemplate) {
  EXPECT_EQ(LoadedText(), "nothing");
  Write("tokenizer_config.json", R"({"bos_token": "<s>"})");
  EXPECT_EQ(LoadedText(), "nothing");
  Write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_EQ(LoadedText(), "nothing");
}

TEST_F(ModelDir, OfTokenizerConfig) {
  Write("tokenizer_config.json", R"({"chat_template": "a{{ 1 }}\n"})");
  EXPECT_EQ(LoadedText(), "a{{ 1 }}\n");
}

TEST_F(ModelDir, NamedTemplates) {
  Write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "rag", "template": "r"}, {"name": "tool_use", "template": "t"},
            {"name": "default", "template": "d"}]})");
  const auto source = Load();
  ASSERT_TRUE(source.ok() && source->has_value());
  EXPECT_EQ((*source)->text, "d");
  EXPECT_EQ((*source)->tool_use, "t");
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "r"}]})");
  EXPECT_THAT(LoadedText(), HasSubstr("no entry named 'default'"));
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "rag"}]})");
  EXPECT_THAT(LoadedText(), HasSubstr("needs a name and a template"));
}

TEST_F(ModelDir, FilesOfTheirOwnComeFirst) {
  Write("tokenizer_config.json", R"({"chat_template": "config"})");
  Write("chat_template.json", R"({"chat_template": "json"})");
  EXPECT_EQ(LoadedText(), "json");
  Write("chat_template.jinja", "jinja");
  EXPECT_EQ(LoadedText(), "jinja");
}

TEST_F(ModelDir, BrokenFilesAreNamed) {
  Write("tokenizer_config.json", "{");
  EXPECT_THAT(LoadedText(), HasSubstr("tokenizer_config.json: not a JSON object"));
  Write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THAT(LoadedText(), HasSubstr("must be a string or a list"));
}

TEST(MessagesToJson, LeavesOutWhatIsEmpty) {
  ChatMessage user;
  user.role = "user";
  user.content = "H\"i\n";
  ChatMessage call;
  call.role = "assistant";
  call.tool_calls_json =
      R"([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}},
          {"function": {"name": "g", "arguments": "not json"}}])";
  ChatMessage tool;
  tool.role = "tool";
  tool.content = "42";
  tool.tool_call_id = "1";
  tool.name = "f";
  const absl::StatusOr<std::string> json = MessagesToJson({user, call, tool});
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(*json,
            R"([{"role":"user","content":"H\"i\n"},)"
            R"({"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function",)"
            R"("function":{"name":"f","arguments":{"b":1,"a":2}}},)"
            R"({"function":{"name":"g","arguments":"not json"}}]},)"
            R"({"role":"tool","content":"42","name":"f","tool_call_id":"1"}])");
}

TEST(MessagesToJson, NamesTheWrongMessage) {
  const auto error_of = [](const ChatMessage& wrong) {
    ChatMessage fine;
    fine.role = "user";
    return std::string(MessagesToJson({fine, wrong}).status().message());
  };
  ChatMessage message;
  EXPECT_THAT(error_of(message), HasSubstr("message 1: role is empty"));
  message.role = "user";
  message.content = "\xff";
  EXPECT_THAT(error_of(message), HasSubstr("message 1: content is not valid UTF-8"));
  message.content = "";
  message.tool_calls_json = "{}";
  EXPECT_THAT(error_of(message), HasSubstr("must be a JSON array"));
  message.tool_calls_json = "[";
  EXPECT_THAT(error_of(message), HasSubstr("tool_calls_json: not valid JSON"));
  message.tool_calls_json = std::string(100000, '[');
  EXPECT_THAT(error_of(message), HasSubstr("nested too deep"));
}

TEST(ChatTemplate, GivesTheDocumentedVariables) {
  const auto parsed = ChatTemplate::Parse(
      "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ tools is defined }}"
      "{{ documents is defined }}{{ add_generation_prompt }}{{ enable_thinking is defined }}");
  ASSERT_TRUE(parsed.ok());
  ChatTemplateInput input;
  input.messages_json = R"([{"role": "user", "content": "Hi"}])";
  EXPECT_EQ(*(*parsed)->Render(input), "HiFalseFalseTrueFalse");
  input.bos_token = "<s>";
  input.eos_token = "</s>";
  input.tools_json = "[]";
  input.documents_json = "null";
  input.add_generation_prompt = false;
  input.extra_args_json = R"({"enable_thinking": false})";
  EXPECT_EQ(*(*parsed)->Render(input), "<s>Hi</s>TrueTrueFalseTrue");
  input.extra_args_json = R"({"bos_token": "<x>"})";
  EXPECT_EQ(*(*parsed)->Render(input), "<x>Hi</s>TrueTrueFalseFalse");
}

TEST(ChatTemplate, ClockIsTheCallers) {
  const auto parsed = ChatTemplate::Parse("{{ strftime_now('%Y-%m-%d %H:%M') }}");
  ASSERT_TRUE(parsed.ok());
  ChatTemplateInput input;
  input.messages_json = "[]";
  input.now = absl::FromCivil(absl::CivilMinute(2031, 2, 3, 4, 5), absl::LocalTimeZone());
  EXPECT_EQ(*(*parsed)->Render(input), "2031-02-03 04:05");
}

TEST(ChatTemplate, RendersFromManyThreads) {
  const auto parsed = ChatTemplate::Parse(
      "{% macro m(x) %}{{ x|upper }}{% endmacro %}{% set ns = namespace(n=0) %}"
      "{% for i in range(50) %}{% set ns.n = ns.n + i %}{{ m('a' ~ i) }}{% endfor %}{{ ns.n }}");
  ASSERT_TRUE(parsed.ok());
  ChatTemplateInput input;
  input.messages_json = "[]";
  const std::string expected = *(*parsed)->Render(input);
  std::vector<int> num_equal(4, 0);
  std::vector<std::thread> threads;
  for (int& count : num_equal) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) count += *(*parsed)->Render(input) == expected ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(num_equal, ::testing::Each(20));
}

}  // namespace
}  // namespace tessera

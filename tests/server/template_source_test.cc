// Tests that find a model's chat template and convert messages to its input.
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text/template/chat_template_source.h"
#include "server/text/template/chat_templates.h"

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
  // The names and texts of all templates.
  std::string Sources() {
    const absl::StatusOr<ChatTemplateSources> sources = LoadChatTemplateSources(dir_.string());
    if (!sources.ok()) return "error: " + std::string(sources.status().message());
    return absl::StrJoin(*sources, " ", absl::PairFormatter("="));
  }
  // The text that the chosen template renders, or the error.
  std::string Chosen(bool has_tools) {
    const ChatTemplates templates = ChatTemplates::Load(dir_.string());
    const absl::StatusOr<const ChatTemplate*> chosen = templates.Choose(has_tools);
    if (!chosen.ok()) return "error: " + std::string(chosen.status().message());
    ChatTemplateInput input;
    input.messages_json = "[]";
    return (*chosen)->Render(input).value_or("not rendered");
  }

  std::filesystem::path dir_;
};

TEST_F(ModelDir, WithoutTemplate) {
  EXPECT_EQ(Sources(), "");
  Write("tokenizer_config.json", R"({"bos_token": "<s>"})");
  EXPECT_EQ(Sources(), "");
  Write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_EQ(Sources(), "");
  EXPECT_EQ(Chosen(false), "error: has no chat template");
  EXPECT_TRUE(ChatTemplates::Load(dir_.string()).Faults().empty());
  EXPECT_FALSE(ChatTemplates::Load(dir_.string()).CanRender());
}

TEST_F(ModelDir, OfTokenizerConfig) {
  Write("tokenizer_config.json", R"({"chat_template": "a{{ 1 }}\n"})");
  EXPECT_EQ(Sources(), "default=a{{ 1 }}\n");
  EXPECT_EQ(Chosen(true), "a1");
}

TEST_F(ModelDir, NamedTemplates) {
  Write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "rag", "template": "r"}, {"name": "tool_use", "template": "t"},
            {"name": "default", "template": "d"}]})");
  EXPECT_EQ(Sources(), "default=d rag=r tool_use=t");
  EXPECT_EQ(Chosen(false), "d");
  EXPECT_EQ(Chosen(true), "t");
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "r"},
            {"name": "tool_use", "template": "t"}]})");
  const char* const no_default =
      "has no chat template named 'default'; its templates are 'rag', 'tool_use'";
  EXPECT_EQ(Chosen(false), absl::StrCat("error: ", no_default));
  EXPECT_EQ(Chosen(true), "t");
  const ChatTemplates templates = ChatTemplates::Load(dir_.string());
  EXPECT_THAT(templates.Faults(), ::testing::ElementsAre(no_default));
  EXPECT_TRUE(templates.CanRender());
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "rag"}]})");
  EXPECT_THAT(Sources(), HasSubstr("needs a name and a template"));
}

TEST_F(ModelDir, FilesOfTheirOwnComeFirst) {
  Write("tokenizer_config.json", R"({"chat_template": "config"})");
  Write("chat_template.json", R"({"chat_template": "json"})");
  EXPECT_EQ(Sources(), "default=json");
  std::filesystem::create_directories(dir_ / "additional_chat_templates");
  EXPECT_EQ(Sources(), "default=json");
  Write("additional_chat_templates/tool_use.jinja", "tools");
  Write("additional_chat_templates/notes.txt", "no template");
  EXPECT_EQ(Sources(), "tool_use=tools");
  Write("chat_template.jinja", "jinja");
  EXPECT_EQ(Sources(), "default=jinja tool_use=tools");
  EXPECT_EQ(Chosen(false), "jinja");
  EXPECT_EQ(Chosen(true), "tools");
}

TEST_F(ModelDir, BrokenFilesAreNamed) {
  Write("tokenizer_config.json", "{");
  EXPECT_THAT(Sources(), HasSubstr("tokenizer_config.json: not a JSON object"));
  EXPECT_THAT(Chosen(false), HasSubstr("has a chat template that cannot be read: "));
  EXPECT_THAT(ChatTemplates::Load(dir_.string()).Faults(),
              ::testing::ElementsAre(HasSubstr("not a JSON object")));
  Write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THAT(Sources(), HasSubstr("must be a string or a list"));
}

TEST_F(ModelDir, ATemplateThatIsWrongIsNamedWithItsLine) {
  Write("chat_template.jinja", "fine");
  std::filesystem::create_directories(dir_ / "additional_chat_templates");
  Write("additional_chat_templates/tool_use.jinja", "a\n\n{% if %}");
  EXPECT_EQ(Chosen(false), "fine");
  const std::string fault = "has a chat template 'tool_use' that cannot be used: ";
  EXPECT_THAT(Chosen(true), ::testing::StartsWith("error: " + fault + "chat template: line 3: "));
  const ChatTemplates templates = ChatTemplates::Load(dir_.string());
  EXPECT_THAT(templates.Faults(), ::testing::ElementsAre(::testing::StartsWith(fault)));
  EXPECT_TRUE(templates.CanRender());
}

TEST(MessagesToJson, LeavesOutWhatIsAbsent) {
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
  EXPECT_EQ(*json, R"([{"role":"user","content":"H\"i\n"},{"role":"assistant","tool_calls":)" +
                       *call.tool_calls_json +
                       R"(},{"role":"tool","content":"42","name":"f","tool_call_id":"1"}])");
}

TEST(MessagesToJson, KeepsWhatIsEmpty) {
  ChatMessage message;
  message.role = "assistant";
  message.content = "";
  message.name = "";
  message.tool_call_id = "";
  message.reasoning_content = "";
  message.tool_calls_json = "[]";
  EXPECT_EQ(MessagesToJson({message}).value_or("an error"),
            R"([{"thinking":"","role":"assistant","content":"","name":"","tool_call_id":"",)"
            R"("reasoning_content":"","tool_calls":[]}])");
  for (const char* nothing : {"", "null", " null "}) {
    ChatMessage user;
    user.role = "user";
    user.tool_calls_json = nothing;
    EXPECT_EQ(MessagesToJson({user}).value_or("an error"), R"([{"role":"user"}])") << nothing;
  }
}

// Renders one assistant's message that has these tool calls.
std::string RenderCalls(const std::string& source, const std::string& calls, bool parses) {
  ChatMessage message;
  message.role = "assistant";
  message.tool_calls_json = calls;
  message.parse_tool_arguments = parses;
  const absl::StatusOr<std::string> messages = MessagesToJson({message});
  if (!messages.ok()) return "error: " + std::string(messages.status().message());
  ChatTemplateInput input;
  input.messages_json = *messages;
  const absl::StatusOr<std::string> text = (*ChatTemplate::Parse(source))->Render(input);
  return text.ok() ? *text : "error: " + std::string(text.status().message());
}

TEST(MessagesToJson, ArgumentsKeepTheirForm) {
  const std::string text = R"([{"function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}}])";
  const std::string object = R"([{"function": {"name": "f", "arguments": {"b": 1, "a": 2}}}])";
  const std::string append = "{{ 'x' + messages[0].tool_calls[0].function.arguments }}";
  const std::string dump = "{{ messages[0].tool_calls[0].function.arguments | tojson }}";
  EXPECT_EQ(RenderCalls(append, text, false), R"(x{"b": 1, "a": 2})");
  EXPECT_EQ(RenderCalls(dump, text, false), R"("{\"b\": 1, \"a\": 2}")");
  EXPECT_EQ(RenderCalls(dump, text, true), R"({"b": 1, "a": 2})");
  EXPECT_EQ(RenderCalls(dump, object, false), R"({"b": 1, "a": 2})");
  EXPECT_EQ(RenderCalls(dump, object, true), R"({"b": 1, "a": 2})");
  EXPECT_EQ(RenderCalls(append, R"([{"function": {"arguments": "no"}}, 7, {"function": 8}])", true),
            "xno");
}

TEST(MessagesToJson, IntegersKeepAllTheirDigits) {
  const std::string calls =
      R"([{"function": {"arguments": {"a": 18446744073709551615, "b": -98765432109876543210987}}}])";
  const std::string dump = "{{ messages[0].tool_calls[0].function.arguments | tojson }}";
  const std::string target = R"({"a": 18446744073709551615, "b": -98765432109876543210987})";
  EXPECT_EQ(RenderCalls(dump, calls, false), target);
  EXPECT_EQ(RenderCalls(dump, calls, true), target);
  const std::string text =
      R"([{"function": {"arguments": "{\"a\": 18446744073709551615, \"b\": -98765432109876543210987}"}}])";
  EXPECT_EQ(RenderCalls(dump, text, true), target);
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
  EXPECT_EQ(*(*parsed)->Render(input), "HiTrueTrueTrueFalse");
  input.special_tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  input.tools_json = "[]";
  input.documents_json = "null";
  input.add_generation_prompt = false;
  input.extra_args_json = R"({"enable_thinking": false})";
  EXPECT_EQ(*(*parsed)->Render(input), "<s>Hi</s>TrueTrueFalseTrue");
  input.extra_args_json = R"({"bos_token": "<x>"})";
  EXPECT_EQ(*(*parsed)->Render(input), "<x>Hi</s>TrueTrueFalseFalse");
}

TEST(ChatTemplate, ToolsAndDocumentsAreNoneByDefault) {
  ChatTemplateInput input;
  input.messages_json = "[]";
  input.special_tokens = {{"unk_token", "<u>"}, {"image_token", "<i>"}};
  const std::string source =
      "{{ tools is none }}{{ documents is none }}{{ unk_token is defined }}"
      "{{ image_token }}{{ pad_token is defined }}";
  EXPECT_EQ(*(*ChatTemplate::Parse(source))->Render(input), "TrueTrueTrue<i>False");
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

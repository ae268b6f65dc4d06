// Tests of the chat templates of real models against the text that Hugging Face's interpreter
// renders (../shared/data/chat_templates).
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/text/template/chat_template.h"
#include "tests/lib/shared_data.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

std::string ReadFile(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

ChatTemplateInput InputOf(const ordered_json& data) {
  ChatTemplateInput input;
  input.add_generation_prompt = false;
  input.messages_json = data.at("messages").dump();
  // All variables are passed as they were given to jinja2.
  input.extra_args_json = data.dump();
  return input;
}

std::string Shown(const absl::StatusOr<std::string>& text) {
  return text.ok() ? *text : "error: " + std::string(text.status().message());
}

// Renders one case and describes the difference to the expected text; empty if there is none.
std::string Difference(const std::string& source, const ChatTemplateInput& input,
                       const ordered_json& expected) {
  absl::StatusOr<std::unique_ptr<ChatTemplate>> parsed = ChatTemplate::Parse(source);
  const absl::StatusOr<std::string> text =
      parsed.ok() ? (*parsed)->Render(input) : absl::StatusOr<std::string>(parsed.status());
  const bool wants_text = expected.contains("target");
  if (!wants_text) return text.ok() ? "an error was expected, got: " + *text : "";
  const std::string target = expected.at("target").get<std::string>();
  if (text.ok() && *text == target) return "";
  return "expected: " + target + "\n     got: " + Shown(text);
}

TEST(TemplateModels, Vectors) {
  REQUIRE_SHARED_DATA(data);
  const ordered_json cases = ordered_json::parse(ReadFile(data + "/chat_templates/vectors.json"));
  ASSERT_GE(cases.size(), 27u);
  for (const ordered_json& test : cases) {
    const std::string name =
        test.at("set").get<std::string>() + " " + test.at("name").get<std::string>();
    ChatTemplateInput input = InputOf(test.at("data"));
    if (test.contains("now")) {
      absl::CivilDay day;
      ASSERT_TRUE(absl::ParseCivilTime(test.at("now").get<std::string>(), &day)) << name;
      input.now = absl::FromCivil(day, absl::LocalTimeZone()) + absl::Hours(12);
    }
    EXPECT_EQ(Difference(test.at("chat_template").get<std::string>(), input, test), "") << name;
  }
}

TEST(TemplateModels, RenderedFiles) {
  REQUIRE_SHARED_DATA(data);
  const std::string dir = data + "/chat_templates/";
  const ordered_json rendered = ordered_json::parse(ReadFile(dir + "rendered.json"));
  const ordered_json& conversations = rendered.at("cases");
  ASSERT_GE(rendered.at("expected").size(), 80u);
  for (const ordered_json& test : rendered.at("expected")) {
    const std::string file = test.at("template").get<std::string>();
    const size_t index = test.at("case").get<size_t>();
    const std::string source = ReadFile(dir + file);
    ASSERT_FALSE(source.empty()) << file;
    ChatTemplateInput input = InputOf(conversations.at(index));
    // The expected text was rendered with `tools` undefined if there are none, but Render passes
    // none, over which the templates for chats with tools cannot iterate.
    if (file.find("tool_use") != std::string::npos) input.tools_json = "[]";
    EXPECT_EQ(Difference(source, input, test), "") << file << " case " << index;
  }
}

}  // namespace
}  // namespace tessera

// Tests of the template language against the results of jinja2 in tests/golden/jinja.json, which
// tests/golden/make_jinja_goldens.py generates.
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "gtest/gtest.h"
#include "server/text/template/chat_template.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

ordered_json Goldens() {
  std::ifstream stream("tests/golden/jinja.json");
  return ordered_json::parse(stream, nullptr, /*allow_exceptions=*/false);
}

ChatTemplateInput InputOf(const ordered_json& goldens) {
  ChatTemplateInput input;
  input.messages_json = "[]";
  input.extra_args_json = goldens.at("context").dump();
  absl::Time now;
  std::string error;
  EXPECT_TRUE(absl::ParseTime("%Y-%m-%dT%H:%M:%S", goldens.at("now").get<std::string>(),
                              absl::LocalTimeZone(), &now, &error))
      << error;
  input.now = now;
  return input;
}

absl::StatusOr<std::string> RenderSource(const std::string& source,
                                         const ChatTemplateInput& input) {
  absl::StatusOr<std::unique_ptr<ChatTemplate>> parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->Render(input);
}

TEST(TemplateLanguage, RendersAsJinja2) {
  const ordered_json goldens = Goldens();
  ASSERT_TRUE(goldens.is_object()) << "tests/golden/jinja.json is missing";
  const ChatTemplateInput input = InputOf(goldens);
  ASSERT_GT(goldens.at("cases").size(), 800u);
  for (const ordered_json& test : goldens.at("cases")) {
    const std::string source = test.at("template").get<std::string>();
    const absl::StatusOr<std::string> text = RenderSource(source, input);
    if (test.contains("error")) {
      EXPECT_FALSE(text.ok()) << source << "\nmust fail with " << test.at("error") << ": "
                              << test.at("message") << "\nbut gives: " << *text;
      continue;
    }
    const std::string target = test.at("target").get<std::string>();
    EXPECT_TRUE(text.ok() && *text == target)
        << source << "\nexpected: " << target
        << "\n     got: " << (text.ok() ? *text : "error: " + std::string(text.status().message()));
  }
}

TEST(TemplateLanguage, RandomIsDeterminedByTheTime) {
  const std::string source = "{% for i in range(40) %}{{ range(10) | random }}{% endfor %}";
  const auto at = [&](int64_t second) {
    ChatTemplateInput input;
    input.messages_json = "[]";
    input.now = absl::FromUnixSeconds(second);
    return RenderSource(source, input).value_or("an error");
  };
  const std::string text = at(1);
  EXPECT_EQ(text.size(), 40u);
  EXPECT_EQ(at(1), text);
  EXPECT_NE(at(2), text);
  for (const char digit : std::string("0123456789")) {
    EXPECT_NE((at(1) + at(2) + at(3) + at(4)).find(digit), std::string::npos) << digit;
  }
}

}  // namespace
}  // namespace tessera

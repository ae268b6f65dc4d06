// Tests of the choice of a chat template and of its variables against the results of Hugging Face's
// apply_chat_template in tests/golden/chat_templates.json, which
// tests/golden/make_chat_template_goldens.py generates.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "server/call/prompt.h"
#include "server/call/served_model.h"
#include "server/text/template/chat_templates.h"
#include "server/text/tokenizer/tokenizer.h"
#include "tessera/v1/inference.pb.h"
#include "tests/server/fake_models.h"

namespace tessera::testing {
namespace {

using nlohmann::ordered_json;

void Write(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

// The parts of a model that chats need, from the folder that the case describes.
ServedModel ModelOf(const ordered_json& test) {
  const std::string dir = MakeTempDir("chat_golden");
  WriteByteTokenizer(dir, /*with_chat_template=*/false);
  Write(dir + "/tokenizer_config.json", test.at("config").dump());
  const ordered_json files = test.value("files", ordered_json::object());
  for (const auto& [name, text] : files.items()) {
    Write(dir + "/" + name, text.get<std::string>());
  }
  ServedModel model;
  model.name = "golden";
  model.max_model_len = kFakeContext;
  model.max_prompt_bytes = DefaultMaxPromptBytes(kFakeContext);
  auto tokenizer = LoadTokenizer(dir);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  model.tokenizer = *std::move(tokenizer);
  model.special_tokens = model.tokenizer->named_tokens();
  model.chat_templates = std::make_shared<ChatTemplates>(ChatTemplates::Load(dir));
  std::filesystem::remove_all(dir);
  return model;
}

v1::ChatPrompt PromptOf(const ordered_json& test) {
  v1::ChatPrompt chat;
  for (const ordered_json& message : test.at("messages")) {
    v1::ChatMessage* wire = chat.add_messages();
    for (const auto& [name, text] : message.items()) {
      const auto* field = v1::ChatMessage::descriptor()->FindFieldByName(name);
      wire->GetReflection()->SetString(wire, field, text.get<std::string>());
    }
  }
  if (test.contains("tools")) chat.set_tools_json(test.at("tools").get<std::string>());
  if (test.contains("args")) chat.set_template_args_json(test.at("args").get<std::string>());
  chat.set_add_generation_prompt(test.value("add_generation_prompt", true));
  return chat;
}

TEST(ChatGolden, RendersAsHuggingFace) {
  std::ifstream stream("tests/golden/chat_templates.json");
  const ordered_json cases = ordered_json::parse(stream, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(cases.is_array()) << "tests/golden/chat_templates.json is missing";
  ASSERT_GE(cases.size(), 35u);
  for (const ordered_json& test : cases) {
    const absl::StatusOr<RenderedChat> chat = RenderChat(PromptOf(test), ModelOf(test));
    if (test.contains("error")) {
      EXPECT_EQ(chat.status().code(), absl::StatusCode::kFailedPrecondition) << test << "\n"
                                                                             << chat.status();
      continue;
    }
    EXPECT_TRUE(chat.ok() && chat->text == test.at("target").get<std::string>())
        << test
        << "\n     got: " << (chat.ok() ? chat->text : std::string(chat.status().message()));
  }
}

}  // namespace
}  // namespace tessera::testing

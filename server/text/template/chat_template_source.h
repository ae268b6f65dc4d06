// Finds the chat template in a model's folder. Called at load time; any thread.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

struct ChatTemplateSource {
  std::string text;
  // The separate template for conversations with tools, if the model has one.
  std::optional<std::string> tool_use;
};

// Reads the first template found in chat_template.jinja, chat_template.json and the member
// `chat_template` of tokenizer_config.json, which may be a list of named templates ("default",
// "tool_use"). Returns nullopt if the model has no template.
absl::StatusOr<std::optional<ChatTemplateSource>> LoadChatTemplateSource(
    const std::string& model_dir);

}  // namespace tessera

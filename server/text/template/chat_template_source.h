// Finds the chat template that a model directory ships.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

struct ChatTemplateSource {
  std::string text;
  // For conversations with tools, where the model has a template of its own for them.
  std::optional<std::string> tool_use;
};

// Reads, first found: chat_template.jinja, chat_template.json, and `chat_template` of
// tokenizer_config.json, which may be a list of named templates ("default", "tool_use"). Nothing if
// the model has none.
absl::StatusOr<std::optional<ChatTemplateSource>> LoadChatTemplateSource(
    const std::string& model_dir);

}  // namespace tessera

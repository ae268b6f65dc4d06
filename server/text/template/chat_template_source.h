// Finds the chat templates in a model's folder. Called at load time; any thread.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

// The texts of templates by their names. A template without a name is called "default".
using ChatTemplateSources = std::map<std::string, std::string>;

// Reads the templates of the first place that has any: the files chat_template.jinja ("default")
// and additional_chat_templates/NAME.jinja; chat_template.json; and the member `chat_template` of
// tokenizer_config.json. In the last two, a list has named templates. The result is empty if the
// model has no template.
absl::StatusOr<ChatTemplateSources> LoadChatTemplateSources(const std::string& model_dir);

}  // namespace tessera

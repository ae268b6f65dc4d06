// The chat templates of a model by name: most models have one, "default"; some have a further one
// for chats with tools. Loaded with the model and immutable afterwards; any thread may read.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/text/template/chat_template.h"

namespace tessera {

class ChatTemplates final {
 public:
  // Reads and parses the templates in a model's folder. A template that cannot be used is not an
  // error here, because the model still serves other calls; Choose returns the fault.
  static ChatTemplates Load(const std::string& model_dir);

  // Chooses the template as Hugging Face does: "tool_use" if the chat has tools and there is such a
  // template, else "default". The message of an error continues a sentence that starts with the
  // model, such as "has no chat template". The result lives as long as *this.
  absl::StatusOr<const ChatTemplate*> Choose(bool has_tools) const;

  // Returns true if at least chats with tools can be rendered, or chats without tools.
  bool CanRender() const { return Choose(false).ok() || Choose(true).ok(); }
  // Describes the files and templates that cannot be used, for the log.
  std::vector<std::string> Faults() const;

 private:
  absl::Status files_;  // the fault of the files; OK if all were read
  std::map<std::string, absl::StatusOr<std::unique_ptr<ChatTemplate>>> by_name_;
};

}  // namespace tessera

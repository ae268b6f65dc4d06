// A chat template: the jinja2 program, shipped with a model, that turns a conversation into the
// text of a prompt. A template is parsed once when its model loads; it is immutable afterwards, and
// any thread may call Render. Templates and conversations are not trusted: Render always ends in
// bounded time and memory, with the text or with an error that names the template's line.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/text/template/budget.h"

namespace tessera {

namespace jinja {
struct ParsedTemplate;
}  // namespace jinja

// The texts of the special tokens by their names, such as {"bos_token", "<s>"}.
using SpecialTokens = std::vector<std::pair<std::string, std::string>>;

// The variables of a template, as Hugging Face's apply_chat_template passes them.
struct ChatTemplateInput {
  // A JSON array of messages {"role": ..., "content": ..., ...}. A message may have any other
  // members that the template reads.
  std::string messages_json;
  // A JSON array of function definitions, the variable `tools`; absent: `tools` is none.
  std::optional<std::string> tools_json;
  // A JSON array of documents, the variable `documents`; absent: `documents` is none.
  std::optional<std::string> documents_json;
  // A JSON object of further variables such as "enable_thinking". These variables override all
  // other variables.
  std::optional<std::string> extra_args_json;
  // Each token is a variable. A name that is not in the list is undefined.
  SpecialTokens special_tokens;
  // Whether the prompt ends with the start of an assistant's message.
  bool add_generation_prompt = true;
  // The time that strftime_now formats and that seeds the filter `random`; absent: the time of the
  // call.
  std::optional<absl::Time> now;
};

class ChatTemplate final {
 public:
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(absl::string_view source);
  ~ChatTemplate();

  absl::StatusOr<std::string> Render(const ChatTemplateInput& input,
                                     const jinja::RenderLimits& limits = {}) const;

 private:
  explicit ChatTemplate(std::unique_ptr<jinja::ParsedTemplate> parsed);
  const std::unique_ptr<jinja::ParsedTemplate> parsed_;
};

// One message of a conversation, for callers whose messages are not JSON. The template sees no
// member for an absent field.
struct ChatMessage {
  std::string role;  // not empty
  std::optional<std::string> content;
  std::optional<std::string> name;
  // A JSON array of {"id", "type", "function": {"name", "arguments"}}. Absent, empty or "null": the
  // message has no member `tool_calls`.
  std::optional<std::string> tool_calls_json;
  // Replaces `arguments` that are a string with the text of a JSON object by that object. By
  // default the template sees the arguments in the form in which they are given.
  bool parse_tool_arguments = false;
  std::optional<std::string> tool_call_id;
  // The template also sees this text as the member `thinking`.
  std::optional<std::string> reasoning_content;
};

// Converts the messages to a JSON array. An error names the wrong message.
absl::StatusOr<std::string> MessagesToJson(const std::vector<ChatMessage>& messages);

}  // namespace tessera

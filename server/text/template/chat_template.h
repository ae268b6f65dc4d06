// A chat template: the jinja2 program, shipped with a model, that turns a conversation into the
// text of a prompt. A template is parsed once when its model loads; it is immutable afterwards, and
// any thread may call Render. Templates and conversations are not trusted: Render always ends in
// bounded time and memory, with the text or with an error that names the template's line.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/text/template/budget.h"

namespace tessera {

namespace jinja {
struct ParsedTemplate;
}  // namespace jinja

struct ChatTemplateInput {
  // A JSON array of messages {"role": ..., "content": ..., ...}. A message may have any other
  // members that the template reads.
  std::string messages_json;
  // A JSON array of function definitions, the variable `tools`; absent: `tools` is undefined.
  std::optional<std::string> tools_json;
  // A JSON array of documents, the variable `documents`; absent: `documents` is undefined.
  std::optional<std::string> documents_json;
  // A JSON object of further variables such as "enable_thinking". These variables override all
  // other variables.
  std::optional<std::string> extra_args_json;
  // The texts of the BOS and EOS tokens; absent: the variable is undefined.
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  // Whether the prompt ends with the start of an assistant's message.
  bool add_generation_prompt = true;
  // The time that strftime_now formats; absent: the time of the call.
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

// One message of a conversation, for callers whose messages are not JSON.
struct ChatMessage {
  std::string role;
  // Absent: the content is null, as in a message that only calls tools.
  std::optional<std::string> content;
  std::string name;
  // A JSON array of {"id", "type", "function": {"name", "arguments"}}; empty: no tool calls.
  // Templates expect `arguments` as an object, so a string that contains a JSON object is parsed to
  // that object.
  std::string tool_calls_json;
  std::string tool_call_id;
  std::string reasoning_content;
};

// Converts the messages to a JSON array without their empty fields. An error names the wrong
// message.
absl::StatusOr<std::string> MessagesToJson(const std::vector<ChatMessage>& messages);

}  // namespace tessera

// Chat templates: how a model wants a conversation spelled as one prompt, written in jinja2 by the
// model's authors and shipped with it. Parsed once when the model is loaded; Render is const and
// safe from any thread. Templates and conversations are foreign: whatever they do, Render ends in
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
  // A JSON array of {"role": ..., "content": ...} and whatever else the template reads.
  std::string messages_json;
  // A JSON array of function definitions; absent: `tools` is undefined. The same for `documents`.
  std::optional<std::string> tools_json;
  std::optional<std::string> documents_json;
  // A JSON object of further variables ("enable_thinking"), which override all others; absent:
  // none.
  std::optional<std::string> extra_args_json;
  // The tokens as text; absent: undefined.
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  // Whether the prompt ends where the assistant's answer begins.
  bool add_generation_prompt = true;
  // What strftime_now tells; absent: the time of the call.
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

// One message of a conversation, for callers that do not have it as JSON.
struct ChatMessage {
  std::string role;
  // Absent: null, as in a message that only calls tools.
  std::optional<std::string> content;
  std::string name;
  // A JSON array of {"id", "type", "function": {"name", "arguments"}}; empty: none. Arguments that
  // are the text of a JSON object become that object, which is what templates expect.
  std::string tool_calls_json;
  std::string tool_call_id;
  std::string reasoning_content;
};

// Empty fields are left out. An error says which message is wrong.
absl::StatusOr<std::string> MessagesToJson(const std::vector<ChatMessage>& messages);

}  // namespace tessera

#include "server/text/template/chat_template.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/text/template/builtins.h"
#include "server/text/template/interpreter.h"
#include "server/text/template/json_text.h"
#include "server/text/template/parser.h"
#include "server/text/template/unicode.h"

namespace tessera {

namespace jinja {
struct ParsedTemplate {
  Body body;
};
}  // namespace jinja

namespace {

using nlohmann::ordered_json;

absl::Status WithContext(absl::string_view context, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(context, ": ", absl::string_view(status.message())));
}

absl::Status SetJson(absl::string_view name, const std::optional<std::string>& text,
                     jinja::Scope* scope) {
  if (!text.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(jinja::Value value, jinja::ParseJson(name, *text));
  scope->Set(name, std::move(value));
  return absl::OkStatus();
}

absl::Status SetText(absl::string_view name, const std::optional<std::string>& text,
                     jinja::Scope* scope) {
  if (!text.has_value()) return absl::OkStatus();
  if (!jinja::IsValidUtf8(*text)) return jinja::Error(name, " is not valid UTF-8");
  scope->Set(name, jinja::Value::String(*text));
  return absl::OkStatus();
}

absl::Status SetVariables(const ChatTemplateInput& input, jinja::Scope* scope) {
  RETURN_IF_ERROR(SetJson("messages", input.messages_json, scope));
  RETURN_IF_ERROR(SetJson("tools", input.tools_json, scope));
  RETURN_IF_ERROR(SetJson("documents", input.documents_json, scope));
  RETURN_IF_ERROR(SetText("bos_token", input.bos_token, scope));
  RETURN_IF_ERROR(SetText("eos_token", input.eos_token, scope));
  scope->Set("add_generation_prompt", jinja::Value::Bool(input.add_generation_prompt));
  if (!input.extra_args_json.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const jinja::Value extra,
                   jinja::ParseJson("template arguments", *input.extra_args_json));
  if (!extra.is_dict()) return jinja::Error("template arguments: must be a JSON object");
  for (const auto& [name, value] : extra.dict().entries()) scope->Set(name.text(), value);
  return absl::OkStatus();
}

// Parses JSON without exceptions. The result is discarded (is_discarded) if the text is not JSON.
ordered_json ParseQuietly(absl::string_view text) {
  return ordered_json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

// Replaces arguments that are a string with a JSON object by that object. The string stays as it is
// if the template values cannot represent the object (nested too deep, integers beyond 64 bits).
void UnpackArguments(ordered_json* call) {
  if (!call->is_object() || !call->contains("function")) return;
  ordered_json& function = (*call)["function"];
  if (!function.is_object() || !function.contains("arguments")) return;
  ordered_json& arguments = function["arguments"];
  if (!arguments.is_string()) return;
  const std::string& text = arguments.get_ref<const std::string&>();
  // ParseJson checks the nesting before the recursive code below runs.
  if (!jinja::ParseJson("arguments", text).ok()) return;
  ordered_json parsed = ParseQuietly(text);
  if (parsed.is_object()) arguments = std::move(parsed);
}

absl::StatusOr<ordered_json> MessageToJson(const ChatMessage& message) {
  for (const std::string* text :
       {&message.role, &message.name, &message.tool_call_id, &message.reasoning_content}) {
    if (!jinja::IsValidUtf8(*text)) return jinja::Error("it is not valid UTF-8");
  }
  if (message.role.empty())
    return jinja::Error("role is empty; give system, user, assistant or tool");
  ordered_json json = {{"role", message.role}};
  json["content"] = nullptr;
  if (message.content.has_value()) {
    if (!jinja::IsValidUtf8(*message.content)) return jinja::Error("content is not valid UTF-8");
    json["content"] = *message.content;
  }
  if (!message.name.empty()) json["name"] = message.name;
  if (!message.tool_call_id.empty()) json["tool_call_id"] = message.tool_call_id;
  if (!message.reasoning_content.empty()) json["reasoning_content"] = message.reasoning_content;
  if (message.tool_calls_json.empty()) return json;
  // ParseJson checks the nesting before the recursive code below runs.
  RETURN_IF_ERROR(jinja::ParseJson("tool_calls_json", message.tool_calls_json).status());
  ordered_json calls = ParseQuietly(message.tool_calls_json);
  if (!calls.is_array()) return jinja::Error("tool_calls_json: must be a JSON array");
  for (ordered_json& call : calls) UnpackArguments(&call);
  json["tool_calls"] = std::move(calls);
  return json;
}

}  // namespace

ChatTemplate::ChatTemplate(std::unique_ptr<jinja::ParsedTemplate> parsed)
    : parsed_(std::move(parsed)) {}

ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(absl::string_view source) {
  absl::StatusOr<jinja::Body> body = jinja::ParseTemplate(source);
  if (!body.ok()) return WithContext("chat template", body.status());
  auto parsed = std::make_unique<jinja::ParsedTemplate>();
  parsed->body = *std::move(body);
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(parsed)));
}

absl::StatusOr<std::string> ChatTemplate::Render(const ChatTemplateInput& input,
                                                 const jinja::RenderLimits& limits) const {
  jinja::RenderState state(limits);
  const std::shared_ptr<jinja::Scope> globals = jinja::NewScope(nullptr);
  jinja::AddBuiltins(input.now.value_or(absl::Now()), globals.get());
  const std::shared_ptr<jinja::Scope> variables = jinja::NewScope(globals);
  RETURN_IF_ERROR(SetVariables(input, variables.get()));
  state.scope = jinja::NewScope(variables);
  absl::StatusOr<std::string> text = jinja::RunTemplate(parsed_->body, &state);
  if (!text.ok()) return WithContext("chat template", text.status());
  return text;
}

absl::StatusOr<std::string> MessagesToJson(const std::vector<ChatMessage>& messages) {
  ordered_json list = ordered_json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    absl::StatusOr<ordered_json> message = MessageToJson(messages[i]);
    if (!message.ok()) return WithContext(absl::StrCat("message ", i), message.status());
    list.push_back(*std::move(message));
  }
  return list.dump();
}

}  // namespace tessera

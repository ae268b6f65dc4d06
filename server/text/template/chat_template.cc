#include "server/text/template/chat_template.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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

absl::Status WithContext(absl::string_view context, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(context, ": ", absl::string_view(status.message())));
}

// Sets a variable from its JSON text; the variable is none without a text.
absl::Status SetJson(absl::string_view name, const std::optional<std::string>& text,
                     jinja::Scope* scope) {
  jinja::Value value = jinja::Value::None();
  if (text.has_value()) {
    ASSIGN_OR_RETURN(value, jinja::ParseJson(name, *text));
  }
  scope->Set(name, std::move(value));
  return absl::OkStatus();
}

absl::Status SetSpecialTokens(const SpecialTokens& tokens, jinja::Scope* scope) {
  for (const auto& [name, text] : tokens) {
    if (!jinja::IsValidUtf8(text)) return jinja::Error(name, " is not valid UTF-8");
    scope->Set(name, jinja::Value::String(text));
  }
  return absl::OkStatus();
}

absl::Status SetVariables(const ChatTemplateInput& input, jinja::Scope* scope) {
  RETURN_IF_ERROR(SetJson("messages", input.messages_json, scope));
  RETURN_IF_ERROR(SetJson("tools", input.tools_json, scope));
  RETURN_IF_ERROR(SetJson("documents", input.documents_json, scope));
  RETURN_IF_ERROR(SetSpecialTokens(input.special_tokens, scope));
  scope->Set("add_generation_prompt", jinja::Value::Bool(input.add_generation_prompt));
  if (!input.extra_args_json.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const jinja::Value extra,
                   jinja::ParseJson("template arguments", *input.extra_args_json));
  if (!extra.is_dict()) return jinja::Error("template arguments: must be a JSON object");
  for (const auto& [name, value] : extra.dict().entries()) scope->Set(name.text(), value);
  return absl::OkStatus();
}

// A copy of the mapping with another value for a key. REQUIRES: `mapping` is a dict.
jinja::Value With(const jinja::Value& mapping, absl::string_view name, jinja::Value value) {
  auto copy = std::make_shared<jinja::Dict>(mapping.dict());
  copy->Set(jinja::Value::String(std::string(name)), std::move(value));
  return jinja::Value::FromDict(std::move(copy));
}

// Returns the tool call with its arguments as an object, if the arguments are the text of one.
jinja::Value WithParsedArguments(const jinja::Value& call) {
  const jinja::Value* function = call.is_dict() ? call.dict().Find("function") : nullptr;
  if (function == nullptr || !function->is_dict()) return call;
  const jinja::Value* arguments = function->dict().Find("arguments");
  if (arguments == nullptr || !arguments->is_string()) return call;
  absl::StatusOr<jinja::Value> parsed = jinja::ParseJson("arguments", arguments->text());
  if (!parsed.ok() || !parsed->is_dict()) return call;
  return With(call, "function", With(*function, "arguments", *std::move(parsed)));
}

// Returns the message's tool calls as JSON text; nullopt if the message has none.
absl::StatusOr<std::optional<std::string>> ToolCalls(const ChatMessage& message) {
  const std::string text = message.tool_calls_json.value_or("");
  if (text.empty()) return std::optional<std::string>();
  ASSIGN_OR_RETURN(const jinja::Value calls, jinja::ParseJson("tool_calls_json", text));
  if (calls.is_none()) return std::optional<std::string>();
  if (!calls.Is(jinja::Kind::kList)) return jinja::Error("tool_calls_json: must be a JSON array");
  if (!message.parse_tool_arguments) return std::optional<std::string>(text);
  std::vector<jinja::Value> parsed;
  for (const jinja::Value& call : calls.items()) parsed.push_back(WithParsedArguments(call));
  jinja::Budget budget{jinja::RenderLimits()};
  ASSIGN_OR_RETURN(const jinja::Value list, jinja::MakeList(budget, std::move(parsed)));
  ASSIGN_OR_RETURN(std::string json, jinja::ToJson(budget, list, jinja::JsonStyle()));
  return std::optional<std::string>(std::move(json));
}

absl::StatusOr<std::string> MessageToJson(const ChatMessage& message) {
  if (message.role.empty())
    return jinja::Error("role is empty; give system, user, assistant or tool");
  const auto if_given = [](const std::optional<std::string>& text) {
    return text.has_value() ? &*text : nullptr;
  };
  const std::pair<absl::string_view, const std::string*> texts[] = {
      {"thinking", if_given(message.reasoning_content)},
      {"role", &message.role},
      {"content", if_given(message.content)},
      {"name", if_given(message.name)},
      {"tool_call_id", if_given(message.tool_call_id)},
      {"reasoning_content", if_given(message.reasoning_content)}};
  std::vector<std::string> members;
  for (const auto& [name, text] : texts) {
    if (text == nullptr) continue;
    if (!jinja::IsValidUtf8(*text)) return jinja::Error(name, " is not valid UTF-8");
    members.push_back(absl::StrCat("\"", name, "\":", nlohmann::json(*text).dump()));
  }
  ASSIGN_OR_RETURN(const std::optional<std::string> calls, ToolCalls(message));
  if (calls.has_value()) members.push_back(absl::StrCat("\"tool_calls\":", *calls));
  return absl::StrCat("{", absl::StrJoin(members, ","), "}");
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
  const absl::Time now = input.now.value_or(absl::Now());
  jinja::RenderState state(limits, static_cast<uint64_t>(absl::ToUnixNanos(now)));
  const std::shared_ptr<jinja::Scope> globals = jinja::NewScope(nullptr);
  jinja::AddBuiltins(now, globals.get());
  const std::shared_ptr<jinja::Scope> variables = jinja::NewScope(globals);
  RETURN_IF_ERROR(SetVariables(input, variables.get()));
  state.scope = jinja::NewScope(variables);
  absl::StatusOr<std::string> text = jinja::RunTemplate(parsed_->body, &state);
  if (!text.ok()) return WithContext("chat template", text.status());
  return text;
}

absl::StatusOr<std::string> MessagesToJson(const std::vector<ChatMessage>& messages) {
  std::vector<std::string> list;
  for (size_t i = 0; i < messages.size(); ++i) {
    absl::StatusOr<std::string> message = MessageToJson(messages[i]);
    if (!message.ok()) return WithContext(absl::StrCat("message ", i), message.status());
    list.push_back(*std::move(message));
  }
  return absl::StrCat("[", absl::StrJoin(list, ","), "]");
}

}  // namespace tessera

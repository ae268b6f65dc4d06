#include "server/call/prompt.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/call/errors.h"
#include "server/call/limits.h"
#include "server/call/params.h"
#include "server/call/served_model.h"
#include "server/text/template/chat_templates.h"
#include "server/text/template/json_text.h"
#include "server/text/tokenizer/tokenizer.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

using TokenIds = std::vector<TokenId>;

absl::StatusOr<TokenIds> EncodeText(absl::string_view field, const std::string& text,
                                    bool add_special, const ServedModel& model) {
  if (text.empty()) return FieldError(field, "is empty; give at least one character");
  RETURN_IF_ERROR(CheckTextSize(field, static_cast<int64_t>(text.size()), model));
  return model.tokenizer->Encode(text, add_special);
}

absl::StatusOr<TokenIds> TakeIds(absl::string_view field, const v1::TokenIds& ids,
                                 const ServedModel& model) {
  if (ids.ids().empty()) return FieldError(field, "is empty; give at least one token id");
  RETURN_IF_ERROR(CheckTokenIds(field, ids.ids().data(), ids.ids_size(), model));
  return TokenIds(ids.ids().begin(), ids.ids().end());
}

absl::StatusOr<TokenIds> FitsContext(TokenIds ids, const ServedModel& model,
                                     absl::string_view what = "the prompt") {
  const auto count = static_cast<int64_t>(ids.size());
  if (count > 0 && count < model.max_model_len) return ids;
  if (count == 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, "EMPTY_PROMPT",
                     absl::StrCat(what, " has no tokens; give some text or token ids"));
  }
  return MakeError(absl::StatusCode::kInvalidArgument, "PROMPT_TOO_LONG",
                   absl::StrCat(what, " has ", count, " tokens and fills the context of model '",
                                model.name, "' (", model.max_model_len,
                                " tokens of prompt and output); shorten it to at most ",
                                model.max_model_len - 1));
}

absl::StatusOr<TokenIds> EncodeParts(const v1::Parts& parts, const ServedModel& model) {
  if (parts.parts().empty()) return FieldError("parts", "is empty; give at least one part");
  if (parts.parts_size() > kMaxParts) {
    return FieldError("parts",
                      absl::StrCat("has ", parts.parts_size(), " parts; give at most ", kMaxParts));
  }
  TokenIds all;
  int64_t bytes = 0;
  for (int i = 0; i < parts.parts_size(); ++i) {
    const v1::Part& part = parts.parts(i);
    const std::string field = absl::StrCat("parts[", i, "]");
    if (part.document_id().size() > static_cast<size_t>(kMaxNameBytes)) {
      return FieldError(absl::StrCat(field, ".document_id"),
                        absl::StrCat("is longer than ", kMaxNameBytes, " bytes"));
    }
    absl::StatusOr<TokenIds> ids;
    switch (part.content_case()) {
      case v1::Part::kText:
        bytes += static_cast<int64_t>(part.text().size());
        RETURN_IF_ERROR(CheckTextSize("parts", bytes, model));
        ids = EncodeText(field, part.text(), /*add_special=*/i == 0, model);
        break;
      case v1::Part::kTokenIds:
        ids = TakeIds(field, part.token_ids(), model);
        break;
      case v1::Part::CONTENT_NOT_SET:
        ids = FieldError(field, "has no content; set text or token_ids");
        break;
    }
    RETURN_IF_ERROR(ids.status());
    all.insert(all.end(), ids->begin(), ids->end());
    if (static_cast<int64_t>(all.size()) >= model.max_model_len) break;  // FitsContext refuses it
  }
  return all;
}

absl::StatusOr<std::vector<ChatMessage>> ReadMessages(const v1::ChatPrompt& chat,
                                                      const ServedModel& model) {
  if (chat.messages().empty()) return FieldError("messages", "is empty; give at least one message");
  if (chat.messages_size() > kMaxChatMessages) {
    return FieldError("messages", absl::StrCat("has ", chat.messages_size(),
                                               " messages; give at most ", kMaxChatMessages));
  }
  int64_t bytes = static_cast<int64_t>(chat.tools_json().size() + chat.template_args_json().size());
  std::vector<ChatMessage> messages;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& wire = chat.messages(i);
    if (wire.role().empty()) {
      return FieldError(absl::StrCat("messages[", i, "].role"),
                        "is empty; give a role, e.g. \"user\"");
    }
    bytes += static_cast<int64_t>(wire.ByteSizeLong());
    RETURN_IF_ERROR(CheckTextSize("messages", bytes, model));
    ChatMessage& message = messages.emplace_back();
    message.role = wire.role();
    if (wire.has_content()) message.content = wire.content();
    if (wire.has_name()) message.name = wire.name();
    if (wire.has_tool_calls_json()) message.tool_calls_json = wire.tool_calls_json();
    message.parse_tool_arguments = wire.parse_tool_arguments();
    if (wire.has_tool_call_id()) message.tool_call_id = wire.tool_call_id();
    if (wire.has_reasoning_content()) message.reasoning_content = wire.reasoning_content();
  }
  return messages;
}

// ReadTools and ReadTemplateArgs check their fields before the template runs, so that a JSON error
// names its field and is not reported as CHAT_TEMPLATE_REFUSED.

// Returns nullopt if the request has no tools: the field is absent, null or an empty list.
absl::StatusOr<std::optional<std::string>> ReadTools(const v1::ChatPrompt& chat) {
  if (!chat.has_tools_json()) return std::optional<std::string>();
  const auto tools = jinja::ParseJson("the text", chat.tools_json());
  if (tools.ok() && !tools->Truthy() && (tools->is_none() || tools->is_list_like())) {
    return std::optional<std::string>();
  }
  if (tools.ok() && tools->is_list_like()) return std::optional<std::string>(chat.tools_json());
  return FieldError("tools_json",
                    absl::StrCat("must be a JSON array of tool definitions; ",
                                 tools.ok() ? "it is something else" : tools.status().message()));
}

absl::StatusOr<std::optional<std::string>> ReadTemplateArgs(const v1::ChatPrompt& chat) {
  if (!chat.has_template_args_json()) return std::optional<std::string>();
  const auto args = jinja::ParseJson("the text", chat.template_args_json());
  if (args.ok() && args->is_dict()) return std::optional<std::string>(chat.template_args_json());
  return FieldError("template_args_json",
                    absl::StrCat("must be a JSON object; ",
                                 args.ok() ? "it is something else" : args.status().message()));
}

}  // namespace

absl::Status CheckTextSize(absl::string_view field, int64_t bytes, const ServedModel& model) {
  if (bytes <= model.max_prompt_bytes) return absl::OkStatus();
  return FieldError(
      field, absl::StrCat("has ", bytes, " bytes of text; model '", model.name, "' takes at most ",
                          model.max_prompt_bytes, " (its context is ", model.max_model_len,
                          " tokens); shorten it"));
}

absl::StatusOr<std::string> RenderChat(const v1::ChatPrompt& chat, const ServedModel& model,
                                       absl::Duration render_time) {
  ASSIGN_OR_RETURN(const std::optional<std::string> tools, ReadTools(chat));
  const absl::StatusOr<const ChatTemplate*> chosen =
      model.chat_templates->Choose(/*has_tools=*/tools.has_value());
  if (!chosen.ok()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_CHAT_TEMPLATE",
                     absl::StrCat("model '", model.name, "' ", chosen.status().message(),
                                  "; send the whole prompt to Generate"));
  }
  ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, ReadMessages(chat, model));
  ChatTemplateInput input;
  absl::StatusOr<std::string> json = MessagesToJson(messages);
  if (!json.ok()) return FieldError("messages", json.status().message());
  input.messages_json = *std::move(json);
  input.tools_json = tools;
  ASSIGN_OR_RETURN(input.extra_args_json, ReadTemplateArgs(chat));
  input.add_generation_prompt = !chat.has_add_generation_prompt() || chat.add_generation_prompt();
  input.special_tokens = model.special_tokens;
  jinja::RenderLimits limits;
  limits.max_time = std::min(render_time, model.template_time);
  absl::StatusOr<std::string> text = (*chosen)->Render(input, limits);
  if (absl::IsDeadlineExceeded(text.status()) && render_time < model.template_time) {
    return text.status();
  }
  if (!text.ok()) {
    return MakeError(absl::StatusCode::kInvalidArgument, "CHAT_TEMPLATE_REFUSED",
                     absl::StrCat("the chat template of model '", model.name,
                                  "' refuses the request: ", text.status().message()));
  }
  RETURN_IF_ERROR(CheckTextSize("messages", static_cast<int64_t>(text->size()), model));
  return text;
}

absl::StatusOr<TokenIds> ReadPrompt(const v1::GenerateRequest& request, const ServedModel& model) {
  absl::StatusOr<TokenIds> ids;
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      ids = EncodeText("text", request.text(), /*add_special=*/true, model);
      break;
    case v1::GenerateRequest::kTokenIds:
      ids = TakeIds("token_ids", request.token_ids(), model);
      break;
    case v1::GenerateRequest::kParts:
      ids = EncodeParts(request.parts(), model);
      break;
    case v1::GenerateRequest::PROMPT_NOT_SET:
      ids = MakeError(absl::StatusCode::kInvalidArgument, "EMPTY_PROMPT",
                      "there is no prompt; set text, token_ids or parts");
      break;
  }
  RETURN_IF_ERROR(ids.status());
  return FitsContext(*std::move(ids), model);
}

absl::StatusOr<TokenIds> ReadPrompt(const v1::ChatRequest& request, const ServedModel& model,
                                    absl::Duration render_time) {
  v1::ChatPrompt chat;
  *chat.mutable_messages() = request.messages();
  if (request.has_tools_json()) chat.set_tools_json(request.tools_json());
  if (request.has_template_args_json()) chat.set_template_args_json(request.template_args_json());
  if (request.has_add_generation_prompt()) {
    chat.set_add_generation_prompt(request.add_generation_prompt());
  }
  ASSIGN_OR_RETURN(const std::string text, RenderChat(chat, model, render_time));
  return FitsContext(model.tokenizer->Encode(text, /*add_special=*/false), model);
}

absl::StatusOr<TokenIds> ReadPrompt(const v1::EmbedInput& input, absl::string_view field,
                                    const ServedModel& model) {
  absl::StatusOr<TokenIds> ids;
  switch (input.content_case()) {
    case v1::EmbedInput::kText:
      ids = EncodeText(absl::StrCat(field, ".text"), input.text(), /*add_special=*/true, model);
      break;
    case v1::EmbedInput::kTokenIds:
      ids = TakeIds(absl::StrCat(field, ".token_ids"), input.token_ids(), model);
      break;
    case v1::EmbedInput::CONTENT_NOT_SET:
      ids = FieldError(field, "has no content; set text or token_ids");
      break;
  }
  RETURN_IF_ERROR(ids.status());
  return FitsContext(*std::move(ids), model, field);
}

}  // namespace tessera

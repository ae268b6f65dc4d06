#include "server/call/prompt.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/call/errors.h"
#include "server/call/limits.h"
#include "server/call/params.h"
#include "server/call/plain_content.h"
#include "server/call/served_model.h"
#include "server/text/template/chat_templates.h"
#include "server/text/template/json_text.h"
#include "server/text/tokenizer/tokenizer.h"
#include "server/text/tokenizer/utf8.h"
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

// Returns an error unless there are 1 to `limit` ids. The errors call them `what`.
absl::StatusOr<TokenIds> WithinLimit(TokenIds ids, int64_t limit, absl::string_view what,
                                     const ServedModel& model) {
  const auto count = static_cast<int64_t>(ids.size());
  if (count > 0 && count <= limit) return ids;
  if (count == 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, "EMPTY_PROMPT",
                     absl::StrCat(what, " has no tokens; give some text or token ids"));
  }
  return MakeError(
      absl::StatusCode::kInvalidArgument, "PROMPT_TOO_LONG",
      absl::StrCat(what, " has ", count, " tokens; the context of model '", model.name, "' has ",
                   model.max_model_len, limit < model.max_model_len ? " for prompt and output" : "",
                   "; shorten it to at most ", limit));
}

// Returns an error unless the prompt leaves room for one output token in the context.
absl::StatusOr<TokenIds> FitsContext(TokenIds ids, const ServedModel& model) {
  return WithinLimit(std::move(ids), model.max_model_len - 1, "the prompt", model);
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
      return FieldError(
          absl::StrCat(field, ".document_id"),
          absl::StrCat("has ", part.document_id().size(), " bytes; give at most ", kMaxNameBytes));
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

// What is applied to the strings that the client sends before the template sees them: `content` to
// the content and the reasoning of messages (null: nothing), then `all` to every string.
struct TextMaps {
  std::function<std::string(std::string_view)> content;
  std::function<std::string(std::string_view)> all;

  void MapMessages(std::vector<ChatMessage>* messages) const {
    if (content == nullptr) return;
    for (ChatMessage& message : *messages) {
      if (message.content) message.content = content(*message.content);
      if (message.reasoning_content)
        message.reasoning_content = content(*message.reasoning_content);
    }
  }
  void MapInput(ChatTemplateInput* input) const {
    input->messages_json = MapJsonStrings(input->messages_json, all);
    for (std::optional<std::string>* json : {&input->tools_json, &input->extra_args_json}) {
      if (json->has_value()) *json = MapJsonStrings(**json, all);
    }
  }
  std::string MapContent(std::string_view text) const {
    return all(content == nullptr ? text : content(text));
  }
};

// Marks the end of the message that the output continues. The space shows whether the template
// trims the message, as in transformers. The letter is Tangut, which chats do not have.
constexpr std::string_view kEndMark = "\U00018000 ";

absl::Status CheckContinues(const v1::ChatPrompt& chat) {
  if (!chat.continue_final_message()) return absl::OkStatus();
  if (chat.add_generation_prompt()) {
    return FieldError("continue_final_message",
                      "is true with add_generation_prompt, which starts another message; give one "
                      "of them");
  }
  if (!chat.messages().rbegin()->has_content()) {
    return FieldError("continue_final_message",
                      "is true, but the last message has no content; give it content to continue");
  }
  return absl::OkStatus();
}

std::string_view TrimmedEnd(std::string_view text) {
  while (!text.empty() && IsUnicodeSpace(LastCodePoint(text))) {
    size_t begin = text.size() - 1;
    while ((static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    text = text.substr(0, begin);
  }
  return text;
}

std::string_view Trimmed(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    const Utf8Unit unit = NextUtf8(text, begin);
    if (!IsUnicodeSpace(unit.code_point)) break;
    begin += unit.length;
  }
  return TrimmedEnd(text.substr(begin));
}

// Cuts a rendering where the content of its last message ends, without white space at the end if
// the template trimmed the content.
absl::StatusOr<std::string> CutAtEndMark(std::string_view content, std::string text) {
  const size_t mark = text.rfind(Trimmed(kEndMark));
  if (mark == std::string::npos || text.find(Trimmed(content)) == std::string::npos) {
    return FieldError(
        "continue_final_message",
        "is true, but the chat template does not write the content of the last message "
        "as it is; change that message, or leave this field out");
  }
  const bool is_trimmed = text.compare(mark, kEndMark.size(), kEndMark) != 0;
  text.resize(mark);
  if (is_trimmed) text.resize(TrimmedEnd(text).size());
  return text;
}

absl::StatusOr<std::string> Render(const v1::ChatPrompt& chat, const ServedModel& model,
                                   absl::Duration render_time, const TextMaps* maps) {
  ASSIGN_OR_RETURN(const std::optional<std::string> tools, ReadTools(chat));
  const absl::StatusOr<const ChatTemplate*> chosen =
      model.chat_templates->Choose(/*has_tools=*/tools.has_value());
  if (!chosen.ok()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_CHAT_TEMPLATE",
                     absl::StrCat("model '", model.name, "' ", chosen.status().message(),
                                  "; send the whole prompt to Generate"));
  }
  ASSIGN_OR_RETURN(std::vector<ChatMessage> messages, ReadMessages(chat, model));
  RETURN_IF_ERROR(CheckContinues(chat));
  if (maps != nullptr) maps->MapMessages(&messages);
  if (chat.continue_final_message()) *messages.back().content += kEndMark;
  ChatTemplateInput input;
  absl::StatusOr<std::string> json = MessagesToJson(messages);
  if (!json.ok()) return FieldError("messages", json.status().message());
  input.messages_json = *std::move(json);
  input.tools_json = tools;
  ASSIGN_OR_RETURN(input.extra_args_json, ReadTemplateArgs(chat));
  if (maps != nullptr) maps->MapInput(&input);
  input.add_generation_prompt = chat.has_add_generation_prompt() ? chat.add_generation_prompt()
                                                                 : !chat.continue_final_message();
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
  if (!chat.continue_final_message()) return text;
  const std::string& content = chat.messages().rbegin()->content();
  return CutAtEndMark(maps == nullptr ? content : maps->MapContent(content), *std::move(text));
}

// Renders with the strings of special tokens hidden in what the client sends. The special tokens
// must be those of a rendering of blanked text, so that all of them are the template's own.
absl::StatusOr<RenderedChat> RenderPlain(const v1::ChatPrompt& chat, const ServedModel& model,
                                         absl::Duration render_time) {
  const Tokenizer& tokenizer = *model.tokenizer;
  if (tokenizer.normalizes_special()) {
    return FieldError("plain_content",
                      absl::StrCat("is not available for model '", model.name,
                                   "', whose tokenizer finds special tokens in normalized text; "
                                   "leave it out, and check the content yourself"));
  }
  PlainContent plain(&tokenizer);
  const TextMaps hide = {nullptr, [&](std::string_view text) { return plain.Hide(text); }};
  const TextMaps blank = {PlainContent::BlankAll,
                          [&](std::string_view text) { return plain.BlankMarks(text); }};
  ASSIGN_OR_RETURN(const std::string hidden, Render(chat, model, render_time, &hide));
  if (plain.overflowed()) {
    return FieldError("plain_content", absl::StrCat("the messages have more than ",
                                                    uint32_t{PlainContent::kMaxHidden},
                                                    " different strings to hide; send fewer"));
  }
  ASSIGN_OR_RETURN(const std::string blanked, Render(chat, model, render_time, &blank));
  const auto same_id = [](const auto& a, const auto& b) { return a.id == b.id; };
  const auto found = tokenizer.FindSpecial(hidden);
  const auto own = tokenizer.FindSpecial(blanked);
  if (!std::equal(found.begin(), found.end(), own.begin(), own.end(), same_id)) {
    return FieldError("plain_content",
                      "the chat template joins text of the messages to the string of a special "
                      "token; change the messages");
  }
  const auto restore = [&plain](std::string_view text) { return plain.Restore(text); };
  std::string text = plain.Restore(hidden);
  RETURN_IF_ERROR(CheckTextSize("messages", static_cast<int64_t>(text.size()), model));
  return RenderedChat{std::move(text), tokenizer.EncodeRestored(hidden, restore)};
}

}  // namespace

absl::Status CheckTextSize(absl::string_view field, int64_t bytes, const ServedModel& model) {
  if (bytes <= model.max_prompt_bytes) return absl::OkStatus();
  return FieldError(
      field, absl::StrCat("has ", bytes, " bytes of text; model '", model.name, "' takes at most ",
                          model.max_prompt_bytes, " (its context is ", model.max_model_len,
                          " tokens); shorten it"));
}

absl::StatusOr<RenderedChat> RenderChat(const v1::ChatPrompt& chat, const ServedModel& model,
                                        absl::Duration render_time) {
  if (chat.plain_content()) return RenderPlain(chat, model, render_time);
  ASSIGN_OR_RETURN(std::string text, Render(chat, model, render_time, /*maps=*/nullptr));
  RETURN_IF_ERROR(CheckTextSize("messages", static_cast<int64_t>(text.size()), model));
  std::vector<TokenId> ids = model.tokenizer->Encode(text, /*add_special=*/false);
  return RenderedChat{std::move(text), std::move(ids)};
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
  chat.set_continue_final_message(request.continue_final_message());
  chat.set_plain_content(request.plain_content());
  ASSIGN_OR_RETURN(RenderedChat rendered, RenderChat(chat, model, render_time));
  return FitsContext(std::move(rendered.ids), model);
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
  return WithinLimit(*std::move(ids), model.max_model_len, field, model);
}

}  // namespace tessera

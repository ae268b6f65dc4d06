#include "server/call/prepare.h"

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "server/call/adapters.h"
#include "server/call/errors.h"
#include "server/call/limits.h"
#include "server/call/live_calls.h"
#include "server/call/prompt.h"
#include "server/call/served_model.h"
#include "server/call/wire_check.h"
#include "server/text/tokenizer/decode_stream.h"
#include "server/text/tokenizer/tokenizer.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

// The call's number and the registries that all Prepare... functions use.
struct Scope {
  uint64_t call = 0;
  const ModelRegistry* models = nullptr;
  AdapterRegistry* adapters = nullptr;
  LiveCalls* live = nullptr;
  PrepareOptions options;
};

std::string DrawRequestId() {
  std::random_device device;
  return absl::StrCat("req-", absl::Hex(device(), absl::kZeroPad8),
                      absl::Hex(device(), absl::kZeroPad8));
}

absl::Status RegisterName(const std::string& wanted, const Scope& scope, PreparedCall* out) {
  if (!scope.options.request_id.empty()) {
    out->request_id = scope.options.request_id;
    return absl::OkStatus();
  }
  if (wanted.size() > static_cast<size_t>(kMaxRequestIdBytes)) {
    return FieldError("request_id", absl::StrCat("has ", wanted.size(), " bytes; give at most ",
                                                 kMaxRequestIdBytes));
  }
  std::string name = wanted.empty() ? DrawRequestId() : wanted;
  while (!scope.live->Register(scope.options.tenant, name, scope.call)) {
    if (!wanted.empty()) {
      return MakeError(absl::StatusCode::kAlreadyExists, "REQUEST_ID_IN_USE",
                       absl::StrCat("a call with request_id '", wanted,
                                    "' is still open; give another one, or none"));
    }
    name = DrawRequestId();
  }
  out->request_id = std::move(name);
  return absl::OkStatus();
}

Priority ReadPriority(v1::Priority priority) {
  switch (priority) {
    case v1::PRIORITY_LOW:
      return Priority::kLow;
    case v1::PRIORITY_HIGH:
      return Priority::kHigh;
    default:
      return Priority::kNormal;
  }
}

absl::Status CheckCache(const v1::CacheOptions& cache) {
  if (cache.salt().size() <= static_cast<size_t>(kMaxNameBytes)) return absl::OkStatus();
  return FieldError("cache.salt", absl::StrCat("has ", cache.salt().size(), " bytes; give at most ",
                                               kMaxNameBytes));
}

// Finds the model of this name. A request may also give an adapter's name as its model: then the
// result is the adapter's base model, and *uses gets the adapter.
absl::StatusOr<const ServedModel*> FindModel(const Scope& scope, const std::string& name,
                                             std::vector<AdapterUse>* uses) {
  absl::StatusOr<const ServedModel*> found = scope.models->Find(name);
  if (found.ok()) return found;
  const std::optional<int32_t> model = scope.adapters->ModelOf(name);
  if (!model.has_value()) return found;
  uses->push_back({name, "", {}});
  return &scope.models->models()[static_cast<size_t>(*model)];
}

// Reads the `adapters` field of Generate or Chat into *uses. FindModel has already added one if the
// request's model name is an adapter. The caller resolves the uses after all other checks of the
// request, because that registers a blend.
template <class Wire>
absl::Status ReadAdapters(const Wire& wire, std::vector<AdapterUse>* uses) {
  if (wire.has_blend_rank() && wire.adapters().empty()) {
    return FieldError("blend_rank",
                      "is given without adapters; name what to blend in adapters, or leave it out");
  }
  if (wire.has_blend_rank() && (wire.blend_rank() < 1 || wire.blend_rank() > kMaxBlendRank)) {
    return FieldError("blend_rank",
                      absl::StrCat("is ", wire.blend_rank(), "; give 1 to ", kMaxBlendRank));
  }
  if (wire.adapters().empty()) return absl::OkStatus();
  if (!uses->empty()) {
    return FieldError("adapters", absl::StrCat("are given beside the model '", wire.model(),
                                               "', which is an adapter; give one or the other"));
  }
  for (const v1::AdapterRef& ref : wire.adapters()) {
    AdapterUse& use = uses->emplace_back(AdapterUse{ref.name(), ref.revision(), {}});
    if (ref.has_weight()) use.weight = ref.weight();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> PromptOf(const v1::GenerateRequest& wire,
                                              const ServedModel& model, const PrepareOptions&) {
  return ReadPrompt(wire, model);
}

absl::StatusOr<std::vector<TokenId>> PromptOf(const v1::ChatRequest& wire, const ServedModel& model,
                                              const PrepareOptions& options) {
  return ReadPrompt(wire, model, options.render_time);
}

// Prepares Generate and Chat, which differ only in the form of the prompt.
template <class Wire>
absl::Status PrepareStream(const std::string& bytes, const Scope& scope, PreparedCall* out) {
  Wire wire;
  RETURN_IF_ERROR(ParseStrict(bytes, &wire));
  RETURN_IF_ERROR(RegisterName(wire.request_id(), scope, out));
  auto request = std::make_unique<Request>();
  request->name = out->request_id;
  std::vector<AdapterUse> uses;
  ASSIGN_OR_RETURN(out->model, FindModel(scope, wire.model(), &uses));
  RETURN_IF_ERROR(ReadAdapters(wire, &uses));
  request->model = out->model->index;
  // The checks below are cheap, so they run before the prompt is tokenised. The number of prompt
  // tokens is not known yet; 1 stands for it.
  RETURN_IF_ERROR(ReadSampling(wire.sampling(), *out->model, &request->sampling));
  StoppingParams dry_run;
  TextStops dry_stops;
  RETURN_IF_ERROR(ReadStopping(wire.stopping(), *out->model, 1, &dry_run, &dry_stops));
  RETURN_IF_ERROR(CheckCache(wire.cache()));
  RETURN_IF_ERROR(ReadOutputOptions(wire.output(), 1, request.get()));
  ASSIGN_OR_RETURN(request->prompt, PromptOf(wire, *out->model, scope.options));
  const auto prompt_tokens = static_cast<int64_t>(request->prompt.size());
  RETURN_IF_ERROR(
      ReadStopping(wire.stopping(), *out->model, prompt_tokens, &request->stopping, &out->stops));
  RETURN_IF_ERROR(ReadOutputOptions(wire.output(), prompt_tokens, request.get()));
  out->skip_special_tokens =
      !wire.output().has_skip_special_tokens() || wire.output().skip_special_tokens();
  request->bypass_prefix = wire.cache().bypass_prefix();
  request->salt = wire.cache().salt();
  request->priority = ReadPriority(wire.priority());
  ASSIGN_OR_RETURN(request->adapter, ResolveAdapters(scope.adapters, out->model->index, uses,
                                                     static_cast<int32_t>(wire.blend_rank())));
  out->requests.push_back(std::move(request));
  return absl::OkStatus();
}

absl::Status CheckNumInputs(int count, const ServedModel& model) {
  if (count >= 1 && count <= model.max_embed_inputs) return absl::OkStatus();
  const bool is_queue = count > 0 && count <= kMaxEmbedInputs;
  return FieldError("inputs",
                    absl::StrCat("has ", count, " entries; give 1 to ", model.max_embed_inputs,
                                 is_queue ? ", which is all that this server's queue holds "
                                            "(engine.max_queue)"
                                          : ""));
}

absl::Status PrepareEmbed(const std::string& bytes, const Scope& scope, PreparedCall* out) {
  v1::EmbedRequest wire;
  RETURN_IF_ERROR(ParseStrict(bytes, &wire));
  RETURN_IF_ERROR(RegisterName(wire.request_id(), scope, out));
  std::vector<AdapterUse> uses;
  ASSIGN_OR_RETURN(out->model, FindModel(scope, wire.model(), &uses));
  RETURN_IF_ERROR(CheckNumInputs(wire.inputs_size(), *out->model));
  for (int i = 0; i < wire.inputs_size(); ++i) {
    auto request = std::make_unique<Request>();
    request->name = out->request_id;
    request->model = out->model->index;
    request->kind = RequestKind::kEmbed;
    ASSIGN_OR_RETURN(request->prompt,
                     ReadPrompt(wire.inputs(i), absl::StrCat("inputs[", i, "]"), *out->model));
    request->stopping.max_tokens = 1;
    request->priority = ReadPriority(wire.priority());
    out->requests.push_back(std::move(request));
  }
  ASSIGN_OR_RETURN(const ResolvedAdapter adapter,
                   ResolveAdapters(scope.adapters, out->model->index, uses));
  for (const std::unique_ptr<Request>& request : out->requests) request->adapter = adapter;
  return absl::OkStatus();
}

absl::Status PrepareTokenize(const std::string& bytes, const Scope& scope, PreparedCall* out) {
  v1::TokenizeRequest wire;
  RETURN_IF_ERROR(ParseStrict(bytes, &wire));
  std::vector<AdapterUse> unused;  // an adapter has the tokenizer of its base model
  ASSIGN_OR_RETURN(out->model, FindModel(scope, wire.model(), &unused));
  auto reply = std::make_unique<v1::TokenizeResponse>();
  const bool add_special = !wire.has_add_special_tokens() || wire.add_special_tokens();
  switch (wire.input_case()) {
    case v1::TokenizeRequest::kText:
      RETURN_IF_ERROR(CheckTextSize("text", static_cast<int64_t>(wire.text().size()), *out->model));
      reply->set_text(wire.text());
      break;
    case v1::TokenizeRequest::kChat: {
      if (wire.add_special_tokens()) {
        return FieldError("add_special_tokens",
                          "is true with a chat, whose template writes them itself; leave it out");
      }
      ASSIGN_OR_RETURN(RenderedChat chat,
                       RenderChat(wire.chat(), *out->model, scope.options.render_time));
      reply->set_text(std::move(chat.text));
      reply->mutable_token_ids()->Assign(chat.ids.begin(), chat.ids.end());
      out->reply = std::move(reply);
      return absl::OkStatus();
    }
    case v1::TokenizeRequest::INPUT_NOT_SET:
      return MakeError(absl::StatusCode::kInvalidArgument, "NO_INPUT",
                       "there is nothing to tokenize; set text or chat");
  }
  const std::vector<TokenId> ids = out->model->tokenizer->Encode(reply->text(), add_special);
  reply->mutable_token_ids()->Assign(ids.begin(), ids.end());
  out->reply = std::move(reply);
  return absl::OkStatus();
}

// Decodes the ids and stops with an error as soon as the text exceeds kMaxDetokenizedBytes, since a
// vocabulary may have very long tokens.
absl::StatusOr<std::string> DecodeBounded(const google::protobuf::RepeatedField<int32_t>& ids,
                                          bool skip_special, const ServedModel& model) {
  std::string text;
  DecodeStream stream(&model.tokenizer->table(), skip_special);
  for (int i = 0; i < ids.size(); ++i) {
    stream.Push(ids[i], &text);
    if (static_cast<int64_t>(text.size()) <= kMaxDetokenizedBytes) continue;
    return FieldError("token_ids",
                      absl::StrCat("give more than ", kMaxDetokenizedBytes,
                                   " bytes of text; send at most the first ", i, " of them"));
  }
  stream.Flush(&text);
  return text;
}

absl::Status PrepareDetokenize(const std::string& bytes, const Scope& scope, PreparedCall* out) {
  v1::DetokenizeRequest wire;
  RETURN_IF_ERROR(ParseStrict(bytes, &wire));
  std::vector<AdapterUse> unused;  // an adapter has the tokenizer of its base model
  ASSIGN_OR_RETURN(out->model, FindModel(scope, wire.model(), &unused));
  if (wire.token_ids_size() > kMaxDetokenizeIds) {
    return FieldError("token_ids", absl::StrCat("has ", wire.token_ids_size(),
                                                " ids; give at most ", kMaxDetokenizeIds));
  }
  RETURN_IF_ERROR(
      CheckTokenIds("token_ids", wire.token_ids().data(), wire.token_ids_size(), *out->model));
  auto reply = std::make_unique<v1::DetokenizeResponse>();
  ASSIGN_OR_RETURN(*reply->mutable_text(),
                   DecodeBounded(wire.token_ids(), wire.skip_special_tokens(), *out->model));
  out->reply = std::move(reply);
  return absl::OkStatus();
}

absl::Status PrepareInto(Method method, const std::string& bytes, const Scope& scope,
                         PreparedCall* out) {
  switch (method) {
    case Method::kGenerate:
      return PrepareStream<v1::GenerateRequest>(bytes, scope, out);
    case Method::kChat:
      return PrepareStream<v1::ChatRequest>(bytes, scope, out);
    case Method::kEmbed:
      return PrepareEmbed(bytes, scope, out);
    case Method::kTokenize:
      return PrepareTokenize(bytes, scope, out);
    case Method::kDetokenize:
      return PrepareDetokenize(bytes, scope, out);
  }
  return absl::InternalError("no such method");
}

}  // namespace

PreparedCall::PreparedCall() = default;
PreparedCall::~PreparedCall() = default;
PreparedCall::PreparedCall(PreparedCall&&) noexcept = default;
PreparedCall& PreparedCall::operator=(PreparedCall&&) noexcept = default;

PreparedCall Prepare(Method method, const std::string& bytes, uint64_t call,
                     const ModelRegistry& models, AdapterRegistry* adapters, LiveCalls* live,
                     const PrepareOptions& options) {
  PreparedCall prepared;
  prepared.status =
      PrepareInto(method, bytes, Scope{call, &models, adapters, live, options}, &prepared);
  for (const std::unique_ptr<Request>& request : prepared.requests) {
    request->tenant = options.tenant;
  }
  prepared.needs_time = absl::IsDeadlineExceeded(prepared.status);
  return prepared;
}

}  // namespace tessera

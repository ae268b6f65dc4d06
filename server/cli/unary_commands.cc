// The commands embed, tokenize and detokenize.
#include <cstdio>
#include <utility>

#include "absl/strings/str_join.h"
#include "kernels/base/status.h"
#include "server/cli/commands.h"
#include "server/cli/session.h"

namespace tessera::cli {
namespace {

// The texts on the command line; without any, or with a single "-", standard input as one text.
absl::StatusOr<std::vector<std::string>> Texts(const Arguments& arguments) {
  const std::vector<std::string>& words = arguments.positional();
  if (!words.empty() && words != std::vector<std::string>{"-"}) return words;
  ASSIGN_OR_RETURN(std::string text, ReadText("-"));
  return std::vector<std::string>{std::move(text)};
}

int RunEmbed(const Arguments& arguments, Session* session) {
  const absl::StatusOr<std::vector<std::string>> texts = Texts(arguments);
  if (!texts.ok()) return UsageError(texts.status());
  v1::EmbedRequest request;
  if (const auto model = arguments.Text("--model")) request.set_model(*model);
  for (const std::string& text : *texts) request.add_inputs()->set_text(text);
  v1::EmbedResponse response;
  const int status = RunUnary(session, [&](grpc::ClientContext* context) {
    return session->inference().Embed(context, request, &response);
  });
  if (status != kOk) return status;
  if (session->json()) {
    Session::PrintJson(response);
    return kOk;
  }
  for (const v1::Embedding& embedding : response.embeddings()) {
    std::printf("%s\n", absl::StrJoin(embedding.values(), " ").c_str());
  }
  std::fprintf(stderr, "[%lld prompt tokens]\n",
               static_cast<long long>(response.usage().prompt_tokens()));
  return kOk;
}

int RunTokenize(const Arguments& arguments, Session* session) {
  const absl::StatusOr<std::vector<std::string>> texts = Texts(arguments);
  if (!texts.ok()) return UsageError(texts.status());
  const std::string text = absl::StrJoin(*texts, " ");
  v1::TokenizeRequest request;
  if (const auto model = arguments.Text("--model")) request.set_model(*model);
  if (arguments.Has("--chat") && arguments.Has("--no-special")) {
    return UsageError(
        "--no-special has no effect on a chat, whose template writes them; leave it out");
  }
  if (arguments.Has("--chat")) {
    v1::ChatMessage* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content(text);
  } else {
    request.set_text(text);
    if (arguments.Has("--no-special")) request.set_add_special_tokens(false);
  }
  v1::TokenizeResponse response;
  const int status = RunUnary(session, [&](grpc::ClientContext* context) {
    return session->inference().Tokenize(context, request, &response);
  });
  if (status != kOk) return status;
  if (session->json()) {
    Session::PrintJson(response);
    return kOk;
  }
  std::printf("%s\n", absl::StrJoin(response.token_ids(), " ").c_str());
  std::fprintf(stderr, "[%d tokens]\n", response.token_ids_size());
  return kOk;
}

int RunDetokenize(const Arguments& arguments, Session* session) {
  const absl::StatusOr<std::vector<std::string>> texts = Texts(arguments);
  if (!texts.ok()) return UsageError(texts.status());
  const absl::StatusOr<std::vector<int32_t>> ids = ParseIds(absl::StrJoin(*texts, " "));
  if (!ids.ok()) return UsageError(ids.status());
  v1::DetokenizeRequest request;
  if (const auto model = arguments.Text("--model")) request.set_model(*model);
  if (arguments.Has("--skip-special")) request.set_skip_special_tokens(true);
  request.mutable_token_ids()->Assign(ids->begin(), ids->end());
  v1::DetokenizeResponse response;
  const int status = RunUnary(session, [&](grpc::ClientContext* context) {
    return session->inference().Detokenize(context, request, &response);
  });
  if (status != kOk) return status;
  if (session->json()) {
    Session::PrintJson(response);
  } else {
    std::printf("%s\n", response.text().c_str());
  }
  return kOk;
}

}  // namespace

std::vector<Command> UnaryCommands() {
  const FlagSpec model = {"--model", "NAME", "served model (the default model)"};
  return {
      {"embed", "TEXT...", "one vector per text", {model}, RunEmbed},
      {"tokenize",
       "[TEXT]",
       "token ids of a text",
       {model,
        {"--no-special", nullptr, "add no special tokens"},
        {"--chat", nullptr, "the text is a user's message: render the chat template"}},
       RunTokenize},
      {"detokenize",
       "IDS",
       "text of token ids",
       {model, {"--skip-special", nullptr, "leave special tokens out"}},
       RunDetokenize},
  };
}

}  // namespace tessera::cli

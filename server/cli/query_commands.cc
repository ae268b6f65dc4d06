// Everything but generation: embed, tokenize, models, adapters, load, drain, health.

#include <cstdio>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/cli/commands.h"
#include "tessera/v1/control.grpc.pb.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera::cli {
namespace {

// Calls a unary method and prints the reply as JSON, or by `print`.
template <class Call, class Reply, class Print>
int Unary(Client* client, const Call& call, Reply* reply, const Print& print) {
  const grpc::Status status = call(client->NewCall(), reply);
  if (!status.ok()) return client->Report(status);
  if (client->json()) {
    Client::PrintJson(*reply);
  } else {
    print(*reply);
  }
  return kExitOk;
}

int Embed(const Arguments& arguments, Client* client) {
  if (arguments.words().empty()) return UsageError("embed wants one or more texts");
  v1::EmbedRequest request;
  if (const auto model = arguments.Text("--model")) request.set_model(*model);
  for (const std::string& text : arguments.words()) request.add_inputs()->set_text(text);
  auto stub = v1::Inference::NewStub(client->channel());
  v1::EmbedResponse reply;
  return Unary(
      client, [&](auto* context, auto* out) { return stub->Embed(context, request, out); }, &reply,
      [](const v1::EmbedResponse& r) {
        for (const v1::Embedding& embedding : r.embeddings()) {
          std::printf("%s\n", absl::StrJoin(embedding.values(), " ").c_str());
        }
        std::fprintf(stderr, "[%lld prompt tokens]\n",
                     static_cast<long long>(r.usage().prompt_tokens()));
      });
}

int Tokenize(const Arguments& arguments, Client* client) {
  v1::TokenizeRequest request;
  if (const auto model = arguments.Text("--model")) request.set_model(*model);
  const std::string text = absl::StrJoin(arguments.words(), " ");
  if (arguments.Has("--chat")) {
    v1::ChatMessage* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content(text);
  } else {
    request.set_text(text);
  }
  auto stub = v1::Inference::NewStub(client->channel());
  v1::TokenizeResponse reply;
  return Unary(
      client, [&](auto* context, auto* out) { return stub->Tokenize(context, request, out); },
      &reply,
      [](const v1::TokenizeResponse& r) {
        std::printf("%s\n", absl::StrJoin(r.token_ids(), " ").c_str());
        std::fprintf(stderr, "[%d tokens]\n", r.token_ids_size());
      });
}

int Models(const Arguments&, Client* client) {
  auto stub = v1::Control::NewStub(client->channel());
  v1::ListModelsResponse reply;
  return Unary(
      client,
      [&](auto* context, auto* out) {
        return stub->ListModels(context, v1::ListModelsRequest(), out);
      },
      &reply,
      [](const v1::ListModelsResponse& r) {
        for (const v1::ModelInfo& m : r.models()) {
          std::printf("%s%s  %s  %.1fM parameters  %s  context %lld\n", m.name().c_str(),
                      m.is_default() ? " (default)" : "", m.family().c_str(),
                      static_cast<double>(m.num_parameters()) * 1e-6, m.dtype().c_str(),
                      static_cast<long long>(m.max_model_len()));
        }
      });
}

void PrintLoad(const v1::GetLoadResponse& r) {
  std::printf("running %lld  waiting %lld  queue delay %.1f ms  kv cache %.1f %%%s\n",
              static_cast<long long>(r.running()), static_cast<long long>(r.waiting()),
              static_cast<double>(r.queue_delay_us()) * 1e-3, 100 * r.kv_cache_usage(),
              r.draining() ? "  draining" : "");
  std::fflush(stdout);
}

int Load(const Arguments& arguments, Client* client) {
  auto stub = v1::Control::NewStub(client->channel());
  v1::GetLoadResponse reply;
  if (!arguments.Has("--watch")) {
    return Unary(
        client,
        [&](auto* context, auto* out) { return stub->GetLoad(context, v1::GetLoadRequest(), out); },
        &reply, PrintLoad);
  }
  auto reader = stub->WatchLoad(client->NewCall(), v1::WatchLoadRequest());
  while (reader->Read(&reply)) {
    if (client->json()) {
      Client::PrintJson(reply);
    } else {
      PrintLoad(reply);
    }
  }
  return client->Report(reader->Finish());
}

int Drain(const Arguments& arguments, Client* client) {
  auto stub = v1::Control::NewStub(client->channel());
  v1::DrainRequest request;
  if (arguments.Has("--exit")) request.set_exit(true);
  v1::DrainResponse reply;
  return Unary(
      client, [&](auto* context, auto* out) { return stub->Drain(context, request, out); }, &reply,
      [](const v1::DrainResponse& r) {
        std::printf("draining; %lld calls are open\n", static_cast<long long>(r.calls()));
      });
}

int Health(const Arguments& arguments, Client* client) {
  namespace health = grpc::health::v1;
  auto stub = health::Health::NewStub(client->channel());
  health::HealthCheckRequest request;
  if (!arguments.words().empty()) request.set_service(arguments.words()[0]);
  health::HealthCheckResponse reply;
  const int exit_status = Unary(
      client, [&](auto* context, auto* out) { return stub->Check(context, request, out); }, &reply,
      [](const health::HealthCheckResponse& r) {
        std::printf("%s\n", health::HealthCheckResponse::ServingStatus_Name(r.status()).c_str());
      });
  if (exit_status != kExitOk) return exit_status;
  return reply.status() == health::HealthCheckResponse::SERVING ? kExitOk : kExitFailed;
}

int Adapters(const Arguments& arguments, Client* client) {
  const std::vector<std::string>& words = arguments.words();
  if (words.empty()) return UsageError("adapters register|load|unload|pin|list|watch");
  auto stub = v1::Control::NewStub(client->channel());
  const std::string& verb = words[0];
  const std::string name = words.size() > 1 ? words[1] : "";
  grpc::ClientContext* call = client->NewCall();
  if (verb == "list") {
    v1::ListAdaptersResponse reply;
    const grpc::Status status = stub->ListAdapters(call, v1::ListAdaptersRequest(), &reply);
    if (status.ok()) Client::PrintJson(reply);
    return client->Report(status);
  }
  if (verb == "watch") {
    auto reader = stub->WatchAdapters(call, v1::WatchAdaptersRequest());
    v1::ListAdaptersResponse reply;
    while (reader->Read(&reply)) Client::PrintJson(reply);
    return client->Report(reader->Finish());
  }
  if (verb != "register" && verb != "load" && verb != "unload" && verb != "pin") {
    return UsageError(
        absl::StrCat("adapters ", verb, ": choose register, load, unload, pin, list or watch"));
  }
  if (name.empty()) return UsageError(absl::StrCat("adapters ", verb, " wants a name"));
  if (verb == "register") {
    if (words.size() < 3) return UsageError("adapters register NAME DIR");
    v1::RegisterAdaptersRequest request;
    v1::AdapterSource* source = request.add_adapters();
    source->set_name(name);
    source->set_path(words[2]);
    if (const auto model = arguments.Text("--model")) source->set_model(*model);
    v1::RegisterAdaptersResponse reply;
    return client->Report(stub->RegisterAdapters(call, request, &reply));
  }
  if (verb == "load") {
    v1::LoadAdapterRequest request;
    request.set_name(name);
    v1::LoadAdapterResponse reply;
    return client->Report(stub->LoadAdapter(call, request, &reply));
  }
  if (verb == "unload") {
    v1::UnloadAdapterRequest request;
    request.set_name(name);
    v1::UnloadAdapterResponse reply;
    return client->Report(stub->UnloadAdapter(call, request, &reply));
  }
  v1::PinAdapterRequest request;
  request.set_name(name);
  v1::PinAdapterResponse reply;
  return client->Report(stub->PinAdapter(call, request, &reply));
}

}  // namespace

std::vector<Command> QueryCommands() {
  const FlagSpec model = {"--model", "NAME", "the model; default: the server's first"};
  return {
      {"embed", "TEXT...", "embeddings of texts, one line each", {model}, Embed},
      {"tokenize",
       "TEXT...",
       "token ids of a text",
       {model, {"--chat", nullptr, "as a user's message, through the chat template"}},
       Tokenize},
      {"models", "", "what is served", {}, Models},
      {"adapters",
       "register|load|unload|pin|list|watch [NAME [DIR]]",
       "LoRA adapters",
       {model},
       Adapters},
      {"load", "", "how busy the server is", {{"--watch", nullptr, "again and again"}}, Load},
      {"drain",
       "",
       "refuse new requests, let running ones finish",
       {{"--exit", nullptr, "and end the server"}},
       Drain},
      {"health", "[SERVICE]", "exit status 0 when serving", {}, Health},
  };
}

}  // namespace tessera::cli

// The commands models, load, drain, health, cancel, capabilities and adapters.
#include <chrono>
#include <cstdio>
#include <thread>

#include <grpcpp/channel.h>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "kernels/base/log.h"
#include "server/cli/commands.h"
#include "server/cli/session.h"

namespace tessera::cli {
namespace {

double Mebibytes(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

int RunModels(const Arguments& arguments, Session* session) {
  v1::ListModelsResponse response;
  const int status = RunUnary(session, [&](grpc::ClientContext* context) {
    return session->control().ListModels(context, {}, &response);
  });
  if (status != kOk) return status;
  if (session->json()) {
    Session::PrintJson(response);
    return kOk;
  }
  for (const v1::ModelInfo& model : response.models()) {
    std::printf(
        "%s%s: %s, %.1fM parameters, %s weights, %s activations, %s KV, context %lld, vocabulary "
        "%lld%s\n",
        model.name().c_str(), model.is_default() ? " (default)" : "", model.family().c_str(),
        static_cast<double>(model.num_parameters()) / 1e6, model.dtype().c_str(),
        model.activations().c_str(), model.kv_cache_dtype().c_str(),
        static_cast<long long>(model.max_model_len()), static_cast<long long>(model.vocab_size()),
        model.has_chat_template() ? ", chat" : "");
  }
  return kOk;
}

void PrintLoad(const Session& session, const v1::GetLoadResponse& load) {
  if (session.json()) return Session::PrintJson(load);
  std::printf(
      "running %lld, waiting %lld, calls %lld, queue delay %.1f ms, KV %.1f of %.1f MiB (%.1f %%), "
      "cached %.1f MiB, generated %lld tokens%s\n",
      static_cast<long long>(load.running()), static_cast<long long>(load.waiting()),
      static_cast<long long>(load.calls()), static_cast<double>(load.queue_delay_us()) / 1e3,
      Mebibytes(load.kv_bytes()), Mebibytes(load.pool_bytes()), 100 * load.kv_cache_usage(),
      Mebibytes(load.cached_bytes()), static_cast<long long>(load.generated_tokens()),
      load.draining() ? ", draining" : "");
}

int RunLoad(const Arguments& arguments, Session* session) {
  v1::GetLoadResponse load;
  if (!arguments.Has("--watch")) {
    if (arguments.Has("--interval-ms")) return UsageError("--interval-ms needs --watch");
    const int status = RunUnary(session, [&](grpc::ClientContext* context) {
      return session->control().GetLoad(context, {}, &load);
    });
    if (status == kOk) PrintLoad(*session, load);
    return status;
  }
  v1::WatchLoadRequest request;
  std::optional<int64_t> interval_ms;
  if (const absl::Status status = arguments.Read("--interval-ms", &interval_ms); !status.ok()) {
    return UsageError(status);
  }
  if (interval_ms) request.set_interval_ms(*interval_ms);
  const auto context = session->NewContext();
  const auto reader = session->control().WatchLoad(context.get(), request);
  while (reader->Read(&load)) {
    PrintLoad(*session, load);
    session->FlushOrCancel();
  }
  const grpc::Status status = reader->Finish();
  session->EndContext();
  if (session->output_failed()) return kFailed;
  if (status.ok() || session->interrupted()) return kOk;  // Ctrl-C is the normal end of a watch
  return session->Fail(status);
}

// Polls until the server has no open calls. With `exits` the server ends itself, so an unavailable
// server or a cancelled GetLoad also means that the calls are over.
int WaitForCalls(bool exits, Session* session) {
  for (;;) {
    v1::GetLoadResponse load;
    const auto context = session->NewContext();
    const grpc::Status status = session->control().GetLoad(context.get(), {}, &load);
    session->EndContext();
    const bool is_gone = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                         status.error_code() == grpc::StatusCode::CANCELLED;
    if (exits && is_gone && !session->interrupted()) return kOk;
    if (!status.ok()) return session->Fail(status);
    if (load.calls() == 0) return kOk;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

int RunDrain(const Arguments& arguments, Session* session) {
  v1::DrainRequest request;
  if (arguments.Has("--exit")) request.set_exit(true);
  v1::DrainResponse response;
  const int status = RunUnary(session, [&](grpc::ClientContext* context) {
    return session->control().Drain(context, request, &response);
  });
  if (status != kOk) return status;
  if (session->json()) {
    Session::PrintJson(response);
  } else {
    std::printf("draining, %lld calls are open\n", static_cast<long long>(response.calls()));
  }
  return arguments.Has("--wait") ? WaitForCalls(request.exit(), session) : kOk;
}

int RunHealth(const Arguments& arguments, Session* session) {
  namespace health = grpc::health::v1;
  const auto stub = health::Health::NewStub(session->channel());
  health::HealthCheckRequest request;
  if (!arguments.positional().empty()) request.set_service(arguments.positional()[0]);
  health::HealthCheckResponse response;
  const int status = RunUnary(session, [&](grpc::ClientContext* context) {
    return stub->Check(context, request, &response);
  });
  if (status != kOk) return status;
  if (session->json()) {
    Session::PrintJson(response);
  } else {
    std::printf("%s\n", health::HealthCheckResponse::ServingStatus_Name(response.status()).c_str());
  }
  return response.status() == health::HealthCheckResponse::SERVING ? kOk : kFailed;
}

int RunCancel(const Arguments& arguments, Session* session) {
  if (arguments.positional().size() != 1) return UsageError("cancel needs one REQUEST_ID");
  v1::CancelRequest request;
  request.set_request_id(arguments.positional()[0]);
  v1::CancelResponse response;
  const int status = RunUnary(session, [&](grpc::ClientContext* context) {
    return session->control().Cancel(context, request, &response);
  });
  if (status != kOk) return status;
  if (session->json()) {
    Session::PrintJson(response);
  } else {
    std::printf("%s\n", response.found() ? "cancelled" : "no such call is open");
  }
  return response.found() ? kOk : kFailed;
}

int RunCapabilities(const Arguments& arguments, Session* session) {
  v1::GetCapabilitiesResponse response;
  const int status = RunUnary(session, [&](grpc::ClientContext* context) {
    return session->control().GetCapabilities(context, {}, &response);
  });
  if (status != kOk) return status;
  if (session->json()) {
    Session::PrintJson(response);
  } else {
    std::printf("%s", response.DebugString().c_str());
  }
  return kOk;
}

std::string DescribeFiles(const v1::AdapterInfo& adapter) {
  if (adapter.files_error().empty()) return "";
  const bool missing = adapter.files() == v1::ADAPTER_FILES_MISSING;
  return absl::StrCat(missing ? ", FILES MISSING: " : ", FILES INVALID: ", adapter.files_error());
}

void PrintAdapters(const v1::ListAdaptersResponse& list, const Session& session) {
  if (session.json()) return Session::PrintJson(list);
  for (const v1::AdapterInfo& adapter : list.adapters()) {
    const char* const where = adapter.residency() == v1::ADAPTER_RESIDENCY_POOL   ? "pool"
                              : adapter.residency() == v1::ADAPTER_RESIDENCY_HOST ? "host"
                                                                                  : "disk";
    std::printf("%s: model %s, %s%s, rank %d, %.2f MiB, %lld running%s\n", adapter.name().c_str(),
                adapter.model().c_str(), where, adapter.pinned() ? ", pinned" : "", adapter.rank(),
                Mebibytes(adapter.bytes()), static_cast<long long>(adapter.running()),
                DescribeFiles(adapter).c_str());
  }
}

int WatchAdapters(Session* session) {
  v1::ListAdaptersResponse list;
  const auto context = session->NewContext();
  const auto reader = session->control().WatchAdapters(context.get(), {});
  while (reader->Read(&list)) {
    PrintAdapters(list, *session);
    session->FlushOrCancel();
  }
  const grpc::Status status = reader->Finish();
  session->EndContext();
  if (session->output_failed()) return kFailed;
  return status.ok() || session->interrupted() ? kOk : session->Fail(status);
}

// Calls the method of a verb that changes an adapter. REQUIRES: the verb has its words.
grpc::Status ChangeAdapter(const Arguments& arguments, v1::Control::Stub* control,
                           grpc::ClientContext* context) {
  const std::vector<std::string>& words = arguments.positional();
  const std::string& verb = words[0];
  if (verb == "register") {
    v1::RegisterAdaptersRequest request;
    v1::RegisterAdaptersResponse response;
    v1::AdapterSource* source = request.add_adapters();
    if (words.size() == 3) source->set_name(words[1]);
    source->set_path(words.back());
    if (const auto model = arguments.Text("--model")) source->set_model(*model);
    grpc::Status status = control->RegisterAdapters(context, request, &response);
    for (const std::string& why : response.skipped()) {
      std::fprintf(stderr, "tessera: skipped: %s\n", LogText(why).c_str());
    }
    return status;
  }
  if (verb == "unregister") {
    v1::UnregisterAdapterRequest request;
    v1::UnregisterAdapterResponse response;
    request.set_name(words[1]);
    return control->UnregisterAdapter(context, request, &response);
  }
  if (verb == "load") {
    v1::LoadAdapterRequest request;
    v1::LoadAdapterResponse response;
    request.set_name(words[1]);
    return control->LoadAdapter(context, request, &response);
  }
  if (verb == "unload") {
    v1::UnloadAdapterRequest request;
    v1::UnloadAdapterResponse response;
    request.set_name(words[1]);
    request.set_unpin(arguments.Has("--unpin"));
    return control->UnloadAdapter(context, request, &response);
  }
  v1::PinAdapterRequest request;
  v1::PinAdapterResponse response;
  request.set_name(words[1]);
  request.set_pinned(verb == "pin");
  return control->PinAdapter(context, request, &response);
}

int RunAdapters(const Arguments& arguments, Session* session) {
  constexpr absl::string_view kNamed[] = {"unregister", "load", "unload", "pin", "unpin"};
  const std::vector<std::string>& words = arguments.positional();
  const std::string verb = words.empty() ? "" : words[0];
  if (arguments.Has("--unpin") && verb != "unload") return UsageError("--unpin needs unload");
  if (arguments.Has("--model") && verb != "register") return UsageError("--model needs register");
  if (verb == "watch") return WatchAdapters(session);
  if (verb == "list") {
    v1::ListAdaptersResponse list;
    const int status = RunUnary(session, [&](grpc::ClientContext* context) {
      return session->control().ListAdapters(context, {}, &list);
    });
    if (status == kOk) PrintAdapters(list, *session);
    return status;
  }
  if (verb == "register") {
    if (words.size() != 2 && words.size() != 3) return UsageError("adapters register [NAME] DIR");
  } else if (!absl::c_linear_search(kNamed, verb)) {
    return UsageError(
        "adapters needs a verb: register, unregister, load, unload, pin, unpin, list or watch");
  } else if (words.size() != 2 || words[1].empty()) {
    return UsageError(absl::StrCat("adapters ", verb, " needs a NAME"));
  }
  return RunUnary(session, [&](grpc::ClientContext* context) {
    return ChangeAdapter(arguments, &session->control(), context);
  });
}

}  // namespace

std::vector<Command> ControlCommands() {
  return {
      {"models", "", "list the served models", {}, RunModels, 0},
      {"load",
       "",
       "show how busy the server is",
       {{"--watch", nullptr, "print again at every interval until Ctrl-C"},
        {"--interval-ms", "N", "interval of --watch in ms (1000)"}},
       RunLoad,
       0},
      {"cancel", "REQUEST_ID", "end a running call", {}, RunCancel, 1},
      {"drain",
       "",
       "refuse new calls, let running ones finish",
       {{"--exit", nullptr, "end the server when the running calls have finished"},
        {"--wait", nullptr, "return when the running calls have finished"}},
       RunDrain,
       0},
      {"health", "[SERVICE]", "SERVING or NOT_SERVING (exit status 1)", {}, RunHealth, 1},
      {"capabilities", "", "show the server's features and limits", {}, RunCapabilities, 0},
      {"adapters",
       "register|unregister|load|unload|pin|unpin|list|watch [NAME] [DIR]",
       "LoRA adapters: register a PEFT folder (on the server's disk), load, pin, ...",
       {{"--model", "NAME", "base model of the registered adapters"},
        {"--unpin", nullptr, "unload an adapter although it is pinned"}},
       RunAdapters},
  };
}

}  // namespace tessera::cli

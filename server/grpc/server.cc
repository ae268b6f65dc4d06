#include "server/grpc/server.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "server/call/limits.h"
#include "server/call/responder_pool.h"
#include "server/call/serving.h"
#include "server/config/config.h"
#include "server/config/net.h"
#include "server/grpc/control_service.h"
#include "server/grpc/inference_service.h"

namespace tessera {
namespace {

constexpr char kServiceName[] = "tessera.v1.Inference";

// Writes gRPC's log lines to our log at level DEBUG. gRPC also returns important errors as
// statuses.
void LogFromGrpc(gpr_log_func_args* args) {
  TLOG_DEBUG("grpc {}:{}: {}", args->file, args->line, args->message);
}

void SetConnectionOptions(const ServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(kMaxMessageBytes));
  builder->SetMaxSendMessageSize(static_cast<int>(kMaxMessageBytes));
  // Without SO_REUSEPORT, binding a port that another process uses is an error.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, options.keepalive_seconds * 1000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  // Clients may ping every 10 s, with or without calls.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  if (options.max_connection_age_seconds > 0) {
    const int64_t age_ms = int64_t{1000} * options.max_connection_age_seconds;
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                                static_cast<int>(std::min<int64_t>(age_ms, INT32_MAX)));
  }
}

class GrpcServer final : public Server {
 public:
  GrpcServer(const ServerOptions& options, ServingContext* context)
      : context_(context),
        pool_(options.responder_threads, options.preparer_bytes, context),
        inference_(NewInferenceService(context, &pool_)),
        control_(NewControlService(context, &pool_, [this] { BeginDrain(); })) {}
  ~GrpcServer() override { Shutdown(0); }

  absl::Status Start(const ServerOptions& options) {
    absl::StatusOr<HostPort> address = ParseHostPort(options.listen);
    if (!address.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--listen ", address.status().message()));
    }
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(FormatHostPort(*address), grpc::InsecureServerCredentials(), &port);
    SetConnectionOptions(options, &builder);
    builder.RegisterService(inference_.get());
    builder.RegisterService(control_.get());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return ListenError("--listen", *address);
    }
    address->port = port;
    address_ = FormatHostPort(*address);
    PublishHealth();
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }

  void SetHealthy(bool healthy) override {
    if (healthy_.exchange(healthy) != healthy) PublishHealth();
  }

  void BeginDrain() override {
    if (!context_->draining.exchange(true)) PublishHealth();
  }

  int64_t num_open_calls() const override { return context_->live.num_open(); }

  void CancelAll() override { pool_.CancelAll(); }

  void Shutdown(int64_t grace_us) override {
    if (server_ == nullptr) return;
    BeginDrain();
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::microseconds(grace_us));
    server_.reset();
  }

 private:
  void PublishHealth() {
    // The lock orders concurrent callers, so that the published status is the latest state.
    std::lock_guard<std::mutex> lock(health_mutex_);
    const bool serving = healthy_.load() && !context_->draining.load();
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    health->SetServingStatus("", serving);
    health->SetServingStatus(kServiceName, serving);
  }

  ServingContext* const context_;
  ResponderPool pool_;
  const std::unique_ptr<grpc::Service> inference_;
  const std::unique_ptr<grpc::Service> control_;
  std::string address_;
  std::atomic<bool> healthy_{true};
  std::mutex health_mutex_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> StartServer(const ServerOptions& options,
                                                    ServingContext* context) {
  gpr_set_log_function(&LogFromGrpc);
  auto server = std::make_unique<GrpcServer>(options, context);
  RETURN_IF_ERROR(server->Start(options));
  return server;
}

}  // namespace tessera

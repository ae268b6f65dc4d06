#include "server/grpc/server.h"

#include <grpc/support/log.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/resource_quota.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "kernels/base/log_limiter.h"
#include "kernels/base/status.h"
#include "server/call/limits.h"
#include "server/call/responder_pool.h"
#include "server/call/serving.h"
#include "server/config/config.h"
#include "server/door/port_watch.h"
#include "server/grpc/authenticator.h"
#include "server/grpc/control_service.h"
#include "server/grpc/inference_service.h"
#include "server/grpc/reflection_service.h"
#include "tessera/v1/control.grpc.pb.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera {
namespace {

constexpr char kServiceName[] = "tessera.v1.Inference";
constexpr int64_t kQuietUs = 100'000;
constexpr int64_t kMaxLingerUs = 1'000'000;

// Writes gRPC's errors to our log at level ERROR and its other lines at level DEBUG. Peers cause
// some of the errors, so the lines of each place in gRPC's source are limited. gRPC's log function
// has no argument for a state, so the state is static. It is never destroyed, because gRPC's
// threads may log until the process ends.
void LogFromGrpc(gpr_log_func_args* args) {
  if (args->severity != GPR_LOG_SEVERITY_ERROR) {
    TLOG_DEBUG("grpc {}:{}: {}", args->file, args->line, args->message);
    return;
  }
  static auto* const limiter = new LogLimiter();
  const int64_t now_us = SteadyClock().NowUs();
  for (const LogLimiter::Summary& summary : limiter->TakeSummaries(now_us)) {
    TLOG_ERROR("grpc {}: {} more errors in the last {:.1f} s", summary.kind, summary.count,
               static_cast<double>(summary.span_us) * 1e-6);
  }
  const std::string place = absl::StrCat(args->file, ":", args->line);
  if (limiter->Admit(place, now_us)) TLOG_ERROR("grpc {}: {}", place, args->message);
}

// The services that the server offers. gRPC's health service has no descriptor of its own: the
// generated code of our copy of its proto has it, and the reflection services find it there.
std::vector<std::string> ServiceNames() {
  google::protobuf::LinkMessageReflection<grpc::health::v1::HealthCheckRequest>();
  return {v1::Inference::service_full_name(), v1::Control::service_full_name(),
          grpc::health::v1::Health::service_full_name(),
          grpc::reflection::v1::ServerReflection::service_full_name(),
          grpc::reflection::v1alpha::ServerReflection::service_full_name()};
}

// gRPC's memory for reading from all connections. The door bounds requests that have arrived in
// part, and the preparers bound large requests that wait; this quota is for what both overlook.
constexpr int64_t kMinQuotaBytes = int64_t{256} << 20;
// How long a new connection may take until its first SETTINGS frame.
constexpr int kHandshakeTimeoutMs = 20'000;
// Threads that serve connections beside gRPC's own.
constexpr int kNumPollers = 2;
// How long clients may read their last bytes after gRPC has ended.
constexpr int64_t kLastBytesUs = 1'000'000;

void SetConnectionOptions(const ServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(kMaxMessageBytes));
  builder->SetMaxSendMessageSize(static_cast<int>(kMaxMessageBytes));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.door.guard.max_streams);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  grpc::ResourceQuota quota("tessera");
  quota.Resize(static_cast<size_t>(kMinQuotaBytes + options.preparer_bytes +
                                   options.door.max_incoming_bytes));
  builder->SetResourceQuota(quota);
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
        authenticator_(options.identities != nullptr ? options.identities
                                                     : std::make_shared<const Identities>(),
                       &client_names_),
        inference_(NewInferenceService(context, &pool_, options.unread, &authenticator_)),
        control_(NewControlService(
            context, &pool_, [this] { BeginDrain(); }, &authenticator_)),
        reflections_(NewReflectionServices(ServiceNames(), &authenticator_)) {}
  ~GrpcServer() override { Shutdown(0); }

  absl::Status Start(const ServerOptions& options) {
    absl::StatusOr<HostPort> address = ParseHostPort(options.listen);
    if (!address.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--listen ", address.status().message()));
    }
    grpc::EnableDefaultHealthCheckService(true);
    DoorOptions door_options = options.door;
    door_options.listen = *address;
    door_options.client_names = &client_names_;
    ASSIGN_OR_RETURN(
        door_, OpenDoor(door_options, context_->clock,
                        options.door_stats != nullptr ? options.door_stats : &unread_door_stats_));
    grpc::ServerBuilder builder;
    using Connections = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
    connections_ = builder.experimental().AddExternalConnectionAcceptor(
        Connections::FROM_FD, grpc::InsecureServerCredentials());
    SetConnectionOptions(options, &builder);
    poll_queue_ = builder.AddCompletionQueue();
    builder.RegisterService(inference_.get());
    builder.RegisterService(control_.get());
    for (const auto& reflection : reflections_) builder.RegisterService(reflection.get());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::InternalError("gRPC cannot start; see --log-level debug");
    for (int i = 0; i < kNumPollers; ++i) pollers_.emplace_back([this] { Poll(); });
    PublishHealth();
    door_->Start([this](int fd) {
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
      connection.fd = fd;
      connections_->HandleNewConnection(&connection);
    });
    StartPortWatch(options);
    return absl::OkStatus();
  }

  const std::string& address() const override { return door_->address(); }

  void SetHealthy(bool healthy) override {
    if (healthy_.exchange(healthy) != healthy) PublishHealth();
  }

  void SetTls(std::shared_ptr<const TlsContext> tls) override { door_->SetTls(std::move(tls)); }
  void SetIdentities(std::shared_ptr<const Identities> identities) override {
    authenticator_.SetIdentities(std::move(identities));
  }

  void BeginDrain() override {
    if (!context_->draining.exchange(true)) PublishHealth();
  }

  int64_t num_open_calls() const override { return context_->live.num_open(); }

  void CancelAll() override { pool_.CancelAll(); }

  void Shutdown(int64_t grace_us) override {
    if (server_ == nullptr) return;
    BeginDrain();
    AwaitQuiet(std::min(grace_us, kMaxLingerUs));
    port_watch_.reset();
    // gRPC takes no connections while it shuts down, so the port is closed first.
    door_->StopAccepting();
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::microseconds(grace_us));
    door_->Stop(kLastBytesUs);
    poll_queue_->Shutdown();  // after the server, as gRPC demands
    for (std::thread& poller : pollers_) poller.join();
    pollers_.clear();
    server_.reset();
  }

 private:
  // Reads and writes connections. The queue never has an event: gRPC divides the connections among
  // the completion queues of a server, and a queue's connections are served by those who wait for
  // it. The callback services have a queue with few threads of gRPC's own.
  void Poll() {
    void* tag = nullptr;
    bool ok = false;
    while (poll_queue_->Next(&tag, &ok)) continue;
  }

  void StartPortWatch(const ServerOptions& options) {
    PortWatchOptions watch;
    watch.address = door_->local_address();
    watch.interval_us = options.port_check_us;
    watch.announce = [this](const PeerAddress& probe) { door_->ExpectProbe(probe); };
    watch.report = [this](bool answers) {
      context_->port_answers.store(answers);
      PublishHealth();
    };
    port_watch_ = WatchPort(std::move(watch));
  }

  // Refuses calls for some more time. gRPC cancels the calls that it receives while it shuts down,
  // so that their clients see CANCELLED; a call that is refused ends with UNAVAILABLE and a
  // message. Returns when no call has come for kQuietUs, or after `limit_us`.
  void AwaitQuiet(int64_t limit_us) const {
    const Clock& clock = *context_->clock;
    const int64_t begin_us = clock.NowUs();
    int64_t last_us = begin_us;  // when the last call came
    uint64_t num_calls = context_->next_call.load();
    while (clock.NowUs() - begin_us < limit_us && clock.NowUs() - last_us < kQuietUs) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const uint64_t now_calls = context_->next_call.load();
      if (now_calls != num_calls) last_us = clock.NowUs();
      num_calls = now_calls;
    }
  }

  void PublishHealth() {
    // The lock orders concurrent callers, so that the published status is the latest state.
    std::lock_guard<std::mutex> lock(health_mutex_);
    const bool serving =
        healthy_.load() && context_->port_answers.load() && !context_->draining.load();
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    health->SetServingStatus("", serving);
    health->SetServingStatus(kServiceName, serving);
  }

  ServingContext* const context_;
  ResponderPool pool_;
  ClientNames client_names_;
  Authenticator authenticator_;
  const std::unique_ptr<grpc::Service> inference_;
  const std::unique_ptr<grpc::Service> control_;
  DoorStats unread_door_stats_;
  const std::vector<std::unique_ptr<grpc::Service>> reflections_;
  std::atomic<bool> healthy_{true};
  std::mutex health_mutex_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> connections_;
  std::unique_ptr<Door> door_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::ServerCompletionQueue> poll_queue_;
  std::vector<std::thread> pollers_;
  std::unique_ptr<PortWatch> port_watch_;
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

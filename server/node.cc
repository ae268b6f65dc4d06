#include "server/node.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "scheduler/device/assemble.h"
#include "scheduler/step/engine.h"
#include "server/call/serving.h"
#include "server/grpc/server.h"
#include "server/metrics/metrics.h"
#include "server/model_loader.h"
#include "server/node_options.h"
#include "server/node_parts.h"
#include "tessera/v1/config.pb.h"

namespace tessera {
namespace {

constexpr int64_t kProgressIntervalUs = 2'000'000;
constexpr int64_t kShortestIntervalUs = 200'000;

// Selects the reports of progress to log: at each 10 % (but at most every 0.2 s), every 2 s, and at
// the end.
class LoadProgress {
 public:
  explicit LoadProgress(const Clock* clock) : clock_(clock) {}

  bool IsDue(const std::string& model, int64_t done_bytes, int64_t total_bytes) {
    const int64_t tenths = total_bytes > 0 ? 10 * done_bytes / total_bytes : 10;
    const int64_t now_us = clock_->NowUs();
    const bool is_last = done_bytes >= total_bytes;
    const int64_t interval_us = tenths == tenths_ ? kProgressIntervalUs : kShortestIntervalUs;
    if (!is_last && model == model_ && now_us - last_us_ < interval_us) return false;
    model_ = model;
    tenths_ = tenths;
    last_us_ = now_us;
    return true;
  }

 private:
  const Clock* const clock_;
  std::string model_;
  int64_t tenths_ = -1;
  int64_t last_us_ = 0;
};

void LogLines(const std::string& text) {
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    TLOG_INFO("{}", text.substr(begin, end - begin));
    begin = end + 1;
  }
}

ControlAccess ControlAccessOf(const v1::ServerConfig& server) {
  if (server.control() == "off") return ControlAccess::kOff;
  return server.control() == "loopback" ? ControlAccess::kLoopback : ControlAccess::kDefault;
}

class RunningNode final : public Node {
 public:
  ~RunningNode() override { Shutdown(); }

  absl::Status Start(const v1::Config& config, const std::function<void()>& while_loading,
                     ConfigSource source) {
    // Made before the files are read, so that no change is missed.
    security_ = std::make_unique<SecurityWatch>(config, std::move(source));
    ASSIGN_OR_RETURN(metrics_, StartMetrics(MetricsAddressOf(config.server()), kVersion));
    TLOG_INFO("probes and metrics at {}", metrics_->address());
    const auto on_stage = [&](const std::string& stage) {
      metrics_->SetProgress(stage);
      if (while_loading) while_loading();
    };
    ASSIGN_OR_RETURN(NodeParts parts, PrepareNode(config, on_stage));
    LogLines(DescribePlan(parts.options, parts.plan));
    for (const std::string& why : parts.skipped_adapters) {
      TLOG_WARN("skipped at the start: {}; register it when it is whole (Control.RegisterAdapters)",
                why);
    }
    ServerOptions options;
    options.door.tls = parts.tls;
    options.identities = parts.identities;
    RETURN_IF_ERROR(Load(std::move(parts), on_stage));
    SetLimits(config);
    return Serve(config, std::move(options));
  }

  const std::string& grpc_address() const override { return server_->address(); }
  const std::string& metrics_address() const override { return metrics_->address(); }

  void UpdateHealth() override {
    const bool healthy = Live();
    if (healthy == healthy_) return;
    healthy_ = healthy;
    if (!healthy) TLOG_ERROR("the engine makes no progress: not serving");
    server_->SetHealthy(healthy);
  }
  void UpdateSecurity() override {
    const SecurityWatch::Changes changes = security_->Look(clock_.NowUs());
    if (changes.tls != nullptr) server_->SetTls(changes.tls);
    if (changes.identities != nullptr) server_->SetIdentities(changes.identities);
  }
  bool exit_requested() const override { return context_.exit_requested.load(); }
  void BeginDrain() override { server_->BeginDrain(); }
  int64_t num_open_calls() const override { return server_->num_open_calls(); }
  void CancelAll() override {
    server_->CancelAll();
    engine_->CancelAll(CancelReason::kShutdown);
  }

  // The order matters: first the port and the calls, then the engine with its runner, then the
  // objects that they use.
  void Shutdown() override {
    if (server_ != nullptr) server_->Shutdown(/*grace_us=*/5'000'000);
    if (engine_ != nullptr) engine_->Stop();
    metrics_.reset();
    server_.reset();
    engine_.reset();
  }

 private:
  bool Live() const { return engine_->live(stale_us_); }

  // Loads the weights and starts the engine.
  absl::Status Load(NodeParts parts, const std::function<void(const std::string&)>& on_stage) {
    AssembleOptions& options = parts.options;
    LoadProgress progress(&clock_);
    options.progress = [&](const std::string& model, int64_t done_bytes, int64_t total_bytes) {
      const std::string stage = absl::StrCat("loading ", model, ": ", done_bytes >> 20, " of ",
                                             total_bytes >> 20, " MiB");
      if (progress.IsDue(model, done_bytes, total_bytes)) TLOG_INFO("{}", stage);
      on_stage(stage);
    };
    ASSIGN_OR_RETURN(Device device, Assemble(options, parts.plan, std::move(parts.device)));
    on_stage("starting the engine");
    for (size_t i = 0; i < device.engine.models.size(); ++i) {
      parts.models->SetRevision(i, RevisionOf(device.engine.models[i].identity));
    }
    TLOG_INFO("backend {}, {} threads", device.backend_name, device.num_threads);
    if (!options.pack_cache.dir.empty()) {
      TLOG_INFO("pack cache: {} weights taken, {} packed, {} of them stored",
                device.pack_cache.taken, device.pack_cache.packed, device.pack_cache.stored);
    }
    registry_ = std::move(parts.models);
    slab_bytes_ = parts.plan.slab_bytes;
    max_num_seqs_ = options.engine.max_num_seqs;
    max_queue_ = options.engine.max_queue;
    context_.device = device.backend_name;
    adapters_ = std::move(device.adapters);
    engine_ = NewEngine(std::move(device.engine), std::move(device.kv), std::move(device.runner),
                        &clock_);
    return absl::OkStatus();
  }

  void SetLimits(const v1::Config& config) {
    // Twice the calls that may wait and run: as many more calls may be in preparation or writing.
    context_.max_open_calls =
        std::max(context_.max_open_calls, 2 * (int64_t{max_queue_} + max_num_seqs_));
    context_.max_prompt_bytes = static_cast<int64_t>(config.limits().max_prompt_bytes());
    if (config.limits().has_stream_buffer_bytes()) {
      context_.stream_buffer_bytes = static_cast<int64_t>(config.limits().stream_buffer_bytes());
    }
    stale_us_ =
        int64_t{config.server().has_stale_seconds() ? config.server().stale_seconds() : 60} *
        1'000'000;
  }

  // `options` has the door's TLS and the identities.
  absl::Status Serve(const v1::Config& config, ServerOptions options) {
    context_.generator = engine_.get();
    context_.models = registry_.get();
    context_.adapters = adapters_.get();
    context_.adapter_verbs = {
        [this](AdapterId id, bool pin, AdapterWait wait) {
          engine_->LoadAdapter(id, pin, std::move(wait));
        },
        [this](AdapterId id) { engine_->UnpinAdapter(id); },
        [this](AdapterId id, bool unpin) { engine_->UnloadAdapter(id, unpin); }};
    context_.adapter_roots = AdapterRootsOf(config.adapters());
    context_.clock = &clock_;
    context_.load = [this] { return Snapshot(); };
    context_.version = kVersion;
    const v1::ServerConfig& server = config.server();
    options.listen = ListenAddressOf(server);
    options.responder_threads = ResponderThreadsOf(server);
    options.max_connection_age_seconds = server.max_connection_age_seconds();
    if (server.has_keepalive_seconds()) options.keepalive_seconds = server.keepalive_seconds();
    const std::shared_ptr<const TlsContext> tls = options.door.tls;
    options.door = DoorOptionsOf(config.limits());
    options.door.tls = tls;
    options.door_stats = &door_stats_;
    context_.control = ControlAccessOf(server);

    MetricsSources sources;
    sources.engine = &engine_->stats();
    sources.models = &engine_->models();
    sources.context = &context_;
    sources.door = &door_stats_;
    sources.adapters = adapters_.get();
    sources.max_num_seqs = max_num_seqs_;
    sources.slab_bytes = slab_bytes_;
    sources.live = [this] { return Live(); };
    ASSIGN_OR_RETURN(server_, StartServer(options, &context_));
    metrics_->Publish(std::move(sources));
    return absl::OkStatus();
  }

  LoadSnapshot Snapshot() const {
    const EngineStats& stats = engine_->stats();
    LoadSnapshot load;
    load.running = stats.sequences_running.value();
    load.waiting = stats.sequences_waiting.value();
    load.paused = static_cast<int64_t>(stats.sequences_paused.value());
    load.queue_delay_us = engine_->QueueDelayUs();
    load.pool_bytes = stats.slabs_total.value() * slab_bytes_;
    load.free_bytes = stats.slabs_free.value() * slab_bytes_;
    load.cached_bytes = stats.slabs_cached.value() * slab_bytes_;
    load.kv_bytes = stats.slabs_kv.value() * slab_bytes_;
    load.adapter_bytes = stats.slabs_adapter.value() * slab_bytes_;
    load.staging_bytes = stats.slabs_staging.value() * slab_bytes_;
    load.generated_tokens = stats.generated_tokens.value();
    load.prompt_tokens = stats.prompt_tokens.value();
    return load;
  }

  SteadyClock clock_;
  std::unique_ptr<SecurityWatch> security_;
  ServingContext context_;
  DoorStats door_stats_;
  std::unique_ptr<ModelRegistry> registry_;
  std::unique_ptr<AdapterRegistry> adapters_;  // declared before engine_, which uses it
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<MetricsServer> metrics_;
  int32_t max_num_seqs_ = 0;
  int32_t max_queue_ = 0;
  int64_t slab_bytes_ = 0;
  int64_t stale_us_ = 0;
  bool healthy_ = true;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Node>> StartNode(const v1::Config& config,
                                                const std::function<void()>& while_loading,
                                                ConfigSource source) {
  auto node = std::make_unique<RunningNode>();
  RETURN_IF_ERROR(node->Start(config, while_loading, std::move(source)));
  return node;
}

absl::StatusOr<std::string> CheckNode(const v1::Config& config) {
  ASSIGN_OR_RETURN(const NodeParts parts, PrepareNode(config, [](const std::string&) {}));
  if (!parts.skipped_adapters.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("a start skips these adapters: ",
                                                   absl::StrJoin(parts.skipped_adapters, "; ")));
  }
  RETURN_IF_ERROR(CheckFiles(parts.options, parts.plan, parts.device));
  return DescribePlan(parts.options, parts.plan);
}

}  // namespace tessera

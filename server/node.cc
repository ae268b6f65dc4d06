#include "server/node.h"

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "scheduler/device/assemble.h"
#include "scheduler/step/engine.h"
#include "server/call/serving.h"
#include "server/config/config.h"
#include "server/grpc/adapter_control.h"
#include "server/grpc/server.h"
#include "server/metrics/metrics.h"
#include "server/model_loader.h"
#include "server/node_options.h"
#include "tessera/v1/config.pb.h"
#include "tessera/v1/control.pb.h"

namespace tessera {
namespace {

constexpr int64_t kProgressIntervalUs = 2'000'000;
constexpr int64_t kShortestIntervalUs = 200'000;

// Logs the progress of packing weights: at each 10 % (but at most every 0.2 s), every 2 s, and at
// the end.
class LoadProgress {
 public:
  explicit LoadProgress(const Clock* clock) : clock_(clock) {}

  void Report(const std::string& model, int64_t done_bytes, int64_t total_bytes) {
    const int64_t tenths = total_bytes > 0 ? 10 * done_bytes / total_bytes : 10;
    const int64_t now_us = clock_->NowUs();
    const bool is_last = done_bytes >= total_bytes;
    const int64_t interval_us = tenths == tenths_ ? kProgressIntervalUs : kShortestIntervalUs;
    if (!is_last && model == model_ && now_us - last_us_ < interval_us) return;
    model_ = model;
    tenths_ = tenths;
    last_us_ = now_us;
    TLOG_INFO("loading {}: {} of {} MiB", model, done_bytes >> 20, total_bytes >> 20);
  }

 private:
  const Clock* const clock_;
  std::string model_;
  int64_t tenths_ = -1;
  int64_t last_us_ = 0;
};

std::string DescribePlan(const AssembleOptions& options, const MemoryPlan& plan) {
  std::string text;
  for (size_t i = 0; i < plan.models.size(); ++i) {
    const MemoryPlan::PerModel& m = plan.models[i];
    absl::StrAppend(&text, "model ", options.models[i].name, ": ", m.spec.family, ", weights ",
                    DTypeName(m.weight_dtype), " ", FormatSize(m.weight_bytes), ", KV ",
                    DTypeName(m.kv_dtype), " in pages of ", m.layout.page_tokens(),
                    " tokens, buffers ", FormatSize(m.arena_bytes), ", max-model-len ",
                    m.max_model_len, "\n");
    if (m.spec.quantization.method != QuantMethod::kNone) {
      absl::StrAppend(&text, "model ", options.models[i].name, ": layers are taken as ",
                      QuantMethodName(m.spec.quantization.method), " quantised them\n");
    } else if (m.spec.stored_dtype == DType::kF16) {
      absl::StrAppend(&text, "model ", options.models[i].name, ": float16 weights are computed as ",
                      DTypeName(m.weight_dtype), "\n");
    }
    if (m.max_model_len < m.spec.max_positions && options.max_model_len == 0) {
      absl::StrAppend(&text, "model ", options.models[i].name, ": its context of ",
                      m.spec.max_positions,
                      " tokens is cut to what the KV cache holds; raise --kv-cache-bytes\n");
    }
  }
  absl::StrAppend(&text, "kv-cache-bytes ", FormatSize(plan.pool_bytes()), " (", plan.num_slabs,
                  " slabs), max-num-seqs ", options.engine.max_num_seqs,
                  ", max-num-batched-tokens ", options.engine.max_num_batched_tokens,
                  ", max-queue ", options.engine.max_queue, ", working memory ",
                  FormatSize(plan.work.total()), ", total ", FormatSize(plan.total_bytes()), " of ",
                  FormatSize(plan.available_bytes), " available");
  return text;
}

void LogLines(const std::string& text) {
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    TLOG_INFO("{}", text.substr(begin, end - begin));
    begin = end + 1;
  }
}

class RunningNode final : public Node {
 public:
  ~RunningNode() override { Shutdown(); }

  absl::Status Start(const v1::Config& config, const std::function<void()>& while_loading) {
    AssembleOptions options = OptionsOf(config);
    RETURN_IF_ERROR(CheckOptions(options));
    ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(options));
    LogLines(DescribePlan(options, plan));

    std::vector<ServedModel> models;
    for (size_t i = 0; i < plan.models.size(); ++i) {
      if (while_loading) while_loading();
      ASSIGN_OR_RETURN(ServedModel model,
                       LoadServedModel(options.models[i], static_cast<int32_t>(i), plan.models[i],
                                       static_cast<int64_t>(config.limits().max_prompt_bytes())));
      models.push_back(std::move(model));
    }
    for (ServedModel& model : models) {
      model.max_embed_inputs = std::min(model.max_embed_inputs, options.engine.max_queue);
    }
    // Twice the calls that may wait and run: as many more calls may be in preparation or writing.
    context_.max_open_calls =
        std::max(context_.max_open_calls,
                 2 * (int64_t{options.engine.max_queue} + options.engine.max_num_seqs));
    context_.max_prompt_bytes = static_cast<int64_t>(config.limits().max_prompt_bytes());

    LoadProgress progress(&clock_);
    options.progress = [&](const std::string& model, int64_t done, int64_t total) {
      progress.Report(model, done, total);
      if (while_loading) while_loading();
    };
    ASSIGN_OR_RETURN(Device device, Assemble(options, plan));
    if (while_loading) while_loading();
    for (size_t i = 0; i < models.size(); ++i) {
      models[i].revision = RevisionOf(device.engine.models[i].identity);
    }
    registry_ = std::make_unique<ModelRegistry>(std::move(models));
    TLOG_INFO("backend {}, {} threads", device.backend_name, device.num_threads);
    if (!options.pack_cache.dir.empty()) {
      TLOG_INFO("pack cache: {} weights taken, {} packed, {} of them stored",
                device.pack_cache.taken, device.pack_cache.packed, device.pack_cache.stored);
    }
    slab_bytes_ = plan.slab_bytes;
    max_num_seqs_ = options.engine.max_num_seqs;
    stale_us_ =
        int64_t{config.server().has_stale_seconds() ? config.server().stale_seconds() : 60} *
        1'000'000;
    context_.device = device.backend_name;
    adapters_ = std::move(device.adapters);
    engine_ = NewEngine(std::move(device.engine), std::move(device.kv), std::move(device.runner),
                        &clock_);
    return Serve(config);
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

  // Registers the adapters of `adapters.paths`. Each path is [MODEL=]DIR; a '=' after the first '/'
  // belongs to DIR.
  absl::Status RegisterAtStart(const v1::AdaptersConfig& config) const {
    if (config.paths().empty()) return absl::OkStatus();
    v1::RegisterAdaptersRequest request;
    for (const std::string& text : config.paths()) {
      const size_t equals = text.find('=');
      const bool named = equals != std::string::npos && equals < text.find('/');
      v1::AdapterSource* const source = request.add_adapters();
      if (named) source->set_model(text.substr(0, equals));
      source->set_path(named ? text.substr(equals + 1) : text);
    }
    v1::RegisterAdaptersResponse response;
    RETURN_IF_ERROR(RegisterAdapters(context_, request, &response));
    TLOG_INFO("{} adapters registered", response.registered());
    return absl::OkStatus();
  }

  absl::Status Serve(const v1::Config& config) {
    context_.generator = engine_.get();
    context_.models = registry_.get();
    context_.adapters = adapters_.get();
    context_.adapter_verbs = {[this](AdapterId id, bool pin, AdapterWait wait) {
                                engine_->LoadAdapter(id, pin, std::move(wait));
                              },
                              [this](AdapterId id) { engine_->UnpinAdapter(id); },
                              [this](AdapterId id) { engine_->UnloadAdapter(id); }};
    RETURN_IF_ERROR(RegisterAtStart(config.adapters()));
    context_.clock = &clock_;
    context_.load = [this] { return Load(); };
    context_.version = kVersion;
    if (config.limits().has_stream_buffer_bytes()) {
      context_.stream_buffer_bytes = static_cast<int64_t>(config.limits().stream_buffer_bytes());
    }
    ServerOptions options;
    const v1::ServerConfig& server = config.server();
    if (server.has_listen()) options.listen = server.listen();
    options.responder_threads =
        std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 4, 2, 4);
    if (server.has_responder_threads()) options.responder_threads = server.responder_threads();
    options.max_connection_age_seconds = server.max_connection_age_seconds();
    if (server.has_keepalive_seconds()) options.keepalive_seconds = server.keepalive_seconds();
    options.door = DoorOptionsOf(config.limits());
    options.door_stats = &door_stats_;
    context_.control_enabled = server.control() != "off";

    MetricsSources sources;
    sources.engine = &engine_->stats();
    sources.models = &engine_->models();
    sources.context = &context_;
    sources.door = &door_stats_;
    sources.adapters = adapters_.get();
    sources.max_num_seqs = max_num_seqs_;
    sources.slab_bytes = slab_bytes_;
    sources.live = [this] { return Live(); };
    const std::string listen =
        server.has_metrics_listen() ? server.metrics_listen() : "127.0.0.1:9464";
    ASSIGN_OR_RETURN(metrics_, StartMetrics(listen, std::move(sources)));
    ASSIGN_OR_RETURN(server_, StartServer(options, &context_));
    return absl::OkStatus();
  }

  LoadSnapshot Load() const {
    const EngineStats& stats = engine_->stats();
    LoadSnapshot load;
    load.running = stats.sequences_running.value();
    load.waiting = stats.sequences_waiting.value();
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
  ServingContext context_;
  DoorStats door_stats_;
  std::unique_ptr<ModelRegistry> registry_;
  std::unique_ptr<AdapterRegistry> adapters_;  // declared before engine_, which uses it
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<MetricsServer> metrics_;
  int32_t max_num_seqs_ = 0;
  int64_t slab_bytes_ = 0;
  int64_t stale_us_ = 0;
  bool healthy_ = true;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Node>> StartNode(const v1::Config& config,
                                                const std::function<void()>& while_loading) {
  auto node = std::make_unique<RunningNode>();
  RETURN_IF_ERROR(node->Start(config, while_loading));
  return node;
}

absl::StatusOr<std::string> CheckNode(const v1::Config& config) {
  const AssembleOptions options = OptionsOf(config);
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(options));
  for (size_t i = 0; i < plan.models.size(); ++i) {
    RETURN_IF_ERROR(
        LoadServedModel(options.models[i], static_cast<int32_t>(i), plan.models[i], 0).status());
  }
  return DescribePlan(options, plan);
}

}  // namespace tessera

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "scheduler/step/engine.h"
#include "server/call/serving.h"
#include "server/door/door_stats.h"
#include "server/metrics/metrics.h"

namespace tessera {
namespace {

constexpr size_t kMaxShownAdapters = 64;

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

using Labels = std::vector<ClientMetric::Label>;

constexpr std::array<const char*, kNumMethods> kMethodNames = {"Generate", "Chat", "Embed",
                                                               "Tokenize", "Detokenize"};

class Families {
 public:
  MetricFamily* Add(const std::string& name, const std::string& help, MetricType type) {
    MetricFamily& family = families_.emplace_back();
    family.name = name;
    family.help = help;
    family.type = type;
    return &family;
  }
  void Count(const std::string& name, const std::string& help, int64_t value) {
    AddValue(Add(name, help, MetricType::Counter), {}, static_cast<double>(value));
  }
  void Value(const std::string& name, const std::string& help, double value) {
    AddValue(Add(name, help, MetricType::Gauge), {}, value);
  }
  void Distribution(const std::string& name, const std::string& help, const Histogram& histogram) {
    ClientMetric metric;
    uint64_t count = 0;
    for (size_t i = 0; i <= histogram.bounds().size(); ++i) {
      count += static_cast<uint64_t>(histogram.bucket(i));
      const bool is_last = i == histogram.bounds().size();
      const double bound =
          is_last ? std::numeric_limits<double>::infinity() : histogram.bounds()[i];
      metric.histogram.bucket.push_back({count, bound});
    }
    metric.histogram.sample_count = count;
    metric.histogram.sample_sum = histogram.sum();
    Add(name, help, MetricType::Histogram)->metric.push_back(std::move(metric));
  }
  static void AddValue(MetricFamily* family, Labels labels, double value) {
    ClientMetric metric;
    metric.label = std::move(labels);
    (family->type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
    family->metric.push_back(std::move(metric));
  }
  const std::vector<MetricFamily>& all() const { return families_; }

 private:
  std::vector<MetricFamily> families_;
};

double UsageRatio(const EngineStats& engine) {
  const int64_t used =
      engine.slabs_kv.value() + engine.slabs_adapter.value() + engine.slabs_staging.value();
  const int64_t total = engine.slabs_total.value();
  return total > 0 ? static_cast<double>(used) / static_cast<double>(total) : 0.0;
}

void AddRequests(const MetricsSources& sources, Families* families) {
  const EngineStats& engine = *sources.engine;
  MetricFamily* requests =
      families->Add("tessera_requests_total", "Sequences that finished, by model and reason.",
                    MetricType::Counter);
  for (size_t m = 0; m < sources.models->size(); ++m) {
    for (int r = 0; r < kNumFinishReasons; ++r) {
      Families::AddValue(requests,
                         {{"model", (*sources.models)[m].name},
                          {"reason", FinishReasonName(static_cast<FinishReason>(r))}},
                         static_cast<double>(engine.models[m].finished[r].value()));
    }
  }
  MetricFamily* nonfinite = families->Add(
      "tessera_nonfinite_results_total",
      "Sequences that ended with an error because a result was NaN or infinite, by model.",
      MetricType::Counter);
  for (size_t m = 0; m < sources.models->size(); ++m) {
    Families::AddValue(nonfinite, {{"model", (*sources.models)[m].name}},
                       static_cast<double>(engine.models[m].nonfinite_results.value()));
  }
  families->Value("tessera_requests_running", "Running sequences.",
                  static_cast<double>(engine.sequences_running.value()));
  families->Value("tessera_requests_waiting", "Queued and preempted sequences.",
                  static_cast<double>(engine.sequences_waiting.value()));
  families->Value("tessera_requests_paused",
                  "Sequences that wait, without a slot, until their slow reader has caught up.",
                  static_cast<double>(engine.sequences_paused.value()));
  families->Count("tessera_requests_refused_total", "Requests refused because the queue was full.",
                  engine.refused.value());
  families->Count("tessera_prompt_tokens_total", "Prompt tokens of admitted sequences.",
                  engine.prompt_tokens.value());
  families->Count("tessera_cached_prompt_tokens_total",
                  "Prompt tokens that were found in the prefix cache.",
                  engine.cached_prompt_tokens.value());
  families->Count("tessera_generated_tokens_total", "Tokens generated.",
                  engine.generated_tokens.value());
  families->Count("tessera_preemptions_total",
                  "Number of times that a running sequence was preempted, to be recomputed later.",
                  engine.preemptions.value());
  families->Count("tessera_adapter_loads_total", "Adapters read from disk.",
                  engine.adapter_loads.value());
  families->Count("tessera_adapter_evictions_total",
                  "Adapters evicted from the page pool to make room, or unloaded by an operator.",
                  engine.adapter_evictions.value());
}

void AddPool(const MetricsSources& sources, Families* families) {
  const EngineStats& engine = *sources.engine;
  MetricFamily* pages = families->Add("tessera_pages",
                                      "Equal pages of the pool, by their content; cached pages are "
                                      "evictable.",
                                      MetricType::Gauge);
  const std::pair<const char*, const Counter*> kinds[] = {{"free", &engine.slabs_free},
                                                          {"cached", &engine.slabs_cached},
                                                          {"kv", &engine.slabs_kv},
                                                          {"adapter", &engine.slabs_adapter},
                                                          {"staging", &engine.slabs_staging}};
  for (const auto& [kind, counter] : kinds) {
    Families::AddValue(pages, {{"kind", kind}}, static_cast<double>(counter->value()));
  }
  families->Value("tessera_page_bytes", "Bytes of one page of the pool.",
                  static_cast<double>(sources.slab_bytes));
  families->Value("tessera_kv_cache_usage_ratio",
                  "Share of the pool that is in use, 0 to 1; cached pages count as free.",
                  UsageRatio(engine));
}

void AddTimes(const EngineStats& engine, Families* families) {
  families->Distribution("tessera_time_to_first_token_seconds",
                         "Time from arrival to the first token.", engine.ttft_s);
  families->Distribution("tessera_inter_token_latency_seconds",
                         "Time between two tokens of a sequence.", engine.itl_s);
  families->Distribution("tessera_request_queue_seconds", "Time from arrival to the first step.",
                         engine.queue_s);
  families->Distribution("tessera_e2e_request_latency_seconds", "Time from arrival to the end.",
                         engine.e2e_s);
  families->Distribution("tessera_step_seconds", "Time of a step.", engine.step_s);
  families->Distribution("tessera_batch_tokens", "Tokens of a step.", engine.batch_tokens);
  families->Count("tessera_steps_total", "Steps run.", engine.steps.value());
  families->Value("tessera_queue_delay_seconds", "Predicted wait of a new request.",
                  engine.queue_delay_us.value() / 1e6);
  families->Value("tessera_cost_model_error_ratio", "Mean relative error of predicted step times.",
                  engine.cost_model_error.value());
}

void AddServer(const ServingContext& context, Families* families) {
  MetricFamily* calls =
      families->Add("tessera_grpc_calls_total",
                    "Inference calls that ended, by method and gRPC status.", MetricType::Counter);
  for (size_t method = 0; method < kMethodNames.size(); ++method) {
    for (int code = 0; code < kNumStatusCodes; ++code) {
      Families::AddValue(
          calls,
          {{"method", kMethodNames[method]},
           {"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(code))}},
          static_cast<double>(context.stats.calls[method][static_cast<size_t>(code)].value()));
    }
  }
  families->Value("tessera_grpc_calls_open", "Inference calls that are open.",
                  static_cast<double>(context.live.num_open()));
  families->Count("tessera_streams_paused_total",
                  "Number of times that a stream was paused because its reader was slow.",
                  context.stats.streams_paused.value());
  families->Count("tessera_replies_dropped_total",
                  "Unary replies that were dropped because their clients did not read them.",
                  context.stats.replies_dropped.value());
  families->Value("tessera_draining", "1 when new requests are refused.",
                  context.draining.load(std::memory_order_relaxed) ? 1.0 : 0.0);
}

// `device` is empty while models load.
void AddState(const std::string& version, const std::string& device, bool ready,
              Families* families) {
  families->Value("tessera_ready", "1 when new requests are served; 0 while models load.",
                  ready ? 1.0 : 0.0);
  Families::AddValue(families->Add("tessera_build_info", "Always 1.", MetricType::Gauge),
                     {{"version", version}, {"device", device}}, 1.0);
}

// The names of adapters in use, separated by commas, for the label `running_lora_adapters`.
std::string RunningAdapters(const MetricsSources& sources) {
  if (sources.adapters == nullptr) return "";
  std::vector<std::string> names;
  for (const AdapterListing& adapter : sources.adapters->List()) {
    if (adapter.num_running > 0) names.push_back(adapter.name);
    if (names.size() == kMaxShownAdapters) break;
  }
  return absl::StrJoin(names, ",");
}

void AddConnections(const DoorStats& door, Families* families) {
  families->Value("tessera_connections_open", "Open connections to the gRPC port.",
                  static_cast<double>(door.open.value()));
  families->Count("tessera_connections_accepted_total", "Connections that were accepted.",
                  door.accepted.value());
  MetricFamily* refused =
      families->Add("tessera_connections_refused_total",
                    "New connections that were refused, by reason.", MetricType::Counter);
  MetricFamily* closed =
      families->Add("tessera_connections_closed_total",
                    "Connections that the server closed, by reason.", MetricType::Counter);
  for (size_t i = 1; i < kNumCloseReasons; ++i) {  // 0 is kNone
    const auto reason = static_cast<CloseReason>(i);
    Families::AddValue(IsRefusal(reason) ? refused : closed, {{"reason", CloseReasonName(reason)}},
                       static_cast<double>(door.closed[i].value()));
  }
}

// Adds the metrics that Kubernetes inference gateways read, under vLLM's names.
void AddGatewayNames(const MetricsSources& sources, Families* families) {
  const EngineStats& engine = *sources.engine;
  families->Value("vllm:num_requests_waiting", "As tessera_requests_waiting.",
                  static_cast<double>(engine.sequences_waiting.value()));
  families->Value("vllm:num_requests_running", "As tessera_requests_running.",
                  static_cast<double>(engine.sequences_running.value()));
  families->Value("vllm:kv_cache_usage_perc", "As tessera_kv_cache_usage_ratio, 0 to 1.",
                  UsageRatio(engine));
  const PageLayout& layout = sources.models->front().layout;
  const int64_t pages =
      engine.slabs_total.value() / std::max<int64_t>(1, int64_t{layout.slabs_per_page});
  Families::AddValue(
      families->Add("vllm:cache_config_info", "Pages of the default model, always 1.",
                    MetricType::Gauge),
      {{"block_size", absl::StrCat(layout.page_tokens())}, {"num_gpu_blocks", absl::StrCat(pages)}},
      1.0);
  Families::AddValue(
      families->Add(
          "vllm:lora_requests_info",
          "Adapters that running sequences use, at most 64 of them; the value is the Unix time. "
          "Adapters have no slots: max_lora is the largest number of running sequences.",
          MetricType::Gauge),
      {{"max_lora", absl::StrCat(sources.max_num_seqs)},
       {"running_lora_adapters", RunningAdapters(sources)},
       {"waiting_lora_adapters", ""}},
      static_cast<double>(absl::ToUnixSeconds(absl::Now())));
}

}  // namespace

std::string MetricsText(const MetricsSources& sources) {
  Families families;
  AddRequests(sources, &families);
  AddPool(sources, &families);
  AddTimes(*sources.engine, &families);
  const ServingContext& context = *sources.context;
  AddServer(context, &families);
  const bool ready = sources.live() && context.port_answers.load() && !context.draining.load();
  AddState(context.version, context.device, ready, &families);
  if (sources.door != nullptr) AddConnections(*sources.door, &families);
  AddGatewayNames(sources, &families);
  return prometheus::TextSerializer().Serialize(families.all());
}

std::string LoadingMetricsText(const std::string& version) {
  Families families;
  AddState(version, "", false, &families);
  return prometheus::TextSerializer().Serialize(families.all());
}

}  // namespace tessera

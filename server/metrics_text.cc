// What is exported, under which names: the public face of our numbers.

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/engine.h"
#include "server/metrics.h"
#include "server/serving.h"

namespace tessera {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<std::pair<std::string, std::string>>;

const char* const kMethodNames[kNumMethods] = {"Generate", "Chat", "Embed", "Tokenize",
                                               "Detokenize"};
const char* const kStatusNames[kNumStatusCodes] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

class Page {
 public:
  MetricFamily* Family(const std::string& name, const std::string& help, MetricType type) {
    MetricFamily family;
    family.name = name;
    family.help = help;
    family.type = type;
    families_.push_back(std::move(family));
    return &families_.back();
  }
  void Counter(const std::string& name, const std::string& help, int64_t value) {
    AddCounter(Family(name, help, MetricType::Counter), {}, value);
  }
  void Gauge(const std::string& name, const std::string& help, double value,
             const Labels& labels = {}) {
    AddGauge(Family(name, help, MetricType::Gauge), labels, value);
  }
  void Histogram(const std::string& name, const std::string& help,
                 const tessera::Histogram& histogram) {
    ClientMetric metric;
    uint64_t cumulative = 0;
    for (size_t i = 0; i <= histogram.bounds().size(); ++i) {
      cumulative += static_cast<uint64_t>(histogram.bucket(i));
      ClientMetric::Bucket bucket;
      bucket.cumulative_count = cumulative;
      bucket.upper_bound = i < histogram.bounds().size() ? histogram.bounds()[i]
                                                         : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back(bucket);
    }
    metric.histogram.sample_count = cumulative;
    metric.histogram.sample_sum = histogram.sum();
    Family(name, help, MetricType::Histogram)->metric.push_back(std::move(metric));
  }

  static void AddCounter(MetricFamily* family, const Labels& labels, int64_t value) {
    ClientMetric metric = Labelled(labels);
    metric.counter.value = static_cast<double>(value);
    family->metric.push_back(std::move(metric));
  }
  static void AddGauge(MetricFamily* family, const Labels& labels, double value) {
    ClientMetric metric = Labelled(labels);
    metric.gauge.value = value;
    family->metric.push_back(std::move(metric));
  }

  std::string Text() const {
    return prometheus::TextSerializer().Serialize({families_.begin(), families_.end()});
  }

 private:
  static ClientMetric Labelled(const Labels& labels) {
    ClientMetric metric;
    for (const auto& [name, value] : labels) {
      ClientMetric::Label label;
      label.name = name;
      label.value = value;
      metric.label.push_back(std::move(label));
    }
    return metric;
  }

  std::deque<MetricFamily> families_;  // Family's pointers stay valid
};

double UsageRatio(const EngineStats& stats) {
  const int64_t total = stats.slabs_total.value();
  if (total == 0) return 0.0;
  const int64_t used = total - stats.slabs_free.value() - stats.slabs_cached.value();
  return static_cast<double>(used) / static_cast<double>(total);
}

void AddRequests(const MetricsSources& sources, Page* page) {
  const EngineStats& stats = *sources.engine;
  MetricFamily* total =
      page->Family("tessera_requests_total", "Finished sequences, by model and finish reason.",
                   MetricType::Counter);
  for (size_t m = 0; m < sources.models->size(); ++m) {
    for (int reason = 0; reason < kNumFinishReasons; ++reason) {
      Page::AddCounter(total,
                       {{"model", (*sources.models)[m].name},
                        {"reason", FinishReasonName(static_cast<FinishReason>(reason))}},
                       stats.models[m].finished[reason].value());
    }
  }
  page->Gauge("tessera_requests_running", "Sequences that compute.",
              static_cast<double>(stats.sequences_running.value()));
  page->Gauge("tessera_requests_waiting", "Sequences that are queued, preempted or paused.",
              static_cast<double>(stats.sequences_waiting.value()));
  page->Counter("tessera_requests_refused_total", "Requests refused because the queue was full.",
                stats.refused.value());
  page->Counter("tessera_prompt_tokens_total", "Prompt tokens of queued requests.",
                stats.prompt_tokens.value());
  page->Counter("tessera_cached_prompt_tokens_total", "Prompt tokens found in the prefix cache.",
                stats.cached_prompt_tokens.value());
  page->Counter("tessera_generated_tokens_total", "Sampled tokens.",
                stats.generated_tokens.value());
  page->Counter("tessera_preemptions_total", "Sequences sent back to the queue for want of pages.",
                stats.preemptions.value());
  page->Counter("tessera_steps_total", "Steps.", stats.steps.value());
}

void AddMemory(const MetricsSources& sources, Page* page) {
  const EngineStats& stats = *sources.engine;
  MetricFamily* pages =
      page->Family("tessera_pages", "Slabs of the page pool by use; cached ones can be evicted.",
                   MetricType::Gauge);
  const std::pair<const char*, const Counter*> kinds[] = {{"free", &stats.slabs_free},
                                                          {"cached", &stats.slabs_cached},
                                                          {"kv", &stats.slabs_kv},
                                                          {"adapter", &stats.slabs_adapter},
                                                          {"staging", &stats.slabs_staging}};
  for (const auto& [kind, counter] : kinds) {
    Page::AddGauge(pages, {{"kind", kind}}, static_cast<double>(counter->value()));
  }
  page->Gauge("tessera_page_bytes", "Bytes of one slab of the page pool.",
              static_cast<double>(sources.slab_bytes));
  page->Gauge("tessera_kv_cache_usage_ratio", "Share of the page pool in use, 0 to 1.",
              UsageRatio(stats));
}

void AddTimes(const MetricsSources& sources, Page* page) {
  const EngineStats& stats = *sources.engine;
  page->Histogram("tessera_time_to_first_token_seconds", "Arrival to the first token.",
                  stats.ttft_s);
  page->Histogram("tessera_inter_token_latency_seconds", "Between tokens of a sequence.",
                  stats.itl_s);
  page->Histogram("tessera_request_queue_seconds", "Arrival to the first step.", stats.queue_s);
  page->Histogram("tessera_e2e_request_latency_seconds", "Arrival to the end.", stats.e2e_s);
  page->Histogram("tessera_step_seconds", "Duration of steps.", stats.step_s);
  page->Histogram("tessera_batch_tokens", "Tokens of steps.", stats.batch_tokens);
  page->Gauge("tessera_queue_delay_seconds", "Predicted wait of a new request.",
              stats.queue_delay_us.value() * 1e-6);
  page->Gauge("tessera_cost_model_error_ratio",
              "Mean relative error of predicted step times, recent steps weigh most.",
              stats.cost_model_error.value());
}

void AddServer(const MetricsSources& sources, Page* page) {
  const ServingContext& context = *sources.context;
  MetricFamily* calls =
      page->Family("tessera_grpc_calls_total", "Ended Inference calls, by method and status.",
                   MetricType::Counter);
  for (int method = 0; method < kNumMethods; ++method) {
    for (int code = 0; code < kNumStatusCodes; ++code) {
      Page::AddCounter(calls, {{"method", kMethodNames[method]}, {"code", kStatusNames[code]}},
                       context.stats.calls[method][code].value());
    }
  }
  page->Gauge("tessera_grpc_calls_open", "Inference calls that are open.",
              static_cast<double>(context.live.num_open()));
  page->Counter("tessera_streams_paused_total", "Times a slow reader paused a stream.",
                context.stats.streams_paused.value());
  page->Gauge("tessera_build_info", "Always 1.", 1.0,
              {{"version", context.version}, {"device", context.device}});
}

// The names that Kubernetes inference gateways read.
void AddGatewayNames(const MetricsSources& sources, Page* page) {
  const EngineStats& stats = *sources.engine;
  const EngineModel& model = sources.models->front();
  const Labels name = {{"model_name", model.name}};
  page->Gauge("vllm:num_requests_waiting", "As tessera_requests_waiting.",
              static_cast<double>(stats.sequences_waiting.value()), name);
  page->Gauge("vllm:num_requests_running", "As tessera_requests_running.",
              static_cast<double>(stats.sequences_running.value()), name);
  page->Gauge("vllm:kv_cache_usage_perc", "As tessera_kv_cache_usage_ratio, 0 to 1.",
              UsageRatio(stats), name);
  const int64_t num_pages =
      stats.slabs_total.value() /
      std::max<int64_t>(1, model.layout.slabs_per_page * int64_t{model.layout.num_groups()});
  page->Gauge("vllm:cache_config_info", "Tokens of a page and pages of the default model.", 1.0,
              {{"model_name", model.name},
               {"block_size", std::to_string(model.layout.page_tokens())},
               {"num_gpu_blocks", std::to_string(num_pages)}});
  page->Gauge("vllm:lora_requests_info", "Adapters of running and waiting requests.", 0.0,
              {{"max_lora", "0"}, {"running_lora_adapters", ""}, {"waiting_lora_adapters", ""}});
}

}  // namespace

std::string MetricsText(const MetricsSources& sources) {
  Page page;
  AddRequests(sources, &page);
  AddMemory(sources, &page);
  AddTimes(sources, &page);
  AddServer(sources, &page);
  AddGatewayNames(sources, &page);
  return page.Text();
}

}  // namespace tessera

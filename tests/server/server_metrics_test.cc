// Tests of /metrics, /healthz and /readyz over a real socket.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "scheduler/step/engine.h"
#include "server/call/serving.h"
#include "server/door/door_stats.h"
#include "server/metrics/metrics.h"
#include "tests/lib/http_client.h"
#include "tests/lib/threaded_fake_runner.h"

namespace tessera {
namespace {

using testing::HttpGet;

class MetricsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"small", "lar\"ge"}) {
      EngineModel& model = models_.emplace_back();
      model.name = name;
      model.layout.groups.resize(1);
      model.layout.slabs_per_page = 2;
    }
    context_.version = "1.2.3";
    context_.device = "cpu";
    sources_.engine = &stats_;
    sources_.models = &models_;
    sources_.context = &context_;
    sources_.door = &door_;
    sources_.slab_bytes = 4096;
    sources_.live = [this] { return live_.load(); };
  }

  // A server that has published sources_.
  std::unique_ptr<MetricsServer> Serve(const std::string& listen) const {
    auto server = StartMetrics(listen, "1.2.3");
    EXPECT_TRUE(server.ok()) << server.status();
    if (!server.ok()) return nullptr;
    (*server)->Publish(sources_);
    return *std::move(server);
  }
  // The value of a series such as `tessera_pages{kind="kv"}`; "" when the series is absent.
  std::string ValueOf(const std::string& series) const {
    for (const absl::string_view line : absl::StrSplit(MetricsText(sources_), '\n')) {
      if (line.size() > series.size() && line.substr(0, series.size()) == series &&
          line[series.size()] == ' ') {
        return std::string(line.substr(series.size() + 1));
      }
    }
    return "";
  }

  EngineStats stats_{2};
  std::vector<EngineModel> models_;
  ServingContext context_;
  DoorStats door_;
  MetricsSources sources_;
  std::atomic<bool> live_{true};
};

TEST_F(MetricsTest, EverySeriesIsThereAtZero) {
  for (const char* series : {"tessera_requests_total{model=\"small\",reason=\"stop\"}",
                             "tessera_requests_total{model=\"small\",reason=\"error\"}",
                             "tessera_requests_total{model=\"lar\\\"ge\",reason=\"length\"}",
                             "tessera_requests_running",
                             "tessera_requests_waiting",
                             "tessera_requests_paused",
                             "tessera_requests_refused_total",
                             "tessera_nonfinite_results_total{model=\"small\"}",
                             "tessera_prompt_tokens_total",
                             "tessera_cached_prompt_tokens_total",
                             "tessera_generated_tokens_total",
                             "tessera_preemptions_total",
                             "tessera_pages{kind=\"free\"}",
                             "tessera_pages{kind=\"cached\"}",
                             "tessera_pages{kind=\"kv\"}",
                             "tessera_pages{kind=\"adapter\"}",
                             "tessera_pages{kind=\"staging\"}",
                             "tessera_kv_cache_usage_ratio",
                             "tessera_time_to_first_token_seconds_count",
                             "tessera_inter_token_latency_seconds_sum",
                             "tessera_request_queue_seconds_bucket{le=\"+Inf\"}",
                             "tessera_e2e_request_latency_seconds_count",
                             "tessera_step_seconds_count",
                             "tessera_batch_tokens_count",
                             "tessera_cost_model_error_ratio",
                             "vllm:num_requests_waiting",
                             "vllm:num_requests_running",
                             "vllm:kv_cache_usage_perc",
                             "tessera_grpc_calls_total{method=\"Generate\",code=\"OK\"}",
                             "tessera_grpc_calls_open",
                             "tessera_replies_dropped_total",
                             "tessera_connections_open",
                             "tessera_connections_accepted_total",
                             "tessera_connections_refused_total{reason=\"no_descriptors\"}",
                             "tessera_connections_closed_total{reason=\"resets\"}"}) {
    EXPECT_EQ(ValueOf(series), "0") << series;
  }
  EXPECT_EQ(ValueOf("tessera_build_info{version=\"1.2.3\",device=\"cpu\"}"), "1");
  EXPECT_EQ(ValueOf("vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"0\"}"), "1");
  EXPECT_NE(MetricsText(sources_).find("vllm:lora_requests_info{"), std::string::npos);
}

TEST_F(MetricsTest, ValuesFollowTheEngine) {
  stats_.models[1].finished[static_cast<int>(FinishReason::kLength)].Add(7);
  stats_.sequences_running.Set(3);
  stats_.sequences_waiting.Set(2);
  stats_.sequences_paused.Set(8);
  stats_.models[1].nonfinite_results.Add(6);
  stats_.slabs_total.Set(100);
  stats_.slabs_cached.Set(50);
  stats_.slabs_kv.Set(20);
  stats_.slabs_staging.Set(5);
  stats_.ttft_s.Observe(0.5);
  stats_.ttft_s.Observe(1e9);
  context_.stats.calls[1][3].Add(2);
  EXPECT_EQ(ValueOf("tessera_requests_total{model=\"lar\\\"ge\",reason=\"length\"}"), "7");
  EXPECT_EQ(ValueOf("tessera_requests_running"), "3");
  EXPECT_EQ(ValueOf("vllm:num_requests_running"), "3");
  EXPECT_EQ(ValueOf("tessera_requests_waiting"), "2");
  EXPECT_EQ(ValueOf("vllm:num_requests_waiting"), "2");
  EXPECT_EQ(ValueOf("tessera_requests_paused"), "8");
  EXPECT_EQ(ValueOf("tessera_nonfinite_results_total{model=\"lar\\\"ge\"}"), "6");
  EXPECT_EQ(ValueOf("tessera_pages{kind=\"cached\"}"), "50");
  EXPECT_EQ(ValueOf("tessera_kv_cache_usage_ratio"), "0.25");
  EXPECT_EQ(ValueOf("vllm:kv_cache_usage_perc"), "0.25");
  EXPECT_EQ(ValueOf("tessera_time_to_first_token_seconds_count"), "2");
  EXPECT_EQ(ValueOf("tessera_time_to_first_token_seconds_bucket{le=\"+Inf\"}"), "2");
  EXPECT_EQ(ValueOf("vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"50\"}"), "1");
  EXPECT_EQ(ValueOf("tessera_grpc_calls_total{method=\"Chat\",code=\"INVALID_ARGUMENT\"}"), "2");
}

TEST_F(MetricsTest, ConnectionsFollowTheDoor) {
  door_.open.Set(7);
  door_.accepted.Add(8);
  door_.closed[static_cast<size_t>(CloseReason::kTooManyOfAddress)].Add(2);
  door_.closed[static_cast<size_t>(CloseReason::kHeaderBlock)].Add(3);
  EXPECT_EQ(ValueOf("tessera_connections_open"), "7");
  EXPECT_EQ(ValueOf("tessera_connections_accepted_total"), "8");
  EXPECT_EQ(ValueOf("tessera_connections_refused_total{reason=\"too_many_of_address\"}"), "2");
  EXPECT_EQ(ValueOf("tessera_connections_closed_total{reason=\"header_block\"}"), "3");
  EXPECT_EQ(ValueOf("tessera_connections_closed_total{reason=\"too_many_of_address\"}"), "");
}

TEST_F(MetricsTest, HistogramsAreCumulative) {
  for (const double seconds : {0.001, 0.02, 0.3, 4.0, 50.0}) stats_.step_s.Observe(seconds);
  int64_t before = 0;
  int num_buckets = 0;
  for (const absl::string_view line : absl::StrSplit(MetricsText(sources_), '\n')) {
    if (line.rfind("tessera_step_seconds_bucket", 0) != 0) continue;
    int64_t count = 0;
    ASSERT_TRUE(absl::SimpleAtoi(line.substr(line.rfind(' ') + 1), &count));
    EXPECT_GE(count, before);
    before = count;
    ++num_buckets;
  }
  EXPECT_EQ(before, 5);
  EXPECT_GT(num_buckets, 5);
}

TEST_F(MetricsTest, TextIsWellFormed) {
  std::set<std::string> types;
  std::string previous;
  for (const absl::string_view line : absl::StrSplit(MetricsText(sources_), '\n')) {
    if (line.rfind("# TYPE ", 0) == 0) {
      EXPECT_TRUE(types.insert(std::string(line)).second) << line;
    } else if (!line.empty() && line[0] != '#') {
      double value = 0;
      EXPECT_TRUE(absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) << line;
    }
  }
  EXPECT_GT(types.size(), 25u);
}

TEST_F(MetricsTest, ProbesOverHttp) {
  const auto server = Serve("127.0.0.1:0");
  ASSERT_NE(server, nullptr);
  const std::string& address = server->address();
  EXPECT_EQ(address.rfind("127.0.0.1:", 0), 0u);
  const std::string page = HttpGet(address, "/metrics");
  EXPECT_EQ(page.rfind("HTTP/1.1 200", 0), 0u);
  EXPECT_NE(page.find("text/plain; version=0.0.4"), std::string::npos);
  EXPECT_NE(page.find("tessera_requests_running 0"), std::string::npos);
  EXPECT_EQ(HttpGet(address, "/healthz").rfind("HTTP/1.1 200", 0), 0u);
  EXPECT_EQ(HttpGet(address, "/readyz").rfind("HTTP/1.1 200", 0), 0u);
  EXPECT_NE(page.find("\ntessera_ready 1\n"), std::string::npos);
  context_.draining = true;
  EXPECT_NE(HttpGet(address, "/metrics").find("\ntessera_ready 0\n"), std::string::npos);
  EXPECT_EQ(HttpGet(address, "/healthz").rfind("HTTP/1.1 200", 0), 0u);
  EXPECT_EQ(HttpGet(address, "/readyz").rfind("HTTP/1.1 503", 0), 0u);
  context_.draining = false;
  context_.port_answers = false;
  EXPECT_EQ(HttpGet(address, "/healthz").rfind("HTTP/1.1 200", 0), 0u);
  EXPECT_EQ(HttpGet(address, "/readyz").rfind("HTTP/1.1 503", 0), 0u);
  context_.port_answers = true;
  live_ = false;
  EXPECT_EQ(HttpGet(address, "/healthz").rfind("HTTP/1.1 503", 0), 0u);
  EXPECT_EQ(HttpGet(address, "/readyz").rfind("HTTP/1.1 503", 0), 0u);
}

class DropSink final : public TokenSink {
 public:
  void Push(TokenEvent event) override {
    if (event.kind == TokenEvent::Kind::kFinished) finished_.set_value();
  }
  void AwaitFinished() { finished_.get_future().wait(); }

 private:
  std::promise<void> finished_;
};

// The engine's loop runs, but the step in flight does not end.
TEST_F(MetricsTest, AHungStepFailsHealthz) {
  ManualClock clock;
  const std::vector<EngineModel> models = {testing::FakeModel("a", {0}, 4, 64)};
  EngineOptions options;
  options.models = models;
  auto kv = NewKvManager(65, models[0].layout.slab_bytes, 1);
  kv->AddModel(models[0].layout);
  testing::FakeRunnerOptions runner_options;
  runner_options.models = models;
  runner_options.num_slabs = 65;
  auto owned = std::make_unique<testing::ThreadedFakeRunner>(runner_options);
  testing::ThreadedFakeRunner* const runner = owned.get();
  const auto engine = NewEngine(options, std::move(kv), std::move(owned), &clock);
  uint64_t next_id = 1;
  const auto submit = [&](int64_t max_tokens) {
    auto sink = std::make_shared<DropSink>();
    auto request = std::make_unique<Request>();
    request->id = next_id++;
    request->prompt = {1, 2, 3};
    request->stopping.max_tokens = max_tokens;
    request->sink = sink;
    EXPECT_TRUE(engine->Submit(std::move(request)).ok());
    return sink;
  };
  submit(8)->AwaitFinished();  // afterwards the cost model can predict the time of a step
  sources_.live = [&] { return engine->live(/*stale_us=*/60'000'000); };
  const auto server = Serve("127.0.0.1:0");
  ASSERT_NE(server, nullptr);
  const auto code = [&](const std::string& path) {
    return HttpGet(server->address(), path).substr(0, 12);
  };
  runner->Hold();
  const auto hung = submit(1);
  runner->AwaitStep();
  EXPECT_EQ(code("/healthz"), "HTTP/1.1 200");
  clock.Advance(11'000'000);
  for (int i = 0; i < 2; ++i) {  // the second probe is answered in a later round than the first
    std::promise<void> probed;
    engine->Probe({0, {1, 2}, "", ""}, [&](ProbeResult) { probed.set_value(); });
    probed.get_future().wait();
  }
  EXPECT_EQ(code("/healthz"), "HTTP/1.1 503");
  EXPECT_EQ(code("/readyz"), "HTTP/1.1 503");
  runner->Release();
  hung->AwaitFinished();
}

// The port opens before the models are loaded.
TEST_F(MetricsTest, WhileModelsLoadThePortTellsTheProgress) {
  auto started = StartMetrics("127.0.0.1:0", "1.2.3");
  ASSERT_TRUE(started.ok()) << started.status();
  MetricsServer& server = **started;
  EXPECT_EQ(HttpGet(server.address(), "/readyz").rfind("HTTP/1.1 503", 0), 0u);
  server.SetProgress("loading m: 1 of 2 MiB");
  const std::string readyz = HttpGet(server.address(), "/readyz");
  EXPECT_EQ(readyz.rfind("HTTP/1.1 503", 0), 0u);
  EXPECT_NE(readyz.find("\r\n\r\nloading m: 1 of 2 MiB\n"), std::string::npos) << readyz;
  EXPECT_EQ(HttpGet(server.address(), "/healthz").rfind("HTTP/1.1 200", 0), 0u);
  const std::string page = HttpGet(server.address(), "/metrics");
  EXPECT_EQ(page.rfind("HTTP/1.1 200", 0), 0u);
  EXPECT_NE(page.find("\ntessera_ready 0\n"), std::string::npos) << page;
  EXPECT_NE(page.find("\ntessera_build_info{version=\"1.2.3\",device=\"\"} 1\n"), std::string::npos)
      << page;
  server.Publish(sources_);
  EXPECT_EQ(HttpGet(server.address(), "/readyz").rfind("HTTP/1.1 200", 0), 0u);
  EXPECT_NE(HttpGet(server.address(), "/metrics").find("tessera_requests_running 0"),
            std::string::npos);
}

}  // namespace
}  // namespace tessera

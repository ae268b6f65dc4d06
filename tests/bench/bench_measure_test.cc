// Tests of workloads, arrivals, statistics and the report, without a clock or a network.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "bench/serve/arrivals.h"
#include "bench/serve/report.h"
#include "bench/serve/statistics.h"
#include "bench/serve/workload.h"

namespace tessera::bench {
namespace {

WorkloadOptions SmallWorkload() {
  WorkloadOptions options;
  options.input = {5, 20};
  options.output = {3, 9};
  options.vocab_size = 50;
  options.seed = 7;
  return options;
}

TEST(LengthsTest, OneNumberOrARange) {
  EXPECT_EQ(ParseLengths("--x", "12")->min, 12);
  EXPECT_EQ(ParseLengths("--x", "12")->max, 12);
  EXPECT_EQ(ParseLengths("--x", "3:8")->min, 3);
  EXPECT_EQ(ParseLengths("--x", "3:8")->max, 8);
  for (const char* wrong : {"", "x", "0", "-1", "8:3", "1:2:3", ":4", "4:", "99999999999"}) {
    const auto range = ParseLengths("--x", wrong);
    ASSERT_FALSE(range.ok()) << wrong;
    EXPECT_NE(range.status().message().find("--x"), absl::string_view::npos);
  }
}

TEST(WorkloadTest, LaterOnesAreRefusedByName) {
  EXPECT_EQ(*ParseWorkloadKind("prefix"), WorkloadKind::kPrefix);
  for (const char* later : {"sharegpt", "trace", "sonnet", "lora"}) {
    const absl::Status status = ParseWorkloadKind(later).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_NE(status.message().find(later), absl::string_view::npos);
  }
  EXPECT_EQ(ParseWorkloadKind("rnadom").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(WorkloadTest, RequestsDependOnSeedAndNumberOnly) {
  const Workload one(SmallWorkload());
  const Workload same(SmallWorkload());
  WorkloadOptions other_seed = SmallWorkload();
  other_seed.seed = 8;
  const Workload other(other_seed);
  int num_equal = 0;
  for (int64_t i = 19; i >= 0; --i) {  // requests do not depend on the order of the calls
    EXPECT_EQ(one.At(i).token_ids, same.At(i).token_ids);
    EXPECT_EQ(one.At(i).output_tokens, same.At(i).output_tokens);
    num_equal += one.At(i).token_ids == other.At(i).token_ids ? 1 : 0;
    num_equal += one.At(i).token_ids == one.At(i + 1).token_ids ? 1 : 0;
  }
  EXPECT_EQ(num_equal, 0);
}

TEST(WorkloadTest, LengthsAndIdsFillTheirRanges) {
  const Workload workload(SmallWorkload());
  std::set<size_t> inputs;
  std::set<int64_t> outputs;
  std::set<int32_t> ids;
  for (int64_t i = 0; i < 500; ++i) {
    const Prompt prompt = workload.At(i);
    inputs.insert(prompt.token_ids.size());
    outputs.insert(prompt.output_tokens);
    ids.insert(prompt.token_ids.begin(), prompt.token_ids.end());
  }
  EXPECT_EQ(inputs.size(), 16u);
  EXPECT_EQ(*inputs.begin(), 5u);
  EXPECT_EQ(outputs.size(), 7u);
  EXPECT_EQ(*outputs.begin(), 3);
  EXPECT_EQ(ids.size(), 50u);
  EXPECT_EQ(*ids.begin(), 0);
  EXPECT_EQ(MaxTokens(SmallWorkload()), 29);
}

TEST(WorkloadTest, GroupsShareTheirPrefix) {
  WorkloadOptions options = SmallWorkload();
  options.kind = WorkloadKind::kPrefix;
  options.num_prefixes = 3;
  options.prefix = {40, 40};
  const Workload workload(options);
  std::set<std::vector<int32_t>> prefixes;
  std::set<std::vector<int32_t>> whole;
  for (int64_t i = 0; i < 60; ++i) {
    const std::vector<int32_t> ids = workload.At(i).token_ids;
    ASSERT_GE(ids.size(), 45u);
    ASSERT_LE(ids.size(), 60u);
    prefixes.emplace(ids.begin(), ids.begin() + 40);
    whole.insert(ids);
  }
  EXPECT_EQ(prefixes.size(), 3u);
  EXPECT_EQ(whole.size(), 60u);
  EXPECT_EQ(MaxTokens(options), 69);
  // A warm-up request is as long as the others but shares no prefix with them.
  const std::vector<int32_t> warmup = workload.At(-1).token_ids;
  ASSERT_GE(warmup.size(), 45u);
  EXPECT_EQ(prefixes.count({warmup.begin(), warmup.begin() + 40}), 0u);
}

TEST(ArrivalsTest, UniformIsAMetronome) {
  ArrivalSchedule schedule(ArrivalKind::kUniform, 3, 1);
  EXPECT_EQ(schedule.NextUs(), 0);
  EXPECT_EQ(schedule.NextUs(), 333'333);
  EXPECT_EQ(schedule.NextUs(), 666'667);
  EXPECT_EQ(schedule.NextUs(), 1'000'000);
}

TEST(ArrivalsTest, PoissonHasExponentialGaps) {
  ArrivalSchedule schedule(ArrivalKind::kPoisson, 200, 1);
  ArrivalSchedule same(ArrivalKind::kPoisson, 200, 1);
  ArrivalSchedule other(ArrivalKind::kPoisson, 200, 2);
  constexpr int kCount = 20'000;
  std::vector<double> gaps;
  int64_t before = 0;
  bool differs = false;
  for (int i = 0; i < kCount; ++i) {
    const int64_t now = schedule.NextUs();
    EXPECT_EQ(now, same.NextUs());
    differs = differs || now != other.NextUs();
    gaps.push_back(static_cast<double>(now - before));
    before = now;
  }
  EXPECT_TRUE(differs);
  const Summary summary = Summarize(gaps);
  EXPECT_NEAR(summary.mean, 5000, 150);
  EXPECT_NEAR(summary.p50, 5000 * std::log(2), 150);  // the median of an exponential distribution
  EXPECT_NEAR(summary.p99, 5000 * std::log(100), 1200);
}

TEST(StatisticsTest, PercentilesAreThoseOfNumpy) {
  // The expected values are those of numpy.percentile([15, 20, 35, 40, 50], [50, 90, 95, 99]).
  const Summary summary = Summarize({40, 15, 50, 35, 20});
  EXPECT_DOUBLE_EQ(summary.mean, 32);
  EXPECT_DOUBLE_EQ(summary.p50, 35);
  EXPECT_DOUBLE_EQ(summary.p90, 46);
  EXPECT_DOUBLE_EQ(summary.p95, 48);
  EXPECT_DOUBLE_EQ(summary.p99, 49.6);
  EXPECT_DOUBLE_EQ(summary.max, 50);
  EXPECT_DOUBLE_EQ(Summarize({3}).p99, 3);
  EXPECT_DOUBLE_EQ(Summarize({1, 2}).p50, 1.5);
  EXPECT_DOUBLE_EQ(Summarize({}).max, 0);
}

RequestRecord Answered(int64_t intended_ms, const std::vector<int64_t>& tokens_ms, int64_t end_ms) {
  RequestRecord record;
  record.intended_us = record.sent_us = intended_ms * 1000;
  record.end_us = end_ms * 1000;
  record.prompt_tokens = 10;
  for (const int64_t ms : tokens_ms) record.token_us.push_back(ms * 1000);
  return record;
}

TEST(ReportTest, LatenciesAsDefined) {
  RunRecords run;
  run.begin_us = 0;
  run.end_us = 2'000'000;
  run.last_send_us = 1'900'000;
  run.cpu_us = 100'000;
  // Two tokens came in one message: each token has its own gap, and the second gap is 0.
  run.requests.push_back(Answered(100, {150, 170, 170, 190}, 220));
  const Report report = MakeReport(run, {});
  EXPECT_EQ(report.requests, 1);
  EXPECT_DOUBLE_EQ(report.ttft_ms.p50, 50);
  EXPECT_DOUBLE_EQ(report.itl_ms.mean, 40.0 / 3);
  EXPECT_DOUBLE_EQ(report.itl_ms.p50, 20);
  EXPECT_DOUBLE_EQ(report.itl_ms.max, 20);
  EXPECT_DOUBLE_EQ(report.tpot_ms.p50, 70.0 / 3);  // (e2e - ttft) / (tokens - 1)
  EXPECT_DOUBLE_EQ(report.e2e_ms.p50, 120);
  EXPECT_DOUBLE_EQ(report.duration_s, 2);
  EXPECT_DOUBLE_EQ(report.request_throughput, 0.5);
  EXPECT_DOUBLE_EQ(report.input_token_throughput, 5);
  EXPECT_DOUBLE_EQ(report.output_token_throughput, 2);
  EXPECT_DOUBLE_EQ(report.client_cpu_share, 0.05);
}

TEST(ReportTest, LateSendsCountFromTheIntendedTime) {
  RunRecords run;
  run.end_us = 1'000'000;
  for (const int64_t late_us : {0, 10'000, 10'001, 300'000}) {
    RequestRecord record = Answered(100, {500, 510}, 520);
    record.sent_us += late_us;
    run.requests.push_back(record);
  }
  const Report report = MakeReport(run, {});
  EXPECT_EQ(report.late_sends, 2);
  EXPECT_DOUBLE_EQ(report.ttft_ms.max, 400);  // does not depend on the time of the send
}

TEST(ReportTest, ErrorsAreCountedByCodeAndMeasureNothing) {
  RunRecords run;
  run.end_us = 1'000'000;
  run.requests.push_back(Answered(0, {10, 20}, 20));
  for (const char* message : {"full", "still full"}) {
    RequestRecord refused = Answered(0, {5}, 900);
    refused.code = absl::StatusCode::kResourceExhausted;
    refused.message = message;
    run.requests.push_back(refused);
  }
  RequestRecord abandoned = Answered(0, {5}, 900);
  abandoned.code = absl::StatusCode::kCancelled;
  abandoned.abandoned = true;
  run.requests.push_back(abandoned);
  const Report report = MakeReport(run, {});
  EXPECT_EQ(report.requests, 3);
  EXPECT_EQ(report.errors, 2);
  EXPECT_EQ(report.abandoned, 1);
  ASSERT_EQ(report.errors_by_code.size(), 1u);
  EXPECT_EQ(report.errors_by_code.at(absl::StatusCode::kResourceExhausted).count, 2);
  EXPECT_DOUBLE_EQ(report.e2e_ms.max, 20);
  EXPECT_DOUBLE_EQ(report.output_token_throughput, 2);
  const std::string table = ReportTable(report, {});
  EXPECT_NE(table.find("RESOURCE_EXHAUSTED"), std::string::npos);
  EXPECT_NE(table.find("first: full\n"), std::string::npos);
}

TEST(ReportTest, GoodputKeepsBothLimits) {
  RunRecords run;
  run.end_us = 1'000'000;
  run.requests.push_back(Answered(0, {100, 110, 120}, 120));  // ttft 100, itl 10
  run.requests.push_back(Answered(0, {300, 310, 320}, 320));  // high TTFT
  run.requests.push_back(Answered(0, {100, 150, 200}, 200));  // high ITL
  run.requests.push_back(Answered(0, {100}, 100));            // one token, so no ITL
  run.requests.push_back(Answered(0, {}, 100));               // no tokens
  EXPECT_DOUBLE_EQ(MakeReport(run, {.ttft_ms = 200, .itl_ms = 20}).goodput, 2);
  EXPECT_DOUBLE_EQ(MakeReport(run, {.ttft_ms = 200}).goodput, 3);
  EXPECT_DOUBLE_EQ(MakeReport(run, {.itl_ms = 20}).goodput, 3);
  EXPECT_DOUBLE_EQ(MakeReport(run, {}).goodput, 4);
  // A latency equal to its limit is within the limit.
  EXPECT_DOUBLE_EQ(MakeReport(run, {.ttft_ms = 100, .itl_ms = 50}).goodput, 3);
}

TEST(ReportTest, JsonHasTheKeysOfTheContract) {
  const std::set<std::string> expected = {"requests",
                                          "errors",
                                          "duration_s",
                                          "request_throughput",
                                          "input_token_throughput",
                                          "goodput",
                                          "ttft_ms",
                                          "itl_ms",
                                          "tpot_ms",
                                          "output_token_throughput",
                                          "e2e_ms",
                                          "late_sends",
                                          "client_cpu_share"};
  RunRecords nothing;
  for (const RunRecords& run :
       {nothing, RunRecords{.requests = {Answered(0, {1, 2}, 3)}, .end_us = 3000}}) {
    const nlohmann::json json = nlohmann::json::parse(ReportJson(MakeReport(run, {})));
    std::set<std::string> keys;
    for (const auto& [key, value] : json.items()) {
      keys.insert(key);
      if (!value.is_object()) {
        EXPECT_TRUE(value.is_number()) << key;
        continue;
      }
      EXPECT_EQ(value.size(), 6u);
      for (const char* name : {"mean", "p50", "p90", "p95", "p99", "max"}) {
        EXPECT_TRUE(value[name].is_number()) << key << "." << name;
      }
    }
    EXPECT_EQ(keys, expected);
  }
}

TEST(ReportTest, ATenantIsALabelOfTableAndJson) {
  Report report = MakeReport({}, {});
  EXPECT_EQ(ReportTable(report, {}).find("tenant"), std::string::npos);
  report.tenant = "blue \xFF\n";
  EXPECT_EQ(nlohmann::json::parse(ReportJson(report))["tenant"], "blue \xEF\xBF\xBD\n");
  EXPECT_NE(ReportTable(report, {}).find(" blue \\xff\\n\n"), std::string::npos);
}

}  // namespace
}  // namespace tessera::bench

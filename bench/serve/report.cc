#include "bench/serve/report.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/log.h"

namespace tessera::bench {
namespace {

constexpr int64_t kLateUs = 10'000;

double Ms(int64_t us) { return static_cast<double>(us) / 1e3; }

// The mean time of the tokens after the first, in milliseconds; 0 without a second token.
double TpotMs(const RequestRecord& request) {
  if (request.token_us.size() < 2) return 0;
  return Ms(request.end_us - request.token_us.front()) /
         static_cast<double>(request.token_us.size() - 1);
}

bool IsGood(const RequestRecord& request, const Slo& slo) {
  if (request.token_us.empty()) return false;
  if (slo.ttft_ms && Ms(request.token_us.front() - request.intended_us) > *slo.ttft_ms) {
    return false;
  }
  return !slo.itl_ms || TpotMs(request) <= *slo.itl_ms;
}

struct Samples {
  std::vector<double> ttft_ms;
  std::vector<double> itl_ms;
  std::vector<double> tpot_ms;
  std::vector<double> e2e_ms;
};

void AddSamples(const RequestRecord& request, Samples* samples) {
  samples->e2e_ms.push_back(Ms(request.end_us - request.intended_us));
  const std::vector<int64_t>& tokens = request.token_us;
  if (tokens.empty()) return;
  samples->ttft_ms.push_back(Ms(tokens.front() - request.intended_us));
  if (tokens.size() < 2) return;
  samples->tpot_ms.push_back(TpotMs(request));
  for (size_t i = 1; i < tokens.size(); ++i) {
    samples->itl_ms.push_back(Ms(tokens[i] - tokens[i - 1]));
  }
}

nlohmann::ordered_json ToJson(const Summary& summary) {
  return {{"mean", summary.mean}, {"p50", summary.p50}, {"p90", summary.p90},
          {"p95", summary.p95},   {"p99", summary.p99}, {"max", summary.max}};
}

void AppendRow(const char* name, const Summary& s, std::string* text) {
  absl::StrAppendFormat(text, "  %-10s %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, s.mean,
                        s.p50, s.p90, s.p95, s.p99, s.max);
}

std::string SloText(const Slo& slo) {
  if (!slo.ttft_ms && !slo.itl_ms) return "no limits given";
  std::string text;
  if (slo.ttft_ms) absl::StrAppendFormat(&text, "TTFT <= %g ms", *slo.ttft_ms);
  if (slo.itl_ms) {
    absl::StrAppendFormat(&text, "%smean ITL <= %g ms", text.empty() ? "" : ", ", *slo.itl_ms);
  }
  return text;
}

}  // namespace

Report MakeReport(const RunRecords& run, const Slo& slo) {
  Report report;
  Samples samples;
  int64_t num_good = 0;
  int64_t input_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  int64_t loaded_output_tokens = 0;
  for (const RequestRecord& request : run.requests) {
    if (request.sent_us - request.intended_us > kLateUs) ++report.late_sends;
    if (request.abandoned) {
      ++report.abandoned;
      continue;
    }
    ++report.requests;
    if (!request.ok()) {
      ++report.errors;
      ErrorCount& errors = report.errors_by_code[request.code];
      if (errors.count++ == 0) errors.first_message = request.message;
      continue;
    }
    AddSamples(request, &samples);
    num_good += IsGood(request, slo) ? 1 : 0;
    input_tokens += request.prompt_tokens;
    cached_tokens += request.cached_prompt_tokens;
    output_tokens += static_cast<int64_t>(request.token_us.size());
    for (const int64_t time_us : request.token_us) {
      loaded_output_tokens += time_us <= run.last_send_us ? 1 : 0;
    }
  }
  const auto ratio = [](int64_t count, double whole) {
    return whole > 0 ? static_cast<double>(count) / whole : 0.0;
  };
  report.duration_s = static_cast<double>(run.end_us - run.begin_us) / 1e6;
  report.request_throughput = ratio(report.requests - report.errors, report.duration_s);
  report.input_token_throughput = ratio(input_tokens, report.duration_s);
  report.output_token_throughput = ratio(output_tokens, report.duration_s);
  report.loaded_output_token_throughput =
      ratio(loaded_output_tokens, static_cast<double>(run.last_send_us - run.begin_us) / 1e6);
  report.cached_prompt_share = ratio(cached_tokens, static_cast<double>(input_tokens));
  report.goodput = ratio(num_good, report.duration_s);
  report.client_cpu_share = ratio(run.cpu_us, static_cast<double>(run.end_us - run.begin_us));
  report.ttft_ms = Summarize(std::move(samples.ttft_ms));
  report.itl_ms = Summarize(std::move(samples.itl_ms));
  report.tpot_ms = Summarize(std::move(samples.tpot_ms));
  report.e2e_ms = Summarize(std::move(samples.e2e_ms));
  return report;
}

std::string ReportJson(const Report& report) {
  nlohmann::ordered_json json = {
      {"requests", report.requests},
      {"errors", report.errors},
      {"duration_s", report.duration_s},
      {"request_throughput", report.request_throughput},
      {"input_token_throughput", report.input_token_throughput},
      {"output_token_throughput", report.output_token_throughput},
      {"ttft_ms", ToJson(report.ttft_ms)},
      {"itl_ms", ToJson(report.itl_ms)},
      {"tpot_ms", ToJson(report.tpot_ms)},
      {"e2e_ms", ToJson(report.e2e_ms)},
      {"goodput", report.goodput},
      {"late_sends", report.late_sends},
      {"client_cpu_share", report.client_cpu_share},
  };
  if (!report.tenant.empty()) json["tenant"] = report.tenant;
  // A label from the command line may be invalid UTF-8.
  return absl::StrCat(json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace), "\n");
}

std::string ReportTable(const Report& report, const Slo& slo) {
  std::string text;
  if (!report.tenant.empty()) {
    absl::StrAppendFormat(&text, "tenant                 %10s\n", LogText(report.tenant));
  }
  absl::StrAppendFormat(&text, "requests               %10d   in %.2f s, %d failed\n",
                        report.requests, report.duration_s, report.errors);
  for (const auto& [code, errors] : report.errors_by_code) {
    absl::StrAppendFormat(&text, "  %-20s %10d   first: %s\n", absl::StatusCodeToString(code),
                          errors.count, errors.first_message);
  }
  if (report.abandoned > 0) {
    absl::StrAppendFormat(&text, "cut off                %10d   not counted\n", report.abandoned);
  }
  absl::StrAppendFormat(&text, "requests/s             %10.2f\n", report.request_throughput);
  absl::StrAppendFormat(&text, "input tokens/s         %10.1f   %.1f %% from the prefix cache\n",
                        report.input_token_throughput, report.cached_prompt_share * 100);
  absl::StrAppendFormat(&text, "output tokens/s        %10.1f", report.output_token_throughput);
  if (report.loaded_output_token_throughput > 0) {
    absl::StrAppendFormat(&text, "   %.1f until the last send",
                          report.loaded_output_token_throughput);
  }
  absl::StrAppend(&text, "\n");
  absl::StrAppendFormat(&text, "goodput, requests/s    %10.2f   %s\n", report.goodput,
                        SloText(slo));
  absl::StrAppendFormat(&text, "sends > 10 ms late     %10d\n", report.late_sends);
  absl::StrAppendFormat(&text, "client, share of a core%10.3f\n\n", report.client_cpu_share);
  absl::StrAppendFormat(&text, "  %-10s %10s %10s %10s %10s %10s %10s\n", "ms", "mean", "p50",
                        "p90", "p95", "p99", "max");
  AppendRow("TTFT", report.ttft_ms, &text);
  AppendRow("ITL", report.itl_ms, &text);
  AppendRow("TPOT", report.tpot_ms, &text);
  AppendRow("e2e", report.e2e_ms, &text);
  return text;
}

}  // namespace tessera::bench

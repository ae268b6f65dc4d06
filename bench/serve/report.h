// The figures of a run, as a table for people and as the JSON of the contract for programs.
// bench/METRICS.md says what each of them means.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bench/serve/record.h"
#include "bench/serve/statistics.h"

namespace tessera::bench {

// What was measured, before anything is made of it.
struct RunRecords {
  std::vector<RequestRecord> requests;
  int64_t begin_us = 0;      // the first request was due
  int64_t last_send_us = 0;  // the load stopped
  int64_t end_us = 0;        // the last request ended
  int64_t cpu_us = 0;        // of this process, all threads, from begin to end
};

// Limits that a good request keeps. Absent: any will do.
struct Slo {
  std::optional<double> ttft_ms;
  std::optional<double> itl_ms;  // of the request's mean gap between tokens
};

struct ErrorCount {
  int64_t count = 0;
  std::string first_message;
};

struct Report {
  int64_t requests = 0;  // ended by themselves, errors included
  int64_t errors = 0;
  int64_t abandoned = 0;
  std::map<absl::StatusCode, ErrorCount> errors_by_code;
  double duration_s = 0;
  double request_throughput = 0;  // successes a second
  double input_token_throughput = 0;
  double output_token_throughput = 0;
  double loaded_output_token_throughput = 0;  // until the load stopped: without the last ones' tail
  double cached_prompt_share = 0;
  Summary ttft_ms;
  Summary itl_ms;
  Summary tpot_ms;
  Summary e2e_ms;
  double goodput = 0;
  int64_t late_sends = 0;
  double client_cpu_share = 0;  // 1: one core busy all the time
};

Report MakeReport(const RunRecords& run, const Slo& slo);

// The keys of the contract, no others.
std::string ReportJson(const Report& report);
std::string ReportTable(const Report& report, const Slo& slo);

}  // namespace tessera::bench

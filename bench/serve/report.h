// The figures of a run, as a table for people and as JSON for programs. bench/METRICS.md defines
// each figure. Pure functions; any thread.
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

// The measurements of a run.
struct RunRecords {
  std::vector<RequestRecord> requests;
  int64_t begin_us = 0;      // time at which the first request was due
  int64_t last_send_us = 0;  // time at which sending stopped
  int64_t end_us = 0;        // end of the last request
  int64_t cpu_us = 0;        // CPU time of all threads of this process, from begin_us to end_us
};

// The latency limits of a good request. Every request meets a limit that is absent.
struct Slo {
  std::optional<double> ttft_ms;
  std::optional<double> itl_ms;  // limit of the request's mean gap between tokens
};

struct ErrorCount {
  int64_t count = 0;
  std::string first_message;
};

struct Report {
  std::string tenant;    // a label; empty: none
  int64_t requests = 0;  // requests that were not abandoned, including errors
  int64_t errors = 0;
  int64_t abandoned = 0;
  std::map<absl::StatusCode, ErrorCount> errors_by_code;
  double duration_s = 0;
  double request_throughput = 0;  // successes per second
  double input_token_throughput = 0;
  double output_token_throughput = 0;
  double loaded_output_token_throughput = 0;  // until sending stopped
  double cached_prompt_share = 0;
  Summary ttft_ms;
  Summary itl_ms;
  Summary tpot_ms;
  Summary e2e_ms;
  double goodput = 0;
  int64_t late_sends = 0;
  double client_cpu_share = 0;  // CPU time over wall time; 1 is a whole core
};

Report MakeReport(const RunRecords& run, const Slo& slo);

// The JSON object of the report, with the keys that bench/METRICS.md lists.
std::string ReportJson(const Report& report);
std::string ReportTable(const Report& report, const Slo& slo);

}  // namespace tessera::bench

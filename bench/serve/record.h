// The client's record of one request: its times and its outcome. The report (report.h) is computed
// from the records after the run. Plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace tessera::bench {

// Times are microseconds of the steady clock.
struct RequestRecord {
  int64_t intended_us = 0;  // time at which the request was due; latencies count from here
  int64_t sent_us = 0;
  int64_t end_us = 0;  // arrival of the terminal event or the error
  int64_t prompt_tokens = 0;
  int64_t cached_prompt_tokens = 0;  // prompt tokens that hit the server's prefix cache
  // Arrival of each output token, which is the arrival of the token's message.
  std::vector<int64_t> token_us;
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string message;     // message of an error
  bool abandoned = false;  // cancelled by the client (Ctrl-C); neither a success nor an error

  bool ok() const { return code == absl::StatusCode::kOk && !abandoned; }
};

}  // namespace tessera::bench

// What the client saw of one request: times only, no judgement. Statistics are made of these when
// the run is over.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace tessera::bench {

// Times are microseconds of the steady clock.
struct RequestRecord {
  int64_t intended_us = 0;  // when it should have been sent: latencies count from here
  int64_t sent_us = 0;
  int64_t end_us = 0;  // when the terminal event, or the error, arrived
  int64_t prompt_tokens = 0;
  int64_t cached_prompt_tokens = 0;  // of them: the server found their state in its cache
  // When each output token arrived: the arrival of the message that brought it.
  std::vector<int64_t> token_us;
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string message;     // of an error
  bool abandoned = false;  // ended by us (Ctrl-C): neither a success nor an error

  bool ok() const { return code == absl::StatusCode::kOk && !abandoned; }
};

}  // namespace tessera::bench

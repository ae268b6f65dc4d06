// The times at which the requests of an open loop are due. They depend on rate and seed alone, so
// that the server cannot delay a send. The thread that sends owns the schedule.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "bench/serve/random.h"

namespace tessera::bench {

enum class ArrivalKind : int {
  kPoisson,  // independent users: exponential gaps
  kUniform,  // equal gaps
};

absl::StatusOr<ArrivalKind> ParseArrivalKind(const std::string& text);

// One thread.
class ArrivalSchedule final {
 public:
  // REQUIRES: rate > 0, in requests per second.
  ArrivalSchedule(ArrivalKind kind, double rate, uint64_t seed);

  // Returns the time at which the next request is due, in microseconds since the start of the run.
  // The first request is due at once with kUniform, and after a random gap with kPoisson.
  int64_t NextUs();

 private:
  const ArrivalKind kind_;
  const double gap_us_;
  Random random_;
  double due_us_ = 0;
  int64_t num_arrivals_ = 0;
};

}  // namespace tessera::bench

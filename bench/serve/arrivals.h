// When the requests of an open loop are due: decided before the run from rate and seed alone, so
// that nothing the server does can move a send.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "bench/serve/random.h"

namespace tessera::bench {

enum class ArrivalKind : int {
  kPoisson,  // independent users: exponential gaps
  kUniform,  // a metronome: equal gaps
};

absl::StatusOr<ArrivalKind> ParseArrivalKind(const std::string& text);

// One thread.
class ArrivalSchedule final {
 public:
  // REQUIRES: rate > 0, in requests per second.
  ArrivalSchedule(ArrivalKind kind, double rate, uint64_t seed);

  // The next one's time, in microseconds since the run began. The first is due at once with
  // kUniform, after a random gap with kPoisson.
  int64_t NextUs();

 private:
  const ArrivalKind kind_;
  const double gap_us_;
  Random random_;
  double due_us_ = 0;
  int64_t num_arrivals_ = 0;
};

}  // namespace tessera::bench

#include "bench/serve/arrivals.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"

namespace tessera::bench {
namespace {

// The stream of random numbers for gaps, which differs from the streams of the requests.
constexpr uint64_t kStream = 0xA771BA15;

}  // namespace

absl::StatusOr<ArrivalKind> ParseArrivalKind(const std::string& text) {
  if (text == "poisson") return ArrivalKind::kPoisson;
  if (text == "uniform") return ArrivalKind::kUniform;
  return absl::InvalidArgumentError(
      absl::StrCat("--arrivals is '", text, "'; give poisson or uniform"));
}

ArrivalSchedule::ArrivalSchedule(ArrivalKind kind, double rate, uint64_t seed)
    : kind_(kind), gap_us_(1e6 / rate), random_(seed, kStream) {
  CHECK(rate > 0) << "rate " << rate;
}

int64_t ArrivalSchedule::NextUs() {
  if (kind_ == ArrivalKind::kUniform) {
    // A product of the number of gaps does not accumulate rounding errors, as a sum of gaps would.
    return std::llround(static_cast<double>(num_arrivals_++) * gap_us_);
  }
  due_us_ += random_.Exponential() * gap_us_;
  return std::llround(due_us_);
}

}  // namespace tessera::bench

#include "scheduler/generator.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr char kRetryDelay[] = "tessera/retry_delay_ms";
// A client that retries sooner would be refused again.
constexpr int64_t kLeastRetryMs = 100;

}  // namespace

absl::Status RefusedForNow(absl::string_view why, int64_t queue_delay_us) {
  const int64_t retry_ms = std::max(kLeastRetryMs, (queue_delay_us + 999) / 1000);
  absl::Status status =
      absl::ResourceExhaustedError(absl::StrCat(why, ": retry in about ", retry_ms, " ms"));
  status.SetPayload(kRetryDelay, absl::Cord(absl::StrCat(retry_ms)));
  return status;
}

int64_t RetryAfterUs(const absl::Status& status) {
  int64_t retry_ms = 0;
  if (const auto payload = status.GetPayload(kRetryDelay)) {
    if (!absl::SimpleAtoi(std::string(*payload), &retry_ms)) return 0;
  }
  return retry_ms * 1000;
}

}  // namespace tessera

#include "scheduler/plan/output_lengths.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace tessera {
namespace {

// The mean of a class is over about this many requests.
constexpr int64_t kRemembered = 32;
// The prediction for a class of which no request has ended. A request without a limit has the rest
// of the model's context as its max_tokens, and few answers are that long.
constexpr int64_t kUnknownTokens = 2048;

}  // namespace

int OutputLengths::ClassOf(int64_t max_tokens) {
  return std::bit_width(static_cast<uint64_t>(std::max<int64_t>(1, max_tokens))) - 1;
}

void OutputLengths::Observe(int64_t max_tokens, int64_t num_generated) {
  Class& its_class = classes_[ClassOf(max_tokens)];
  its_class.num_observed = std::min(its_class.num_observed + 1, kRemembered);
  const double share =
      std::min(1.0, static_cast<double>(num_generated) / static_cast<double>(max_tokens));
  its_class.mean_share +=
      (share - its_class.mean_share) / static_cast<double>(its_class.num_observed);
}

int64_t OutputLengths::Expect(int64_t max_tokens, int64_t num_generated) const {
  const Class& its_class = classes_[ClassOf(max_tokens)];
  const int64_t most = std::max<int64_t>(1, max_tokens);
  int64_t expected = std::min(most, kUnknownTokens);
  if (its_class.num_observed > 0) {
    expected = std::llround(its_class.mean_share * static_cast<double>(most));
  }
  // A request that has passed the mean is expected to go on for half of the mean.
  if (num_generated >= expected) expected = num_generated + std::max<int64_t>(1, expected / 2);
  return std::clamp<int64_t>(expected, 1, most);
}

}  // namespace tessera

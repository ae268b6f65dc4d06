#include "bench/serve/statistics.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "kernels/base/log.h"

namespace tessera::bench {

double Percentile(const std::vector<double>& sorted, double fraction) {
  CHECK(!sorted.empty());
  const double position = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double share = position - static_cast<double>(below);
  return sorted[below] + (sorted[above] - sorted[below]) * share;
}

Summary Summarize(std::vector<double> samples) {
  Summary summary;
  if (samples.empty()) return summary;
  std::sort(samples.begin(), samples.end());
  summary.mean =
      std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size());
  summary.p50 = Percentile(samples, 0.50);
  summary.p90 = Percentile(samples, 0.90);
  summary.p95 = Percentile(samples, 0.95);
  summary.p99 = Percentile(samples, 0.99);
  summary.max = samples.back();
  return summary;
}

}  // namespace tessera::bench

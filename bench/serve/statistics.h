// Exact statistics of samples, without histograms or sketches. Percentiles are interpolated
// linearly between the two nearest samples, as numpy and other load generators do. Pure functions;
// any thread.
#pragma once

#include <vector>

namespace tessera::bench {

struct Summary {
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p95 = 0;
  double p99 = 0;
  double max = 0;
};

// REQUIRES: sorted, not empty, 0 <= fraction <= 1.
double Percentile(const std::vector<double>& sorted, double fraction);

// Returns zeros if there are no samples.
Summary Summarize(std::vector<double> samples);

}  // namespace tessera::bench

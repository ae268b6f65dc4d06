// Exact statistics of samples: no histogram, no sketch. The definition of percentiles is that of
// numpy (linear between the two nearest samples), which other load generators report.
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

// All zero without samples.
Summary Summarize(std::vector<double> samples);

}  // namespace tessera::bench

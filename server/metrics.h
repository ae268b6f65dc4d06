// The operators' port: /metrics (Prometheus text), /healthz (live: the step loop's heartbeat),
// /readyz (takes requests). Plain counters stay with their owners; this room alone knows
// Prometheus' types and reads them when scraped. Every series is there at zero from the start, and
// labels are bounded.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

struct EngineModel;
struct EngineStats;
struct ServingContext;

// All outlive the server.
struct MetricsSources {
  const EngineStats* engine = nullptr;
  const std::vector<EngineModel>* models = nullptr;
  const ServingContext* context = nullptr;
  int64_t slab_bytes = 0;
  std::function<bool()> live;
};

class MetricsServer {
 public:
  virtual ~MetricsServer() = default;
  virtual const std::string& address() const = 0;  // HOST:PORT with the real port
};

// `listen` is HOST:PORT; port 0 picks a free one. A port in use is an error that says so.
absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(const std::string& listen,
                                                            MetricsSources sources);

// The text of /metrics.
std::string MetricsText(const MetricsSources& sources);

}  // namespace tessera

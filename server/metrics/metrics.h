// Metrics and probes over HTTP: /metrics (Prometheus text), /healthz (the engine makes progress)
// and /readyz (the engine makes progress, the gRPC port answers and the server does not drain).
// Each scrape reads the counters from the objects that own them, so every series exists with the
// value zero from the start. Owned by the node; the HTTP server has threads of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

class AdapterRegistry;
struct DoorStats;
struct EngineModel;
struct EngineStats;
struct ServingContext;

// The objects whose counters are exported; all of these objects outlive the metrics server.
struct MetricsSources {
  const EngineStats* engine = nullptr;
  const std::vector<EngineModel>* models = nullptr;
  const ServingContext* context = nullptr;
  const DoorStats* door = nullptr;            // null: there is no gRPC port
  const AdapterRegistry* adapters = nullptr;  // null: there are no adapters
  int32_t max_num_seqs = 0;
  int64_t slab_bytes = 0;
  std::function<bool()> live;  // Engine::live; thread-safe
};

// The text that /metrics returns.
std::string MetricsText(const MetricsSources& sources);

class MetricsServer {
 public:
  virtual ~MetricsServer() = default;
  // The address as HOST:PORT with the port that is bound.
  virtual const std::string& address() const = 0;
};

absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(const std::string& listen,
                                                            MetricsSources sources);

}  // namespace tessera

// Metrics and probes over HTTP: /metrics (Prometheus text), /healthz (the engine makes progress)
// and /readyz (alive and not draining). Counters live in their owners; they are read at each
// scrape, so every series is there at zero from the start. Owned by main; serves on threads of its
// own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

class AdapterRegistry;
struct EngineModel;
struct EngineStats;
struct ServingContext;

// All outlive the server.
struct MetricsSources {
  const EngineStats* engine = nullptr;
  const std::vector<EngineModel>* models = nullptr;
  const ServingContext* context = nullptr;
  const AdapterRegistry* adapters = nullptr;  // null: none
  int32_t max_num_seqs = 0;
  int64_t slab_bytes = 0;
  std::function<bool()> live;  // Engine::live; thread-safe
};

// What /metrics answers.
std::string MetricsText(const MetricsSources& sources);

class MetricsServer {
 public:
  virtual ~MetricsServer() = default;
  // HOST:PORT with the real port.
  virtual const std::string& address() const = 0;
};

absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(const std::string& listen,
                                                            MetricsSources sources);

}  // namespace tessera

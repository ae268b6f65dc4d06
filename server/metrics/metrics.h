// Metrics and probes over HTTP: /metrics (Prometheus text), /healthz (the process loads models, or
// the engine makes progress) and /readyz (the engine makes progress, the gRPC port answers and the
// server does not drain). The port opens before the models load. Until Publish, /readyz tells what
// the start does, and /metrics has the series that are known so far. Afterwards each scrape reads
// the counters from the objects that own them, so every series exists with the value zero from then
// on. Owned by the node; the HTTP server has a thread of its own.
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
// The text that /metrics returns while models load.
std::string LoadingMetricsText(const std::string& version);

class MetricsServer {
 public:
  virtual ~MetricsServer() = default;
  // The address as HOST:PORT with the port that is bound.
  virtual const std::string& address() const = 0;

  // Sets what the start does at present, e.g. "loading m: 1 of 2 MiB". /readyz answers 503 with
  // this text until Publish. Any thread.
  virtual void SetProgress(const std::string& progress) = 0;
  // From now on, the probes and /metrics read `sources`. REQUIRES: called at most once.
  virtual void Publish(MetricsSources sources) = 0;
};

absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(const std::string& listen,
                                                            const std::string& version);

}  // namespace tessera

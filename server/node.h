// One serving process. The node plans memory, loads the models, starts the engine and the server,
// and shuts them down in order: stop accepting calls, drain or cancel the open calls, stop the
// engine, stop the ranks. Owned by main, which calls it from the main thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/security_watch.h"

namespace tessera {

namespace v1 {
class Config;
}

class Node {
 public:
  virtual ~Node() = default;

  // The addresses as HOST:PORT with the ports that are bound.
  virtual const std::string& grpc_address() const = 0;
  virtual const std::string& metrics_address() const = 0;

  // Sets the health status to whether the engine makes progress. main calls this periodically.
  virtual void UpdateHealth() = 0;
  // Reads the files of `security` again if they have changed. main calls this periodically.
  virtual void UpdateSecurity() = 0;
  // Returns true after Control.Drain asked the process to exit.
  virtual bool exit_requested() const = 0;

  // Sets health to NOT_SERVING and refuses new requests; running requests continue.
  virtual void BeginDrain() = 0;
  virtual int64_t num_open_calls() const = 0;
  virtual void CancelAll() = 0;
  // Stops the server, the engine and the metrics. The destructor also calls Shutdown.
  virtual void Shutdown() = 0;
};

// Opens the port of metrics and probes, loads the models, opens the gRPC port and serves. While
// models load, /healthz answers 200, and /readyz answers 503 with the progress. Errors of the
// configuration, models, memory and ports say what to change. Progress and computed defaults are
// logged. Until the gRPC port is open, `while_loading` (if given) is called before each part of the
// start and with each piece of weights; it may end the process.
// `source` tells how `config` can be read again.
absl::StatusOr<std::unique_ptr<Node>> StartNode(const v1::Config& config,
                                                const std::function<void()>& while_loading = {},
                                                ConfigSource source = {});

// Finds the errors that StartNode would find, without packing weights and without opening ports: a
// node with the same ports may be running. The values in weights and adapters are read and checked.
// Adapters that StartNode would skip or that requests could not load are an error, too. Returns the
// memory plan as text.
absl::StatusOr<std::string> CheckNode(const v1::Config& config);

}  // namespace tessera

// One process of Tessera, from its configuration to an open port: plans memory, loads models,
// starts engine and server, and takes them down again in order (stop accepting, drain or cancel,
// engine, ranks). Owned by main; its calls come from main's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

namespace v1 {
class Config;
}

class Node {
 public:
  virtual ~Node() = default;

  // HOST:PORT with the real ports.
  virtual const std::string& grpc_address() const = 0;
  virtual const std::string& metrics_address() const = 0;

  // To be called now and then: health follows the engine's progress.
  virtual void UpdateHealth() = 0;
  // Control.Drain asked the process to exit.
  virtual bool exit_requested() const = 0;

  // Health turns NOT_SERVING and new requests are refused; running ones go on.
  virtual void BeginDrain() = 0;
  virtual int64_t num_open_calls() const = 0;
  virtual void CancelAll() = 0;
  // Ends everything. Called by the destructor too.
  virtual void Shutdown() = 0;
};

// Loads and serves. Configuration, model, memory and port errors say what to change. Progress and
// computed defaults are logged. `while_loading`, if given, is called again and again until the
// ports are opened: before each model and with each piece of weights. It may end the process.
absl::StatusOr<std::unique_ptr<Node>> StartNode(const v1::Config& config,
                                                const std::function<void()>& while_loading = {});

// What StartNode would do, without loading: the plan of memory as text.
absl::StatusOr<std::string> CheckNode(const v1::Config& config);

}  // namespace tessera

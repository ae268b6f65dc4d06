// The gRPC server: services, health, reflection, connection settings, and the responders behind
// them. Owned by main (or a test). Shutdown order: BeginDrain (health NOT_SERVING, new calls
// refused), wait for num_open_calls() == 0 or CancelAll, Shutdown; the generator is stopped after.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

struct ServingContext;

struct ServerOptions {
  std::string listen = "127.0.0.1:50051";  // port 0: a free one
  int32_t responder_threads = 2;
  int32_t max_connection_age_seconds = 0;  // 0: never closed
  int32_t keepalive_seconds = 60;
  int64_t preparer_bytes = 256 << 20;  // of large requests that wait to be tokenised
};

class Server {
 public:
  virtual ~Server() = default;

  // HOST:PORT with the real port.
  virtual const std::string& address() const = 0;
  // What health answers, unless draining.
  virtual void SetHealthy(bool healthy) = 0;
  virtual void BeginDrain() = 0;
  virtual int64_t num_open_calls() const = 0;
  // Ends all open calls as soon as possible.
  virtual void CancelAll() = 0;
  // Closes the port, gives open calls `grace_us` to end, cuts them off, joins. Called by the
  // destructor with no grace.
  virtual void Shutdown(int64_t grace_us) = 0;
};

// `context` outlives the server.
absl::StatusOr<std::unique_ptr<Server>> StartServer(const ServerOptions& options,
                                                    ServingContext* context);

}  // namespace tessera

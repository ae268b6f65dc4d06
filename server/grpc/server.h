// The gRPC server: services, health, reflection, connection settings, and the responders that
// handle the calls. The connections come from the door. Owned by the node (or a test). Any thread
// may call the methods, except Shutdown, which the owner calls. Shutdown order: BeginDrain (health
// becomes NOT_SERVING, new calls are refused); wait until num_open_calls() is 0 or call CancelAll;
// Shutdown; stop the generator.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/call/unread_replies.h"
#include "server/door/door.h"
#include "server/door/identities.h"

namespace tessera {

struct ServingContext;

struct ServerOptions {
  std::string listen = "127.0.0.1:50051";  // port 0: the system chooses a free port
  int32_t responder_threads = 2;
  int32_t max_connection_age_seconds = 0;  // 0: connections have no maximum age
  int32_t keepalive_seconds = 60;
  int64_t preparer_bytes = 256 << 20;  // largest total size of large requests in preparation
  UnreadReplies::Limits unread;        // of unary replies that clients have not read
  // The limits of connections, and TLS; `listen` and `client_names` are ignored.
  DoorOptions door;
  std::shared_ptr<const Identities> identities;  // null: none
  DoorStats* door_stats = nullptr;  // outlives the server; null: nobody reads the counters
  // Interval of the checks that the port answers. After three failed checks the health status is
  // NOT_SERVING until a check succeeds.
  int64_t port_check_us = 5'000'000;
};

class Server {
 public:
  virtual ~Server() = default;

  // The address as HOST:PORT with the port that is bound.
  virtual const std::string& address() const = 0;
  // Sets the status of the health service. While the server drains, the status is NOT_SERVING in
  // any case.
  virtual void SetHealthy(bool healthy) = 0;
  // New connections get this TLS, if ServerOptions has one, and new calls are judged by these
  // identities. What is open stays as it is. REQUIRES: not null.
  virtual void SetTls(std::shared_ptr<const TlsContext> tls) = 0;
  virtual void SetIdentities(std::shared_ptr<const Identities> identities) = 0;
  virtual void BeginDrain() = 0;
  virtual int64_t num_open_calls() const = 0;
  // Ends all open calls as soon as possible.
  virtual void CancelAll() = 0;
  // Refuses calls until none has come for 0.1 s (at most 1 s and `grace_us`), closes the port,
  // waits up to `grace_us` for open calls to end, cancels the remaining calls and joins the
  // threads. The destructor calls Shutdown(0).
  virtual void Shutdown(int64_t grace_us) = 0;
};

// `context` outlives the server.
absl::StatusOr<std::unique_ptr<Server>> StartServer(const ServerOptions& options,
                                                    ServingContext* context);

}  // namespace tessera

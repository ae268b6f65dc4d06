// The gRPC port. The door listens, accepts connections within their limits, and passes their bytes
// through a guard (frame_guard.h) to a socket pair whose other end gRPC serves. So gRPC has no
// listening socket of its own, and its connections come from the door only. One thread moves all
// bytes. Owned by the gRPC server; its methods may be called by any thread.
//
// With TLS (tls.h), gRPC gets a connection when its handshake is over, and sees plain text. The
// thread computes one step of one handshake between two rounds of moving bytes, so that a flood of
// handshakes does not delay open connections.
//
// What the door adds to a slow client's buffers, in each direction: at most kChunkBytes
// (connection.h) and the buffer of the pair (peer.cc). gRPC's flow control works end to end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/base/clock.h"
#include "server/config/config.h"
#include "server/door/door_stats.h"
#include "server/door/frame_guard.h"
#include "server/door/peer.h"
#include "server/door/tls.h"

namespace tessera {

class ClientNames;

struct DoorOptions {
  HostPort listen;
  // Connections that may be open. 0: as many as the limit of descriptors permits, at most 16,384.
  // Above the limit, the connection that has been idle for the longest time is closed; if none is
  // idle, the new connection is refused.
  int32_t max_connections = 0;
  // Connections that may be open from one IPv4 address or one IPv6 network (/64). 0: half of
  // max_connections. Above the limit, the same happens within the address. A proxy is one address.
  int32_t max_connections_per_address = 0;
  GuardLimits guard;
  // The largest number of bytes of requests that have arrived in part, over all connections. Above
  // it, the connection with the most such bytes is closed.
  int64_t max_incoming_bytes = int64_t{128} << 20;
  // Null: connections have no TLS.
  std::shared_ptr<const TlsContext> tls;
  // Where the names of clients' certificates are kept while they are connected; null: nowhere.
  // Outlives the door.
  ClientNames* client_names = nullptr;
};

class Door {
 public:
  // Takes a connected socket, which does not block, for gRPC. Called on the door's thread.
  using Deliver = std::function<void(int fd)>;

  virtual ~Door() = default;

  // The address as HOST:PORT with the port that is bound.
  virtual const std::string& address() const = 0;
  // The numeric address at which a process of this machine reaches the port.
  virtual const HostPort& local_address() const = 0;
  // Starts the thread. Clients that connected since OpenDoor are accepted now. Called once.
  virtual void Start(Deliver deliver) = 0;
  // New connections get this TLS; those that are open keep theirs. REQUIRES: `tls` is not null, and
  // DoorOptions::tls was not.
  virtual void SetTls(std::shared_ptr<const TlsContext> tls) = 0;
  // A connection from this address is the process's own probe of the port: no limit of connections
  // refuses it, it counts against none, and it has no TLS.
  virtual void ExpectProbe(const PeerAddress& probe) = 0;
  // Closes the port. `deliver` is not called after the return.
  virtual void StopAccepting() = 0;
  // Waits up to `grace_us` until all connections have ended, closes those that have not, and joins
  // the thread. gRPC must have ended its side. The destructor calls Stop(0).
  virtual void Stop(int64_t grace_us) = 0;
};

// Binds the port. Raises the limit of descriptors of the process. `clock` and `stats` outlive the
// door. Errors start with "--listen" and say what to change.
absl::StatusOr<std::unique_ptr<Door>> OpenDoor(const DoorOptions& options, const Clock* clock,
                                               DoorStats* stats);

}  // namespace tessera

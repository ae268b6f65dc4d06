// Helpers for the addresses on which the process listens. Used at start and shutdown; any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/config/config.h"

namespace tessera {

// Formats the address as "host:port", with brackets around an IPv6 host.
std::string FormatHostPort(const HostPort& address);

// Checks that the host can be resolved. The error names the flag.
absl::Status CheckHost(const std::string& flag, const HostPort& address);

// Binds the address once more to learn the system's reason why it cannot be bound. gRPC reports
// only that the bind failed.
std::string WhyNotBound(const HostPort& address);

// Makes an error such as
// "--listen 127.0.0.1:80: Permission denied; give another address, or port 0 for a free one".
absl::Status ListenError(const std::string& flag, const HostPort& address);

// A socket that accepts TCP connections.
struct ListenSocket {
  int fd = -1;   // does not block; the caller closes it
  int port = 0;  // the port that is bound
};

// Binds the address; port 0 selects a free port. Errors are those of ListenError.
absl::StatusOr<ListenSocket> OpenListener(const std::string& flag, const HostPort& address);

// Returns whether only processes of this machine can reach the address. A host that cannot be
// resolved counts as reachable from elsewhere.
bool IsLoopback(const HostPort& address);

}  // namespace tessera

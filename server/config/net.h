// Helpers for the addresses on which the process listens. Used at start and shutdown; any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/config/config.h"

namespace tessera {

// Formats the address as "host:port", with brackets around an IPv6 host.
std::string FormatHostPort(const HostPort& address);

// Resolves the host to a numeric address: "localhost" -> "127.0.0.1".
absl::StatusOr<HostPort> ResolveHost(const HostPort& address);

// Binds the address once more to learn the system's reason why it cannot be bound. gRPC and
// Civetweb report only that the bind failed.
std::string WhyNotBound(const HostPort& address);

// Makes an error such as
// "--listen 127.0.0.1:80: Permission denied; give another address, or port 0 for a free one".
absl::Status ListenError(const std::string& flag, const HostPort& address);

// Connects to the address and closes the connection at once. Errors are ignored.
void TouchPort(const HostPort& address);

}  // namespace tessera

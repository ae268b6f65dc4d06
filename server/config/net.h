// Addresses that the process listens on. Used at start.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/config/config.h"

namespace tessera {

// "host:port", with brackets around IPv6.
std::string FormatHostPort(const HostPort& address);

// The host as a number: "localhost" -> "127.0.0.1".
absl::StatusOr<HostPort> ResolveHost(const HostPort& address);

// Why an address cannot be listened on, as the system says it; libraries only say that it cannot.
std::string WhyNotBound(const HostPort& address);

// "--listen 127.0.0.1:80: Permission denied; give another address, or port 0 for a free one"
absl::Status ListenError(const std::string& flag, const HostPort& address);

// Connects to the address and hangs up.
void TouchPort(const HostPort& address);

}  // namespace tessera

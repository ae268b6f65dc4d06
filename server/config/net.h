// Helpers for the addresses on which the process listens. Used at start and shutdown; any thread.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/config/config.h"

struct addrinfo;

namespace tessera {

// Formats the address as "host:port", with brackets around an IPv6 host.
std::string FormatHostPort(const HostPort& address);

// Checks that the host can be resolved. The error names the flag.
absl::Status CheckHost(const std::string& flag, const HostPort& address);

// Makes an error such as
// "--listen 127.0.0.1:80: Permission denied; give another address, or port 0 for a free one".
absl::Status ListenError(const std::string& flag, const HostPort& address, absl::string_view why);

struct FreeAddresses {
  void operator()(addrinfo* list) const;
};
using AddressList = std::unique_ptr<addrinfo, FreeAddresses>;

// The addresses of the host for sockets that listen. Null, and the reason in *why, if the host is
// not known.
AddressList LookUp(const HostPort& address, std::string* why);

// Returns whether only processes of this machine can reach the address. A host that cannot be
// resolved counts as reachable from elsewhere.
bool IsLoopback(const HostPort& address);

}  // namespace tessera

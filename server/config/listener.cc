#include "server/door/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "server/config/net.h"
#include "server/door/peer.h"

namespace tessera {
namespace {

constexpr int kBacklog = 4096;  // the system may have a lower limit (net.core.somaxconn)

void SetPort(int port, addrinfo* address) {
  const uint16_t network_port = htons(static_cast<uint16_t>(port));
  if (address->ai_family == AF_INET) {
    reinterpret_cast<sockaddr_in*>(address->ai_addr)->sin_port = network_port;
  } else if (address->ai_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(address->ai_addr)->sin6_port = network_port;
  }
}

// The address of a bound socket, at which this machine reaches it.
HostPort LocalAddress(int fd) {
  sockaddr_storage bound = {};
  socklen_t size = sizeof(bound);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return {};
  const PeerAddress address = PeerFrom(bound);
  // A socket on all addresses takes clients of IPv4, or another socket of the same port does.
  const bool is_any = address.host == "0.0.0.0" || address.host == "::";
  return {is_any ? "127.0.0.1" : address.host, address.port};
}

// Returns a listening socket, or -1 and sets errno.
int ListenOn(const addrinfo& address, bool is_only_one) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (address.ai_family == AF_INET6) {
    // [::] alone takes clients of IPv4 too. Beside a socket for IPv4 it must not.
    const int v6_only = is_only_one ? 0 : 1;
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, sizeof(v6_only));
  }
  if (bind(fd, address.ai_addr, address.ai_addrlen) == 0 && listen(fd, kBacklog) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

}  // namespace

absl::StatusOr<Listener> Listener::Open(const std::string& flag, const HostPort& address) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(address.port);
  if (getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found) != 0) {
    return ListenError(flag, address);
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, freeaddrinfo);
  Listener listener;
  listener.port_ = address.port;
  for (addrinfo* each = found; each != nullptr; each = each->ai_next) {
    if (listener.port_ != 0) SetPort(listener.port_, each);
    const int fd = ListenOn(*each, found->ai_next == nullptr);
    if (fd >= 0) {
      listener.fds_.push_back(fd);
      listener.local_ = LocalAddress(fd);
      listener.port_ = listener.local_.port;
      continue;
    }
    // A machine without IPv6 still resolves localhost to ::1. A port in use is an error.
    if (errno == EADDRINUSE || errno == EACCES) return ListenError(flag, address);
  }
  if (listener.fds_.empty()) return ListenError(flag, address);
  return listener;
}

void Listener::Close() {
  for (const int fd : fds_) close(fd);
  fds_.clear();
}

}  // namespace tessera

#include "server/config/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/algorithm/container.h"
#include "server/config/net.h"

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

std::string NumericHost(const sockaddr* address, socklen_t size) {
  char host[NI_MAXHOST];
  if (getnameinfo(address, size, host, sizeof(host), nullptr, 0, NI_NUMERICHOST) != 0) return "";
  return host;
}

// The address of a bound socket, at which this machine reaches it.
HostPort LocalAddress(int fd) {
  sockaddr_storage bound = {};
  socklen_t size = sizeof(bound);
  auto* const address = reinterpret_cast<sockaddr*>(&bound);
  if (getsockname(fd, address, &size) != 0) return {};
  const std::string host = NumericHost(address, size);
  const int port =
      ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                        : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  // A socket on all addresses takes clients of IPv4, or another socket of the same port does.
  const bool is_any = host == "0.0.0.0" || host == "::";
  return {is_any ? "127.0.0.1" : host, port};
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
  std::string why;
  const AddressList found = LookUp(address, &why);
  if (found == nullptr) return ListenError(flag, address, why);
  Listener listener;
  listener.port_ = address.port;
  std::vector<std::string> hosts;  // the system may name an address twice
  for (addrinfo* each = found.get(); each != nullptr; each = each->ai_next) {
    const std::string host = NumericHost(each->ai_addr, each->ai_addrlen);
    if (absl::c_linear_search(hosts, host)) continue;
    hosts.push_back(host);
    if (listener.port_ != 0) SetPort(listener.port_, each);
    const int fd = ListenOn(*each, found->ai_next == nullptr);
    if (fd >= 0) {
      listener.fds_.push_back(fd);
      listener.local_ = LocalAddress(fd);
      listener.port_ = listener.local_.port;
      continue;
    }
    const int error = errno;
    why = std::strerror(error);
    // A machine without IPv6 still resolves localhost to ::1. A port in use is an error.
    if (error == EADDRINUSE || error == EACCES) return ListenError(flag, address, why);
  }
  if (listener.fds_.empty()) return ListenError(flag, address, why);
  return listener;
}

int Listener::Take() {
  const int fd = fds_.back();
  fds_.pop_back();
  return fd;
}

void Listener::Close() {
  for (const int fd : fds_) close(fd);
  fds_.clear();
}

}  // namespace tessera

#include "server/config/net.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

// Resolves the address. Returns null and sets *error when the host is not known.
AddressList LookUp(const HostPort& address, std::string* error) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int code =
      getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (code != 0) {
    *error = gai_strerror(code);
    found = nullptr;
  }
  return AddressList(found, [](addrinfo* list) {
    if (list != nullptr) freeaddrinfo(list);
  });
}

// Returns a socket that listens at the address; -1, and the reason in *why, if there is none.
int Bind(const addrinfo& address, std::string* why) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) {
    *why = std::strerror(errno);
    return -1;
  }
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, address.ai_addr, address.ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
  *why = std::strerror(errno);
  close(fd);
  return -1;
}

int PortOf(int fd) {
  sockaddr_storage bound = {};
  socklen_t size = sizeof(bound);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return 0;
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

bool IsLoopbackAddress(const sockaddr& address) {
  constexpr uint32_t kLoopbackNet = 127;
  if (address.sa_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return ntohl(v4.sin_addr.s_addr) >> 24 == kLoopbackNet;
  }
  if (address.sa_family != AF_INET6) return false;
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == kLoopbackNet);
}

absl::Status ErrorOf(const std::string& flag, const HostPort& address, const std::string& why) {
  return absl::UnavailableError(absl::StrCat(flag, " ", FormatHostPort(address), ": ", why,
                                             "; give another address, or port 0 for a free one"));
}

}  // namespace

std::string FormatHostPort(const HostPort& address) {
  const bool is_v6 = absl::StrContains(address.host, ':');
  return is_v6 ? absl::StrCat("[", address.host, "]:", address.port)
               : absl::StrCat(address.host, ":", address.port);
}

std::string WhyNotBound(const HostPort& address) {
  std::string why = "it cannot be bound";
  const AddressList found = LookUp(address, &why);
  if (found == nullptr) return why;
  const int fd = Bind(*found, &why);
  if (fd >= 0) close(fd);
  return why;
}

absl::Status ListenError(const std::string& flag, const HostPort& address) {
  return ErrorOf(flag, address, WhyNotBound(address));
}

absl::Status CheckHost(const std::string& flag, const HostPort& address) {
  std::string why;
  return LookUp(address, &why) == nullptr ? ErrorOf(flag, address, why) : absl::OkStatus();
}

absl::StatusOr<ListenSocket> OpenListener(const std::string& flag, const HostPort& address) {
  std::string why;
  const AddressList found = LookUp(address, &why);
  if (found == nullptr) return ErrorOf(flag, address, why);
  const int fd = Bind(*found, &why);
  if (fd < 0) return ErrorOf(flag, address, why);
  return ListenSocket{fd, PortOf(fd)};
}

bool IsLoopback(const HostPort& address) {
  std::string why;
  const AddressList found = LookUp(address, &why);
  if (found == nullptr) return false;
  for (const addrinfo* next = found.get(); next != nullptr; next = next->ai_next) {
    if (!IsLoopbackAddress(*next->ai_addr)) return false;
  }
  return true;
}

}  // namespace tessera

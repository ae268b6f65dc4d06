#include "server/config/net.h"

#include <netdb.h>
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

}  // namespace

std::string FormatHostPort(const HostPort& address) {
  const bool is_v6 = absl::StrContains(address.host, ':');
  return is_v6 ? absl::StrCat("[", address.host, "]:", address.port)
               : absl::StrCat(address.host, ":", address.port);
}

absl::StatusOr<HostPort> ResolveHost(const HostPort& address) {
  std::string error;
  const AddressList found = LookUp(address, &error);
  if (found == nullptr) return absl::NotFoundError(error);
  char host[NI_MAXHOST];
  const int code = getnameinfo(found->ai_addr, found->ai_addrlen, host, sizeof(host), nullptr, 0,
                               NI_NUMERICHOST);
  if (code != 0) return absl::NotFoundError(gai_strerror(code));
  return HostPort{host, address.port};
}

std::string WhyNotBound(const HostPort& address) {
  std::string why = "it cannot be bound";
  const AddressList found = LookUp(address, &why);
  if (found == nullptr) return why;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return std::strerror(errno);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0) {
    why = std::strerror(errno);
  }
  close(fd);
  return why;
}

void TouchPort(const HostPort& address) {
  std::string error;
  const AddressList found = LookUp(address, &error);
  if (found == nullptr) return;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  // A failure is ignored: it means that the port is closed already.
  (void)!connect(fd, found->ai_addr, found->ai_addrlen);
  close(fd);
}

absl::Status ListenError(const std::string& flag, const HostPort& address) {
  return absl::UnavailableError(absl::StrCat(flag, " ", FormatHostPort(address), ": ",
                                             WhyNotBound(address),
                                             "; give another address, or port 0 for a free one"));
}

}  // namespace tessera

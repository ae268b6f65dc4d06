#include "server/config/net.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

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

}  // namespace

std::string FormatHostPort(const HostPort& address) {
  const bool is_v6 = absl::StrContains(address.host, ':');
  return is_v6 ? absl::StrCat("[", address.host, "]:", address.port)
               : absl::StrCat(address.host, ":", address.port);
}

absl::Status ListenError(const std::string& flag, const HostPort& address, absl::string_view why) {
  return absl::UnavailableError(absl::StrCat(flag, " ", FormatHostPort(address), ": ", why,
                                             "; give another address, or port 0 for a free one"));
}

void FreeAddresses::operator()(addrinfo* list) const { freeaddrinfo(list); }

AddressList LookUp(const HostPort& address, std::string* why) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int code =
      getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (code == 0) return AddressList(found);
  *why = gai_strerror(code);
  return nullptr;
}

absl::Status CheckHost(const std::string& flag, const HostPort& address) {
  std::string why;
  return LookUp(address, &why) == nullptr ? ListenError(flag, address, why) : absl::OkStatus();
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

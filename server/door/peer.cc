#include "server/door/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace tessera {
namespace {

constexpr char kName[] = "tessera";
constexpr size_t kNumParts = 6;  // tessera/SCOPE/ID/FAMILY/HOST/PORT
// The bytes of one end's send buffer. The pair may delay that a slow client is noticed by this
// many bytes in each direction. The kernel doubles the number for its own use.
constexpr int kPairBufferBytes = 64 << 10;

PeerAddress PeerV4(const in_addr& address, uint16_t port) {
  char host[INET_ADDRSTRLEN];
  inet_ntop(AF_INET, &address, host, sizeof(host));
  return {host, ntohs(port), false, host};
}

PeerAddress PeerV6(const sockaddr_in6& address) {
  if (IN6_IS_ADDR_V4MAPPED(&address.sin6_addr)) {
    in_addr v4;
    std::memcpy(&v4, address.sin6_addr.s6_addr + 12, sizeof(v4));
    return PeerV4(v4, address.sin6_port);
  }
  char host[INET6_ADDRSTRLEN];
  inet_ntop(AF_INET6, &address.sin6_addr, host, sizeof(host));
  in6_addr network = address.sin6_addr;
  std::fill(network.s6_addr + 8, network.s6_addr + 16, uint8_t{0});
  char network_text[INET6_ADDRSTRLEN];
  inet_ntop(AF_INET6, &network, network_text, sizeof(network_text));
  return {host, ntohs(address.sin6_port), true, absl::StrCat(network_text, "/64")};
}

// The parts of the name of a named pair; none for another peer.
std::vector<std::string> PartsOf(absl::string_view grpc_peer) {
  constexpr absl::string_view kScheme("unix-abstract:");
  if (!absl::StartsWith(grpc_peer, kScheme)) return {};
  const std::string name =
      absl::StrReplaceAll(grpc_peer.substr(kScheme.size()), {{"%2F", "/"}, {"%3A", ":"}});
  std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() != kNumParts || parts[0] != kName) parts.clear();
  return parts;
}

}  // namespace

std::string FormatPeer(const PeerAddress& peer) {
  return peer.is_v6 ? absl::StrCat("[", peer.host, "]:", peer.port)
                    : absl::StrCat(peer.host, ":", peer.port);
}

PeerAddress PeerFrom(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, &address, sizeof(v4));
    return PeerV4(v4.sin_addr, v4.sin_port);
  }
  if (address.ss_family != AF_INET6) return {};
  sockaddr_in6 v6;
  std::memcpy(&v6, &address, sizeof(v6));
  return PeerV6(v6);
}

absl::StatusOr<SocketPair> MakeNamedPair(absl::string_view scope, uint64_t id,
                                         const PeerAddress& peer) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair");
  }
  const std::string name =
      absl::StrCat(kName, "/", scope, "/", id, "/", peer.is_v6 ? "ipv6" : "ipv4", "/", peer.host,
                   "/", peer.port);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  // A name whose first byte is 0 is not a file: it is in Linux's abstract name space.
  const size_t length = std::min(name.size(), sizeof(address.sun_path) - 1);
  std::memcpy(address.sun_path + 1, name.data(), length);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
  if (bind(ends[0], reinterpret_cast<const sockaddr*>(&address), size) != 0) {
    const int error = errno;
    close(ends[0]);
    close(ends[1]);
    return absl::ErrnoToStatus(error, "bind");
  }
  for (const int end : ends) {
    setsockopt(end, SOL_SOCKET, SO_SNDBUF, &kPairBufferBytes, sizeof(kPairBufferBytes));
  }
  return SocketPair{ends[0], ends[1]};
}

uint64_t ConnectionOf(absl::string_view grpc_peer) {
  const std::vector<std::string> parts = PartsOf(grpc_peer);
  uint64_t id = 0;
  return !parts.empty() && absl::SimpleAtoi(parts[2], &id) ? id : 0;
}

bool IsLoopbackPeer(absl::string_view client) {
  return absl::StartsWith(client, "ipv4:127.") || absl::StartsWith(client, "ipv6:[::1]:");
}

std::string ClientOf(absl::string_view grpc_peer) {
  const std::vector<std::string> parts = PartsOf(grpc_peer);
  if (parts.empty()) return "";
  if (parts[3] == "ipv4") return absl::StrCat("ipv4:", parts[4], ":", parts[5]);
  if (parts[3] == "ipv6") return absl::StrCat("ipv6:[", parts[4], "]:", parts[5]);
  return "";
}

}  // namespace tessera

// Who is at the other end of a connection. gRPC sees the address of the socket pair that the door
// made, not the client's address. The door names its end of the pair so that the name contains the
// client's address; gRPC reports that name as the peer of each call. Only sockets that the door
// made reach gRPC, so the name can be trusted. Pure functions; any thread.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tessera {

struct PeerAddress {
  std::string host;  // numeric, without brackets; an IPv4 address in IPv6 form is IPv4
  int port = 0;
  bool is_v6 = false;
  std::string network;  // whose connections are limited together: an IPv4 host, an IPv6 /64

  bool operator==(const PeerAddress& other) const {
    return host == other.host && port == other.port;
  }
};

// The address in the form "1.2.3.4:5" or "[::1]:5".
std::string FormatPeer(const PeerAddress& peer);

// Converts an address of IPv4 or IPv6. Other families give an empty host.
PeerAddress PeerFrom(const sockaddr_storage& address);

// Two connected sockets. `server` sees `door` under a name that contains `peer`. Both do not block.
struct SocketPair {
  int door = -1;
  int server = -1;
};
// `scope` is a text that no other process can guess; `id` is unique within the scope.
absl::StatusOr<SocketPair> MakeNamedPair(absl::string_view scope, uint64_t id,
                                         const PeerAddress& peer);

// The `id` in gRPC's name of a call's peer; 0 for a peer that is not at the end of a named pair.
uint64_t ConnectionOf(absl::string_view grpc_peer);

// Returns true if a client's address, as ClientOf returns it, is a loopback address of this
// machine. A proxy on this machine connects from such an address too, whoever its clients are.
bool IsLoopbackPeer(absl::string_view client);

// Converts gRPC's name of a call's peer to the client's address: "ipv4:1.2.3.4:5" or
// "ipv6:[::1]:5". Returns an empty string for a peer that is not at the end of a named pair.
std::string ClientOf(absl::string_view grpc_peer);

}  // namespace tessera

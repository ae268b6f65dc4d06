#include "server/door/door_stats.h"

namespace tessera {
namespace {

struct Reason {
  const char* name;
  const char* text;
};

// In the order of CloseReason.
constexpr std::array<Reason, kNumCloseReasons> kReasons = {{
    {"none", ""},
    {"too_many_connections",
     "limits.max_connections are open, all of them with open calls; raise the limit or the limit "
     "of descriptors (ulimit -n)"},
    {"too_many_of_address",
     "limits.max_connections_per_address are open from one address, all of them with open calls; "
     "raise the limit or use fewer connections"},
    {"no_descriptors", "the process has no free descriptor; raise the limit (ulimit -n)"},
    {"idle", "idle, closed to make room for a new connection"},
    {"protocol", "not valid HTTP/2; use a gRPC client, without TLS if this port has none"},
    {"header_block",
     "the headers of a request exceed limits.max_header_block_bytes; send less metadata"},
    {"streams", "more open calls than limits.max_streams_per_connection; obey SETTINGS"},
    {"stream_rate", "too many new calls a second on one connection; use more connections"},
    {"resets", "more cancelled calls a second than limits.max_resets_per_second"},
    {"pings", "too many pings; ping at most every 10 s"},
    {"settings", "too many SETTINGS"},
    {"frames", "too many frames without data"},
    {"incoming_bytes",
     "the requests that have arrived in part exceed limits.max_incoming_bytes or the bound of one "
     "connection; send fewer large requests at the same time"},
    {"handshake",
     "the TLS handshake failed; use a gRPC client with TLS 1.3, the certificate authority of this "
     "port and, if security.tls.client_ca is set, a certificate that it signed"},
    {"tls", "not valid TLS after the handshake"},
    {"handshakes",
     "too many unfinished TLS handshakes; the oldest of the address with the most is closed"},
    {"handshake_time", "the TLS handshake took longer than 10 s"},
    {"preface_time", "no HTTP/2 preface within 10 s"},
    {"first_request_time", "no request within 5 minutes"},
    {"header_time", "the headers of a request took longer than 10 s"},
    {"request_time", "a request took longer than 60 s to arrive"},
}};

}  // namespace

const char* CloseReasonName(CloseReason reason) {
  return kReasons[static_cast<size_t>(reason)].name;
}

const char* CloseReasonText(CloseReason reason) {
  return kReasons[static_cast<size_t>(reason)].text;
}

}  // namespace tessera

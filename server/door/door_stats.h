// The reasons for which connections are refused or closed, and the counters of the connections.
// The node (or a test) owns the counters, the door writes them, metrics read them. Any thread.
#pragma once

#include <array>
#include <cstddef>

#include "kernels/base/stats.h"

namespace tessera {

enum class CloseReason {
  kNone,
  // A new connection is refused.
  kTooManyConnections,
  kTooManyOfAddress,
  kNoDescriptors,
  // A connection is closed to make room for a new one.
  kIdle,
  // The client broke HTTP/2 or passed a bound.
  kProtocol,
  kHeaderBlock,
  kStreams,
  kStreamRate,
  kResets,
  kPings,
  kSettings,
  kFrames,
  kIncomingBytes,
  // TLS failed.
  kHandshake,
  kTls,
  // Too many connections are in their handshake: the oldest of the network with the most is closed.
  kHandshakes,
  // The client was too slow.
  kHandshakeTime,
  kPrefaceTime,
  kFirstRequestTime,
  kHeaderTime,
  kRequestTime,
};
inline constexpr size_t kNumCloseReasons = static_cast<size_t>(CloseReason::kRequestTime) + 1;

// The reason as a label of metrics, e.g. "header_block".
const char* CloseReasonName(CloseReason reason);
// What was wrong and what to change, e.g. "a header block is larger than ...".
const char* CloseReasonText(CloseReason reason);
// True if the connection was refused before it carried anything.
inline bool IsRefusal(CloseReason reason) {
  return reason == CloseReason::kTooManyConnections || reason == CloseReason::kTooManyOfAddress ||
         reason == CloseReason::kNoDescriptors;
}

struct DoorStats {
  Counter open;                                  // connections that are open
  Counter accepted;                              // connections that were accepted and not refused
  std::array<Counter, kNumCloseReasons> closed;  // refused or closed connections, by reason
};

}  // namespace tessera

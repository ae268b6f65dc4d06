// Checks from time to time that the process's own gRPC port answers, over a real connection: it
// connects, sends the start of HTTP/2, and expects SETTINGS back. The check has a thread of its
// own. Owned by the gRPC server.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "server/config/config.h"
#include "server/door/peer.h"

namespace tessera {

struct PortWatchOptions {
  HostPort address;                 // numeric, an address of this machine
  int64_t interval_us = 5'000'000;  // between two checks
  int64_t timeout_us = 5'000'000;   // of each operation of a check
  int32_t max_failures = 3;         // failed checks in a row after which the port does not answer
  // Called before each connection is made, with the address from which it comes.
  std::function<void(const PeerAddress&)> announce;
  // Called when the port stops or starts to answer. At first it is taken to answer.
  std::function<void(bool answers)> report;
};

// The functions are called on the thread of the check, which the destructor joins.
class PortWatch {
 public:
  virtual ~PortWatch() = default;
};
std::unique_ptr<PortWatch> WatchPort(PortWatchOptions options);

}  // namespace tessera

// The listening sockets of one address: one for each address of the host. Owned by one thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config/config.h"

namespace tessera {

class Listener final {
 public:
  // Binds every address of the host (localhost may be 127.0.0.1 and ::1) to one port; port 0: the
  // system chooses a free one. Returns an error that names `flag` and says why it cannot be bound.
  static absl::StatusOr<Listener> Open(const std::string& flag, const HostPort& address);
  ~Listener() { Close(); }
  Listener(Listener&& other) noexcept
      : fds_(std::move(other.fds_)), port_(other.port_), local_(std::move(other.local_)) {
    other.fds_.clear();
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  const std::vector<int>& fds() const { return fds_; }  // they do not block
  int port() const { return port_; }
  // A numeric address at which this machine reaches the port.
  HostPort local_address() const { return local_; }
  void Close();
  // Gives one socket to the caller, who closes it. REQUIRES: fds() is not empty.
  int Take();

 private:
  Listener() = default;

  std::vector<int> fds_;
  int port_ = 0;
  HostPort local_;
};

}  // namespace tessera

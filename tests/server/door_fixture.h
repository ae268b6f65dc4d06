// The fixture of tests of the door with sockets: the test plays the clients and, in the place of
// gRPC, the server at the other end of the socket pairs.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/base/clock.h"
#include "server/door/door.h"
#include "tests/lib/hostile_http2.h"
#include "tests/lib/tls_client.h"

namespace tessera::testing {

// Waits until `condition` holds; fails the test after twenty seconds.
void WaitFor(const char* what, const std::function<bool()>& condition);

// A DATA frame with this many bytes.
std::string Data(uint32_t stream, size_t bytes);

// The server's end of a connection.
class ServerEnd final {
 public:
  explicit ServerEnd(int fd) : fd_(fd) {}
  ~ServerEnd() { Close(); }
  ServerEnd(const ServerEnd&) = delete;
  ServerEnd& operator=(const ServerEnd&) = delete;

  void Close();
  // Reads until `bytes` bytes have arrived or the client has ended.
  std::string Read(size_t bytes) const;
  int64_t SendSome(absl::string_view bytes) const;
  // The name that gRPC would report.
  std::string PeerName() const;

 private:
  int fd_;
};

class DoorFixture : public ::testing::Test {
 protected:
  // `encrypted`: the port has TLS and asks for a client's certificate, and the clients have one.
  explicit DoorFixture(bool encrypted);

  void Start(DoorOptions options = {}, const std::string& host = "127.0.0.1",
             const Clock* clock = nullptr);
  std::unique_ptr<HostileHttp2> Connect() const { return Connect(client_tls()); }
  std::unique_ptr<HostileHttp2> Connect(const TlsClientContext* tls) const {
    return std::make_unique<HostileHttp2>(door_->address(), tls);
  }
  // Null: without TLS.
  const TlsClientContext* client_tls() const { return tls_ == nullptr ? nullptr : &tls_->client; }
  // The server's end of the oldest connection that gRPC would have got.
  std::unique_ptr<ServerEnd> Next();
  size_t num_delivered();
  int64_t Closed(CloseReason reason) const {
    return stats_.closed[static_cast<size_t>(reason)].value();
  }
  // Opens a connection with one open call.
  std::pair<std::unique_ptr<HostileHttp2>, std::unique_ptr<ServerEnd>> ConnectBusy();

  std::unique_ptr<TlsPair> tls_;  // null: without TLS
  SteadyClock clock_;
  DoorStats stats_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<ServerEnd>> delivered_;  // guarded by mutex_
  std::unique_ptr<Door> door_;
};

}  // namespace tessera::testing

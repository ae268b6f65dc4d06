// A client of raw TCP connections and HTTP requests, for tests of servers. Every wait is bounded by
// a time limit, after which the result is what has arrived so far. One thread uses an object.
#pragma once

#include <string>

namespace tessera::testing {

class TcpClient final {
 public:
  // Connects to HOST:PORT or [HOST]:PORT with a numeric host.
  explicit TcpClient(const std::string& address);
  ~TcpClient();
  TcpClient(TcpClient&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  TcpClient& operator=(TcpClient&&) = delete;

  bool connected() const { return fd_ >= 0; }
  bool Send(const std::string& bytes) const;
  // Reads until the peer closes the connection, or until the bytes read end with `end` (if given).
  std::string Read(const std::string& end = "") const;
  // Waits until the peer closes the connection. Returns false if the time limit passes.
  bool AwaitClose() const;

 private:
  int fd_ = -1;
};

// Returns the whole answer to a request on a connection of its own; empty when there is no answer.
std::string Http(const std::string& address, const std::string& request);
// The answer to GET of `target`. The server closes the connection after the answer.
std::string HttpGet(const std::string& address, const std::string& target);

// Returns whether this machine has the IPv6 loopback address.
bool HasIpv6();

}  // namespace tessera::testing

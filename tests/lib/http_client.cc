#include "tests/lib/http_client.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>

namespace tessera::testing {
namespace {

constexpr timeval kTimeLimit = {30, 0};

}  // namespace

TcpClient::TcpClient(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.substr(colon + 1).c_str(), &hints, &found) != 0) return;
  fd_ = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &kTimeLimit, sizeof(kTimeLimit));
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &kTimeLimit, sizeof(kTimeLimit));
  if (connect(fd_, found->ai_addr, found->ai_addrlen) != 0) {
    close(fd_);
    fd_ = -1;
  }
  freeaddrinfo(found);
}

TcpClient::~TcpClient() {
  if (fd_ >= 0) close(fd_);
}

bool TcpClient::Send(const std::string& bytes) const {
  return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
}

std::string TcpClient::Read(const std::string& end) const {
  std::string text;
  char buffer[4096];
  for (ssize_t n = 0; (n = recv(fd_, buffer, sizeof(buffer), 0)) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
    const bool ended = !end.empty() && text.size() >= end.size() &&
                       text.compare(text.size() - end.size(), end.size(), end) == 0;
    if (ended) break;
  }
  return text;
}

bool TcpClient::AwaitClose() const {
  char buffer[4096];
  ssize_t n = 0;
  while ((n = recv(fd_, buffer, sizeof(buffer), 0)) > 0) {
  }
  return n == 0 || errno == ECONNRESET;
}

std::string Http(const std::string& address, const std::string& request) {
  const TcpClient client(address);
  return client.connected() && client.Send(request) ? client.Read() : "";
}

std::string HttpGet(const std::string& address, const std::string& target) {
  return Http(address, "GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
}

bool HasIpv6() {
  const int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  sockaddr_in6 loopback = {};
  loopback.sin6_family = AF_INET6;
  loopback.sin6_addr = in6addr_loopback;
  const bool bound = bind(fd, reinterpret_cast<sockaddr*>(&loopback), sizeof(loopback)) == 0;
  close(fd);
  return bound;
}

}  // namespace tessera::testing

#include "tests/lib/hostile_http2.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"

namespace tessera::testing {
namespace {

constexpr int64_t kInitialWindowSize = 4;  // a setting of HTTP/2

using Clock = std::chrono::steady_clock;

// A header field that is not added to HPACK's table; `name` is an index or the bytes of a name.
std::string Field(const std::string& name, const std::string& value) {
  return absl::StrCat(name, std::string(1, static_cast<char>(value.size())), value);
}

std::string BigEndian(uint32_t value, int bytes) {
  std::string out;
  for (int i = bytes - 1; i >= 0; --i) out.push_back(static_cast<char>(value >> (8 * i) & 0xff));
  return out;
}

int64_t FromBigEndian(absl::string_view bytes) {
  int64_t value = 0;
  for (const char byte : bytes) value = value << 8 | static_cast<uint8_t>(byte);
  return value;
}

bool WaitFor(int fd, short events, int64_t timeout_ms) {
  pollfd poll_fd = {fd, events, 0};
  return poll(&poll_fd, 1, static_cast<int>(timeout_ms)) > 0;
}

int64_t LeftMs(Clock::time_point end) {
  return std::max<int64_t>(
      0, std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count());
}

}  // namespace

std::string Frame(FrameType type, uint8_t flags, uint32_t stream, absl::string_view payload) {
  return absl::StrCat(BigEndian(static_cast<uint32_t>(payload.size()), 3),
                      BigEndian(static_cast<uint32_t>(type), 1), BigEndian(flags, 1),
                      BigEndian(stream, 4), payload);
}

std::string Http2Hello() {
  return absl::StrCat("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Frame(FrameType::kSettings, 0, 0));
}

std::string CallHeaders(const std::string& method) {
  return absl::StrCat("\x83\x86", Field("\x04", method), Field("\x01", "localhost"),
                      Field("\x0f\x10", "application/grpc"),
                      Field(std::string("\0\2te", 4), "trailers"));
}

std::string GrpcMessage(uint32_t promised_bytes, absl::string_view bytes) {
  return absl::StrCat(std::string(1, '\0'), BigEndian(promised_bytes, 4), bytes);
}

HostileHttp2::HostileHttp2(const std::string& address) {
  const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  CHECK(parsed.ok()) << parsed.status();
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(parsed->port);
  CHECK_EQ(getaddrinfo(parsed->host.c_str(), port.c_str(), &hints, &found), 0);
  fd_ = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int failed = connect(fd_, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  CHECK_EQ(failed, 0) << std::strerror(errno);
}

HostileHttp2::~HostileHttp2() {
  if (fd_ >= 0) close(fd_);
}

bool HostileHttp2::Send(absl::string_view bytes) {
  const Clock::time_point end = Clock::now() + std::chrono::seconds(10);
  while (!bytes.empty()) {
    const int64_t sent = SendSome(bytes);
    if (sent < 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
    if (sent > 0) continue;
    if (!Drain() || LeftMs(end) == 0) return false;
    WaitFor(fd_, POLLIN | POLLOUT, LeftMs(end));
  }
  return true;
}

int64_t HostileHttp2::SendSome(absl::string_view bytes) {
  const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && errno == EAGAIN) return 0;
  return sent;
}

std::string HostileHttp2::Read(size_t bytes, int64_t timeout_ms) {
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  std::string result(bytes, '\0');
  size_t size = 0;
  while (size < bytes && WaitFor(fd_, POLLIN, LeftMs(end))) {
    const ssize_t received = recv(fd_, result.data() + size, bytes - size, MSG_DONTWAIT);
    if (received <= 0) break;
    size += static_cast<size_t>(received);
  }
  result.resize(size);
  return result;
}

int64_t HostileHttp2::SendData(uint32_t stream, absl::string_view bytes, int64_t timeout_ms) {
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  const auto size = static_cast<int64_t>(bytes.size());
  while (true) {
    if (!Drain()) return -1;
    if (!acks_.empty() && !Send(std::exchange(acks_, {}))) return -1;
    int64_t& window = windows_.try_emplace(stream, initial_window_).first->second;
    if (window >= size && windows_[0] >= size) {
      window -= size;
      windows_[0] -= size;
      return Send(Frame(FrameType::kData, 0, stream, bytes)) ? size : -1;
    }
    if (!WaitFor(fd_, POLLIN, LeftMs(end))) return 0;
  }
}

bool HostileHttp2::WaitClosed(int64_t timeout_ms) {
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  while (Drain()) {
    if (!WaitFor(fd_, POLLIN, LeftMs(end))) return false;
  }
  return true;
}

bool HostileHttp2::WaitGoAway(int64_t timeout_ms) {
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  while (go_away_.empty()) {
    if (!WaitFor(fd_, POLLIN, LeftMs(end)) || !Drain()) break;
  }
  return !go_away_.empty();
}

void HostileHttp2::HalfClose() { shutdown(fd_, SHUT_WR); }

void HostileHttp2::Reset() {
  const linger at_once = {1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  close(fd_);
  fd_ = -1;
}

// Reads what has arrived. Returns false if the connection is closed.
bool HostileHttp2::Drain() {
  std::array<char, 1 << 16> buffer;
  while (true) {
    const ssize_t received = recv(fd_, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (received < 0) return errno == EAGAIN || errno == EINTR;
    if (received == 0) return false;
    Parse({buffer.data(), static_cast<size_t>(received)});
  }
}

void HostileHttp2::Parse(absl::string_view bytes) {
  while (true) {
    const bool in_payload = !reader_.at_boundary();
    const absl::string_view before = bytes;
    const FrameReader::Event event = reader_.Next(&bytes);
    if (event == FrameReader::Event::kHeader) {
      payload_.clear();
      continue;
    }
    if (in_payload) absl::StrAppend(&payload_, before.substr(0, before.size() - bytes.size()));
    if (event == FrameReader::Event::kNeedBytes) return;
    OnFrame();
  }
}

void HostileHttp2::OnFrame() {
  ++num_frames_;
  const FrameHeader& frame = reader_.header();
  if (frame.type == FrameType::kGoAway) go_away_ = payload_;
  const bool is_asked = frame.type == FrameType::kSettings || frame.type == FrameType::kPing;
  if (is_asked && !frame.Has(kFlagAck)) {
    absl::StrAppend(&acks_, Frame(frame.type, kFlagAck, 0,
                                  frame.type == FrameType::kPing ? payload_ : std::string()));
  }
  if (frame.type == FrameType::kWindowUpdate) {
    windows_.try_emplace(frame.stream, initial_window_).first->second += FromBigEndian(payload_);
  }
  if (frame.type != FrameType::kSettings) return;
  for (absl::string_view rest = payload_; rest.size() >= 6; rest.remove_prefix(6)) {
    if (FromBigEndian(rest.substr(0, 2)) != kInitialWindowSize) continue;
    const int64_t change = FromBigEndian(rest.substr(2, 4)) - initial_window_;
    initial_window_ += change;
    for (auto& [stream, window] : windows_) window += stream == 0 ? 0 : change;
  }
}

}  // namespace tessera::testing

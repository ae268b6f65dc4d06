#include "tests/lib/hostile_http2.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

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

HostileHttp2::HostileHttp2(const std::string& address, const TlsClientContext* tls) {
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
  if (tls == nullptr) return;
  tls_ = std::make_unique<TlsClient>(*tls);
  ++num_with_tls_;
  const Clock::time_point end = Clock::now() + std::chrono::seconds(20);
  while (SendWire(tls_->TakeWire()) && !tls_->open() && WaitFor(fd_, POLLIN, LeftMs(end))) {
    if (Receive(&plain_) < 0) break;
  }
}

HostileHttp2::~HostileHttp2() {
  if (fd_ >= 0) close(fd_);
  if (tls_ != nullptr) --num_with_tls_;
}

bool HostileHttp2::Send(absl::string_view bytes) {
  return tls_ == nullptr ? SendWire(bytes) : SendRecords(bytes, 16 << 10);
}

bool HostileHttp2::SendRecords(absl::string_view bytes, size_t record_bytes) {
  if (!tls_->open() || !tls_->error().empty()) return false;
  while (!bytes.empty()) {
    tls_->Send(bytes.substr(0, record_bytes));
    bytes.remove_prefix(std::min(record_bytes, bytes.size()));
  }
  return SendWire(tls_->TakeWire());
}

bool HostileHttp2::ChangeKeys() {
  if (!tls_->open() || !tls_->error().empty()) return false;
  tls_->ChangeKeys();
  return SendWire(tls_->TakeWire());
}

bool HostileHttp2::SendWire(absl::string_view bytes) {
  const Clock::time_point end = Clock::now() + std::chrono::seconds(10);
  while (!rest_.empty() || !bytes.empty()) {
    int64_t sent = SendRest();
    if (sent == 0 && rest_.empty()) {
      sent = SendSomeWire(bytes);
      if (sent > 0) bytes.remove_prefix(static_cast<size_t>(sent));
    }
    if (sent < 0) return false;
    if (sent > 0) continue;
    if (!Drain() || LeftMs(end) == 0) return false;
    WaitFor(fd_, POLLIN | POLLOUT, LeftMs(end));
  }
  return true;
}

int64_t HostileHttp2::SendSome(absl::string_view bytes) {
  if (tls_ == nullptr) return SendSomeWire(bytes);
  if (!tls_->open() || !tls_->error().empty()) return -1;
  int64_t taken = 0;
  while (true) {
    if (SendRest() < 0) return taken > 0 ? taken : -1;
    if (!rest_.empty() || bytes.empty()) return taken;
    const absl::string_view piece = bytes.substr(0, 16 << 10);
    tls_->Send(piece);
    rest_ = tls_->TakeWire();
    taken += static_cast<int64_t>(piece.size());
    bytes.remove_prefix(piece.size());
  }
}

int64_t HostileHttp2::SendSomeWire(absl::string_view bytes) {
  const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && errno == EAGAIN) return 0;
  return sent;
}

// Sends what has waited. Returns the number of bytes, -1 if the connection is closed.
int64_t HostileHttp2::SendRest() {
  if (rest_.empty()) return 0;
  const int64_t sent = SendSomeWire(rest_);
  if (sent > 0) rest_.erase(0, static_cast<size_t>(sent));
  return sent;
}

// Receives what has arrived, and appends it to *plain without TLS. Returns the number of bytes on
// the wire: 0 if nothing has arrived, -1 if the connection is closed.
int64_t HostileHttp2::Receive(std::string* plain) {
  std::array<char, 1 << 16> buffer;
  const ssize_t received = recv(fd_, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (received < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
  if (received == 0) return -1;
  const absl::string_view bytes(buffer.data(), static_cast<size_t>(received));
  if (tls_ == nullptr) {
    plain->append(bytes.data(), bytes.size());
  } else {
    plain->append(tls_->Receive(bytes));
  }
  return received;
}

std::string HostileHttp2::Read(size_t bytes, int64_t timeout_ms) {
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  while (plain_.size() < bytes && WaitFor(fd_, POLLIN, LeftMs(end))) {
    if (Receive(&plain_) < 0) break;
  }
  std::string result = plain_.substr(0, bytes);
  plain_.erase(0, bytes);
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
  while (Drain() && go_away_.empty()) {
    if (!WaitFor(fd_, POLLIN, LeftMs(end))) break;
  }
  return !go_away_.empty();
}

void HostileHttp2::HalfClose() {
  if (tls_ != nullptr && tls_->open()) {
    tls_->End();
    SendWire(tls_->TakeWire());
  }
  shutdown(fd_, SHUT_WR);
}

void HostileHttp2::Reset() {
  const linger at_once = {1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  close(fd_);
  fd_ = -1;
}

// Reads what has arrived. Returns false if the connection is closed.
bool HostileHttp2::Drain() {
  while (true) {
    const int64_t received = Receive(&plain_);
    Parse(std::exchange(plain_, {}));
    if (received <= 0) return received == 0;
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

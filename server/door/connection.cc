#include "server/door/connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace tessera {
namespace {

// How long a client may read the last bytes after gRPC has closed the connection.
constexpr int64_t kLingerUs = 2'000'000;

// The bytes for the client that may wait while it does not read: a chunk of gRPC's, encrypted, and
// answers of TLS.
constexpr size_t kMaxBacklogBytes = 4 * kChunkBytes;

bool IsTemporary(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

}  // namespace

Connection::Connection(int client, int server, PeerAddress peer, const GuardLimits& limits,
                       ConnectionScratch* scratch, std::unique_ptr<TlsStream> tls, int64_t now_us)
    : client_(client),
      server_(server),
      peer_(std::move(peer)),
      guard_(limits, now_us),
      scratch_(scratch),
      tls_(std::move(tls)),
      begin_us_(now_us) {}

Connection::~Connection() {
  close(client_);
  if (server_ >= 0) close(server_);
}

Connection::Result Connection::OnClient(uint32_t events, size_t max_bytes, int64_t now_us) {
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) return Result::kGone;
  if ((events & EPOLLOUT) != 0) {
    if (!Flush(client_, &to_client_)) return Result::kGone;
    if (server_ < 0 && to_client_.empty()) shutdown(client_, SHUT_WR);
  }
  if ((events & EPOLLIN) == 0) return Result::kOpen;
  const ssize_t received = recv(client_, scratch_->wire.data(), max_bytes, MSG_DONTWAIT);
  if (received < 0) return IsTemporary(errno) ? Result::kOpen : Result::kGone;
  if (received == 0) return in_handshake() ? Result::kGone : EndOfClient();
  absl::string_view bytes(scratch_->wire.data(), static_cast<size_t>(received));
  if (tls_ != nullptr) {
    const Result result = Decrypt(&bytes, now_us);
    if (result != Result::kOpen) return result;
  }
  const CloseReason reason = guard_.FromClient(bytes, now_us);
  if (reason != CloseReason::kNone) return Guarded(reason);
  // If gRPC has closed the connection, the bytes are dropped.
  if (server_ >= 0 && !bytes.empty()) {
    SendToServer(bytes);
    CountUnread(now_us);
  }
  const bool is_end = tls_ != nullptr && tls_->state() == TlsStream::State::kEnded;
  return is_end ? EndOfClient() : Result::kOpen;
}

Connection::Result Connection::Decrypt(absl::string_view* bytes, int64_t now_us) {
  const bool was_in_handshake = in_handshake();
  std::string& out = scratch_->out;
  out.clear();
  const size_t size = tls_->Receive(*bytes, scratch_->plain.data(), &out, now_us);
  if (!out.empty() && !Send(client_, out, &to_client_)) return Result::kGone;
  if (tls_->state() == TlsStream::State::kFailed) {
    close_detail_ = tls_->error();
    return Guarded(was_in_handshake ? CloseReason::kHandshake : CloseReason::kTls);
  }
  // A client may cause answers of TLS without reading them.
  if (to_client_.bytes.size() > kMaxBacklogBytes) return Guarded(CloseReason::kTls);
  // The guard counts the client's time from the end of the handshake.
  if (was_in_handshake && !in_handshake()) guard_.Defer(now_us - begin_us_);
  *bytes = absl::string_view(scratch_->plain.data(), size);
  return Result::kOpen;
}

Connection::Result Connection::Guarded(CloseReason reason) {
  close_reason_ = reason;
  return Result::kGuarded;
}

Connection::Result Connection::EndOfClient() {
  client_ended_ = true;
  if (server_ < 0) return Result::kGone;
  if (to_server_.empty()) shutdown(server_, SHUT_WR);
  return Result::kOpen;
}

Connection::Result Connection::OnServer(uint32_t events, int64_t now_us) {
  if ((events & EPOLLOUT) != 0) {
    if (!Flush(server_, &to_server_)) server_deaf_ = true;
    if (client_ended_ && to_server_.empty()) shutdown(server_, SHUT_WR);
  }
  CountUnread(now_us);
  if (!to_client_.empty()) return Result::kOpen;
  const ssize_t received = recv(server_, scratch_->wire.data(), kChunkBytes, MSG_DONTWAIT);
  if (received < 0 && IsTemporary(errno)) return Result::kOpen;
  if (received <= 0) {
    EndOfServer(now_us);
    return client_ended_ ? Result::kGone : Result::kOpen;
  }
  const absl::string_view bytes(scratch_->wire.data(), static_cast<size_t>(received));
  guard_.FromServer(bytes);
  return SendToClient(bytes) ? Result::kOpen : Result::kGone;
}

Connection::Result Connection::OnTime(int64_t now_us) {
  if (linger_until_us_ != 0) return now_us > linger_until_us_ ? Result::kGone : Result::kOpen;
  CountUnread(now_us);
  if (in_handshake()) {
    return now_us - begin_us_ > kHandshakeTimeUs ? Guarded(CloseReason::kHandshakeTime)
                                                 : Result::kOpen;
  }
  const CloseReason reason = guard_.CheckTime(now_us);
  return reason == CloseReason::kNone ? Result::kOpen : Guarded(reason);
}

uint32_t Connection::client_events() const {
  uint32_t events = EPOLLERR;  // a client that is gone is noticed even while its bytes must wait
  if (reads() && !client_ended_) events |= EPOLLIN;
  if (!to_client_.empty()) events |= EPOLLOUT;
  return events;
}

uint32_t Connection::server_events() const {
  uint32_t events = 0;
  if (to_client_.empty()) events |= EPOLLIN;
  if (!to_server_.empty()) events |= EPOLLOUT;
  return events;
}

void Connection::SetPaused(bool paused, int64_t now_us) {
  paused_ = paused;
  CountUnread(now_us);
}

void Connection::CountUnread(int64_t now_us) {
  if (unread_since_us_ != 0) guard_.Defer(now_us - unread_since_us_);
  unread_since_us_ = reads() ? 0 : now_us;
}

void Connection::SendGoAway(CloseReason reason) {
  if (server_ < 0 || !to_client_.empty()) return;
  const std::string frame = guard_.GoAway(reason);
  if (!frame.empty()) (void)SendToClient(frame);
}

std::vector<std::string> Connection::ClientCertificateNames() const {
  return tls_ == nullptr ? std::vector<std::string>() : tls_->ClientCertificateNames();
}

bool Connection::SendToClient(absl::string_view bytes) {
  if (tls_ == nullptr) return Send(client_, bytes, &to_client_);
  if (tls_->state() != TlsStream::State::kOpen && tls_->state() != TlsStream::State::kEnded) {
    return false;
  }
  std::string& out = scratch_->out;
  out.clear();
  tls_->Send(bytes, &out);
  return tls_->state() != TlsStream::State::kFailed && Send(client_, out, &to_client_);
}

void Connection::SendToServer(absl::string_view bytes) {
  // After gRPC has stopped reading, what it still has to say is passed on until it ends.
  if (!server_deaf_ && !Send(server_, bytes, &to_server_)) server_deaf_ = true;
}

// Returns false if the other end is closed.
bool Connection::Send(int fd, absl::string_view bytes, Backlog* backlog) {
  if (!backlog->empty()) {
    backlog->bytes.append(bytes.data(), bytes.size());
    return true;
  }
  ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && !IsTemporary(errno)) return false;
  if (sent < 0) sent = 0;
  const absl::string_view rest = bytes.substr(static_cast<size_t>(sent));
  if (rest.empty()) return true;
  backlog->bytes.assign(rest.data(), rest.size());
  backlog->begin = 0;
  return true;
}

bool Connection::Flush(int fd, Backlog* backlog) {
  const size_t size = backlog->bytes.size() - backlog->begin;
  const ssize_t sent =
      send(fd, backlog->bytes.data() + backlog->begin, size, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && IsTemporary(errno)) return true;
  if (sent < 0) {
    *backlog = {};
    return false;
  }
  backlog->begin += static_cast<size_t>(sent);
  if (backlog->empty()) *backlog = {};
  return true;
}

void Connection::EndOfServer(int64_t now_us) {
  close(server_);
  server_ = -1;
  to_server_ = {};
  if (tls_ != nullptr) {
    std::string& out = scratch_->out;
    out.clear();
    tls_->End(&out);
    (void)Send(client_, out, &to_client_);
  }
  if (to_client_.empty()) shutdown(client_, SHUT_WR);
  linger_until_us_ = now_us + kLingerUs;
}

}  // namespace tessera

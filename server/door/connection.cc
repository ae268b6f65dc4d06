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

bool IsTemporary(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

}  // namespace

Connection::Connection(int client, int server, PeerAddress peer, const GuardLimits& limits,
                       int64_t now_us)
    : client_(client), server_(server), peer_(std::move(peer)), guard_(limits, now_us) {}

Connection::~Connection() {
  close(client_);
  if (server_ >= 0) close(server_);
}

Connection::Result Connection::OnClient(uint32_t events, size_t max_bytes, char* scratch,
                                        int64_t now_us) {
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) return Result::kGone;
  if ((events & EPOLLOUT) != 0 && !Flush(client_, &to_client_)) return Result::kGone;
  if ((events & EPOLLIN) == 0) return Result::kOpen;
  const int64_t received = Receive(scratch, max_bytes);
  if (received < 0) return IsTemporary(errno) ? Result::kOpen : Result::kGone;
  if (received == 0) {
    client_ended_ = true;
    if (server_ < 0) return Result::kGone;
    shutdown(server_, SHUT_WR);
    return Result::kOpen;
  }
  const absl::string_view bytes(scratch, static_cast<size_t>(received));
  close_reason_ = guard_.FromClient(bytes, now_us);
  if (close_reason_ != CloseReason::kNone) return Result::kGuarded;
  if (server_ < 0) return Result::kOpen;  // gRPC has closed the connection: the bytes are dropped
  SendToServer(bytes);
  CountUnread(now_us);
  return Result::kOpen;
}

Connection::Result Connection::OnServer(uint32_t events, char* scratch, int64_t now_us) {
  if ((events & EPOLLOUT) != 0 && !Flush(server_, &to_server_)) server_deaf_ = true;
  CountUnread(now_us);
  if (!to_client_.empty()) return Result::kOpen;
  const ssize_t received = recv(server_, scratch, kChunkBytes, MSG_DONTWAIT);
  if (received < 0 && IsTemporary(errno)) return Result::kOpen;
  if (received <= 0) {
    EndOfServer(now_us);
    return client_ended_ ? Result::kGone : Result::kOpen;
  }
  const absl::string_view bytes(scratch, static_cast<size_t>(received));
  guard_.FromServer(bytes);
  return SendToClient(bytes) ? Result::kOpen : Result::kGone;
}

Connection::Result Connection::OnTime(int64_t now_us) {
  if (linger_until_us_ != 0) return now_us > linger_until_us_ ? Result::kGone : Result::kOpen;
  CountUnread(now_us);
  close_reason_ = guard_.CheckTime(now_us);
  return close_reason_ == CloseReason::kNone ? Result::kOpen : Result::kGuarded;
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

int64_t Connection::Receive(char* scratch, size_t max_bytes) {
  return recv(client_, scratch, max_bytes, MSG_DONTWAIT);
}

bool Connection::SendToClient(absl::string_view bytes) { return Send(client_, bytes, &to_client_); }

void Connection::SendToServer(absl::string_view bytes) {
  // After gRPC has stopped reading, what it still has to say is passed on until it ends.
  if (!server_deaf_ && !Send(server_, bytes, &to_server_)) server_deaf_ = true;
}

// Returns false if the other end is closed.
bool Connection::Send(int fd, absl::string_view bytes, Backlog* backlog) {
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
  shutdown(client_, SHUT_WR);
  linger_until_us_ = now_us + kLingerUs;
}

}  // namespace tessera

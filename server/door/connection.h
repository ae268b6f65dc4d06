// One client's connection: the client's socket, the door's end of the pair that leads to gRPC, and
// the guard between them. Bytes are copied in both directions; if one side does not take bytes, at
// most kChunkBytes of them wait here and the other side is not read. The door owns connections and
// uses them on its thread.
//
// TLS fits in at Receive and SendToClient, the only functions that read and write the client's
// socket: the guard sees what they give and take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "server/door/door_stats.h"
#include "server/door/frame_guard.h"
#include "server/door/peer.h"

namespace tessera {

inline constexpr size_t kChunkBytes = 64 << 10;

class Connection final {
 public:
  enum class Result {
    kOpen,
    kGone,     // both sides have ended
    kGuarded,  // the client passed a bound: close_reason()
  };

  // Takes the ownership of both sockets, which do not block.
  Connection(int client, int server, PeerAddress peer, const GuardLimits& limits, int64_t now_us);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Handles the events (EPOLLIN, EPOLLOUT, ...) of one side. `scratch` has kChunkBytes bytes.
  // OnClient reads `max_bytes` bytes at most. REQUIRES: max_bytes <= kChunkBytes.
  Result OnClient(uint32_t events, size_t max_bytes, char* scratch, int64_t now_us);
  Result OnServer(uint32_t events, char* scratch, int64_t now_us);
  // Called about once a second.
  Result OnTime(int64_t now_us);

  // The events that the connection waits for on each side. server_events() 0: the server's socket
  // must not be watched now.
  uint32_t client_events() const;
  uint32_t server_events() const;
  int client_fd() const { return client_; }
  int server_fd() const { return server_; }  // -1: gRPC has closed the connection

  // A paused connection takes nothing from its client.
  void SetPaused(bool paused, int64_t now_us);
  bool paused() const { return paused_; }

  // Tells the client why the connection ends, if a frame can be sent now.
  void SendGoAway(CloseReason reason);

  const PeerAddress& peer() const { return peer_; }
  const FrameGuard& guard() const { return guard_; }
  CloseReason close_reason() const { return close_reason_; }
  bool idle() const { return guard_.open_streams() == 0; }

 private:
  // Bytes that one side has not taken yet.
  struct Backlog {
    std::string bytes;
    size_t begin = 0;
    bool empty() const { return begin == bytes.size(); }
  };

  int64_t Receive(char* scratch, size_t max_bytes);
  bool SendToClient(absl::string_view bytes);
  void SendToServer(absl::string_view bytes);
  static bool Send(int fd, absl::string_view bytes, Backlog* backlog);
  static bool Flush(int fd, Backlog* backlog);
  void EndOfServer(int64_t now_us);
  // Whether the client's bytes are read as soon as they arrive.
  bool reads() const { return !paused_ && to_server_.empty(); }
  // Tells the guard for how long the client was not read. Called after each change of reads().
  void CountUnread(int64_t now_us);

  const int client_;
  int server_;
  const PeerAddress peer_;
  FrameGuard guard_;
  CloseReason close_reason_ = CloseReason::kNone;
  Backlog to_server_;
  Backlog to_client_;
  bool paused_ = false;
  int64_t unread_since_us_ = 0;  // not 0: the client is not read; counted until then
  bool client_ended_ = false;    // the client sends no more
  bool server_deaf_ = false;     // gRPC takes no more bytes
  int64_t linger_until_us_ = 0;  // not 0: gRPC has ended; the client may read until then
};

}  // namespace tessera

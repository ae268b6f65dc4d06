// One client's connection: the client's socket, TLS if the port has it, the door's end of the pair
// that leads to gRPC, and the guard between them. Bytes are copied in both directions; if one side
// does not take bytes, about kChunkBytes of them wait here and the other side is not read. The door
// owns connections and uses them on its thread.
//
// The guard sees what TLS has decrypted and what TLS encrypts next. Nothing reaches gRPC before the
// handshake is over.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/door/door_stats.h"
#include "server/door/frame_guard.h"
#include "server/door/peer.h"
#include "server/door/tls.h"

namespace tessera {

inline constexpr size_t kChunkBytes = 64 << 10;
// The time that a TLS handshake may take, in microseconds.
inline constexpr int64_t kHandshakeTimeUs = 10'000'000;

// The memory for the bytes of one event. The connections of one thread share it.
struct ConnectionScratch {
  std::array<char, kChunkBytes> wire;
  std::array<char, kChunkBytes + TlsStream::kMaxRecordBytes> plain;
  std::string out;
};

class Connection final {
 public:
  enum class Result {
    kOpen,
    kGone,     // both sides have ended
    kGuarded,  // the client passed a bound: close_reason()
  };

  // Takes the ownership of both sockets, which do not block. `scratch` outlives the connection.
  // `tls` null: the connection has no TLS.
  Connection(int client, int server, PeerAddress peer, const GuardLimits& limits,
             ConnectionScratch* scratch, std::unique_ptr<TlsStream> tls, int64_t now_us);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Handles the events (EPOLLIN, EPOLLOUT, ...) of one side. OnClient reads `max_bytes` bytes at
  // most. REQUIRES: max_bytes <= kChunkBytes.
  Result OnClient(uint32_t events, size_t max_bytes, int64_t now_us);
  Result OnServer(uint32_t events, int64_t now_us);
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
  // Whether the TLS handshake is not over: gRPC must not see the connection yet.
  bool in_handshake() const {
    return tls_ != nullptr && tls_->state() == TlsStream::State::kHandshake;
  }
  // See TlsStream. REQUIRES: not in_handshake().
  std::vector<std::string> ClientCertificateNames() const;

  // Tells the client why the connection ends, if a frame can be sent now.
  void SendGoAway(CloseReason reason);

  const PeerAddress& peer() const { return peer_; }
  const FrameGuard& guard() const { return guard_; }
  CloseReason close_reason() const { return close_reason_; }
  // What TLS says about the close reason; empty if it is not TLS that failed.
  const std::string& close_detail() const { return close_detail_; }
  bool idle() const { return guard_.open_streams() == 0; }

 private:
  // Bytes that one side has not taken yet.
  struct Backlog {
    std::string bytes;
    size_t begin = 0;
    bool empty() const { return begin == bytes.size(); }
  };

  // Replaces *bytes, which the client has sent, by what they decrypt to.
  Result Decrypt(absl::string_view* bytes, int64_t now_us);
  Result Guarded(CloseReason reason);
  bool SendToClient(absl::string_view bytes);
  void SendToServer(absl::string_view bytes);
  static bool Send(int fd, absl::string_view bytes, Backlog* backlog);
  static bool Flush(int fd, Backlog* backlog);
  Result EndOfClient();
  void EndOfServer(int64_t now_us);
  // Whether the client's bytes are read as soon as they arrive.
  bool reads() const { return !paused_ && to_server_.empty(); }
  // Tells the guard for how long the client was not read. Called after each change of reads().
  void CountUnread(int64_t now_us);

  const int client_;
  int server_;
  const PeerAddress peer_;
  FrameGuard guard_;
  ConnectionScratch* const scratch_;
  const std::unique_ptr<TlsStream> tls_;  // null: no TLS
  const int64_t begin_us_;
  CloseReason close_reason_ = CloseReason::kNone;
  std::string close_detail_;
  Backlog to_server_;
  Backlog to_client_;
  bool paused_ = false;
  int64_t unread_since_us_ = 0;  // not 0: the client is not read; counted until then
  bool client_ended_ = false;    // the client sends no more
  bool server_deaf_ = false;     // gRPC takes no more bytes
  int64_t linger_until_us_ = 0;  // not 0: gRPC has ended; the client may read until then
};

}  // namespace tessera

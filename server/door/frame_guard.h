// Watches one HTTP/2 connection and says when its client passes a bound. The guard reads the frame
// headers of both directions only: no HPACK, no payload. What the guard lets through is still
// untrusted; the guard bounds what it can cost. Any pieces of the same bytes at the same time give
// the same verdict. The connection owns its guard. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "server/door/door_stats.h"
#include "server/door/frame_reader.h"
#include "server/door/token_bucket.h"

namespace tessera {

struct GuardLimits {
  // Open streams of one connection. The server announces the same number in its SETTINGS.
  int32_t max_streams = 1024;
  // Bytes of the HEADERS and CONTINUATION frames of one header block.
  int64_t max_header_block_bytes = 16 << 10;
  // RST_STREAM frames of one connection per second, on average. A client may reset max_streams
  // streams (or the resets of two seconds, if these are more) at once.
  int32_t max_resets_per_second = 500;
};

// Times after which a client is too slow, in microseconds. The time in which the door does not read
// the client does not count, except for kLongestRequestTimeUs.
inline constexpr int64_t kPrefaceTimeUs = 10'000'000;
inline constexpr int64_t kFirstRequestTimeUs = 300'000'000;
inline constexpr int64_t kHeaderTimeUs = 10'000'000;
inline constexpr int64_t kRequestTimeUs = 60'000'000;
inline constexpr int64_t kLongestRequestTimeUs = 600'000'000;

// A request that has not arrived completely counts this many bytes, and its DATA frames: about what
// gRPC keeps for a stream.
inline constexpr int64_t kStreamBytes = 32 << 10;
// Bounds of the requests of one connection that have arrived in part: of all of them (one largest
// message with the overhead of small frames), and of all but the largest one. With more than 1,024
// streams for a connection, both bounds grow by kStreamBytes for each further stream.
inline constexpr int64_t kMaxIncomingBytes = int64_t{80} << 20;
inline constexpr int64_t kMaxOtherIncomingBytes = int64_t{32} << 20;

class FrameGuard final {
 public:
  FrameGuard(const GuardLimits& limits, int64_t now_us);

  // Reads bytes from the client. If the result is not kNone, these bytes must not be passed on and
  // the connection must be closed. REQUIRES: no earlier result was other than kNone.
  CloseReason FromClient(absl::string_view bytes, int64_t now_us);
  // Reads bytes that the server sends.
  void FromServer(absl::string_view bytes);
  // Tells that the door has not read the client for this time, although the client may have sent.
  void Defer(int64_t us) { unread_us_ += us; }
  // Returns why the client is too slow; kNone if it is not.
  CloseReason CheckTime(int64_t now_us) const;

  size_t open_streams() const { return open_.size(); }
  // Open streams on which the server has sent nothing yet.
  int64_t num_unanswered() const { return num_unanswered_; }
  // Streams that the client has reset before the server sent anything on them.
  int64_t num_abandoned() const { return num_abandoned_; }
  // Whether the client has abandoned such streams faster than one per second lately. Eight at once
  // are permitted. False again eight seconds after the last one at the latest.
  bool abandons_often(int64_t now_us) const { return abandons_.InDebt(now_us); }
  bool has_request() const { return last_stream_ != 0; }
  // Requests that have arrived in part, and the bytes that count for them.
  int64_t num_incoming() const { return static_cast<int64_t>(incoming_.size()); }
  int64_t incoming_bytes() const { return incoming_bytes_; }
  bool has_preface() const { return num_preface_bytes_ == kPrefaceBytes; }

  // A GOAWAY frame with this reason. Returns an empty string if no frame may be sent to the client
  // now, because the client did not send a preface or because a frame is sent in part.
  std::string GoAway(CloseReason reason) const;

 private:
  // A request whose end has not arrived.
  struct Request {
    int64_t bytes = kStreamBytes;
    int64_t opened_us = 0;
    int64_t opened_client_us = 0;
  };
  static constexpr size_t kPrefaceBytes = 24;

  // The time without the time in which the door did not read the client.
  int64_t ClientUs(int64_t now_us) const { return now_us - unread_us_; }
  bool TakePreface(absl::string_view* bytes);
  CloseReason OnHeader(const FrameHeader& frame, int64_t now_us);
  CloseReason OnData(const FrameHeader& frame, int64_t now_us);
  CloseReason OnHeaders(const FrameHeader& frame, int64_t now_us);
  CloseReason GrowBlock(const FrameHeader& frame);
  CloseReason OnReset(const FrameHeader& frame, int64_t now_us);
  CloseReason OnSettings(const FrameHeader& frame, int64_t now_us);
  CloseReason OnPing(const FrameHeader& frame, int64_t now_us);
  CloseReason OnOther(int64_t now_us);
  CloseReason Open(uint32_t stream, int64_t now_us);
  CloseReason AddIncoming(uint32_t stream, int64_t bytes);
  void OnEnd(const FrameHeader& frame);
  void Complete(uint32_t stream);
  void Close(uint32_t stream);
  void Answer(uint32_t stream);

  const GuardLimits limits_;
  const int64_t extra_incoming_bytes_;  // by which the bounds have grown
  const int64_t begin_us_;
  int64_t unread_us_ = 0;
  size_t num_preface_bytes_ = 0;
  bool has_frame_ = false;  // the client's first frame is complete
  FrameReader client_;
  FrameReader server_;

  uint32_t last_stream_ = 0;  // the newest stream of the client
  // Streams that neither side has ended, and whether the server has sent something on them.
  absl::flat_hash_map<uint32_t, bool> open_;
  int64_t num_unanswered_ = 0;
  int64_t num_abandoned_ = 0;
  std::map<uint32_t, Request> incoming_;  // by stream, so the oldest is first
  int64_t incoming_bytes_ = 0;

  // The header block that is arriving; block_stream_ 0: none.
  uint32_t block_stream_ = 0;
  int64_t block_bytes_ = 0;
  int64_t block_begin_client_us_ = 0;
  bool block_ends_stream_ = false;

  TokenBucket streams_;
  TokenBucket resets_;
  TokenBucket pings_;
  TokenBucket settings_;
  TokenBucket others_;
  TokenBucket abandons_;
};

}  // namespace tessera

// Splits a stream of HTTP/2 bytes into frames, without looking into the payloads. One object reads
// one direction of one connection. Any pieces of the same bytes give the same events. One thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace tessera {

enum class FrameType : uint8_t {
  kData = 0,
  kHeaders = 1,
  kPriority = 2,
  kReset = 3,
  kSettings = 4,
  kPushPromise = 5,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
  kContinuation = 9,
};

inline constexpr size_t kFrameHeaderBytes = 9;
inline constexpr uint8_t kFlagEndStream = 0x1;   // of DATA and HEADERS
inline constexpr uint8_t kFlagAck = 0x1;         // of SETTINGS and PING
inline constexpr uint8_t kFlagEndHeaders = 0x4;  // of HEADERS and CONTINUATION

struct FrameHeader {
  uint32_t length = 0;  // bytes of the payload
  FrameType type = FrameType::kData;
  uint8_t flags = 0;
  uint32_t stream = 0;

  bool Has(uint8_t flag) const { return (flags & flag) != 0; }
};

class FrameReader final {
 public:
  enum class Event {
    kNeedBytes,  // all bytes are consumed
    kHeader,     // header() is the header of a new frame
    kEnd,        // the payload of the frame header() is complete
  };

  // Consumes bytes from the front of *bytes, up to the next event.
  Event Next(absl::string_view* bytes);
  const FrameHeader& header() const { return header_; }
  // True between two frames.
  bool at_boundary() const { return !in_payload_ && num_header_bytes_ == 0; }

 private:
  std::array<uint8_t, kFrameHeaderBytes> header_bytes_;
  size_t num_header_bytes_ = 0;
  bool in_payload_ = false;
  size_t payload_left_ = 0;
  FrameHeader header_;
};

}  // namespace tessera

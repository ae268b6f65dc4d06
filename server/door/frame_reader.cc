#include "server/door/frame_reader.h"

#include <algorithm>
#include <cstring>

namespace tessera {
namespace {

FrameHeader Decode(const std::array<uint8_t, kFrameHeaderBytes>& b) {
  FrameHeader header;
  header.length = uint32_t{b[0]} << 16 | uint32_t{b[1]} << 8 | b[2];
  header.type = static_cast<FrameType>(b[3]);
  header.flags = b[4];
  // The highest bit of the stream's number is reserved and ignored.
  header.stream = (uint32_t{b[5]} & 0x7f) << 24 | uint32_t{b[6]} << 16 | uint32_t{b[7]} << 8 | b[8];
  return header;
}

}  // namespace

FrameReader::Event FrameReader::Next(absl::string_view* bytes) {
  if (in_payload_) {
    const size_t taken = std::min(payload_left_, bytes->size());
    bytes->remove_prefix(taken);
    payload_left_ -= taken;
    if (payload_left_ > 0) return Event::kNeedBytes;
    in_payload_ = false;
    num_header_bytes_ = 0;
    return Event::kEnd;
  }
  const size_t taken = std::min(kFrameHeaderBytes - num_header_bytes_, bytes->size());
  if (taken > 0) std::memcpy(header_bytes_.data() + num_header_bytes_, bytes->data(), taken);
  bytes->remove_prefix(taken);
  num_header_bytes_ += taken;
  if (num_header_bytes_ < kFrameHeaderBytes) return Event::kNeedBytes;
  header_ = Decode(header_bytes_);
  in_payload_ = true;
  payload_left_ = header_.length;
  return Event::kHeader;
}

}  // namespace tessera

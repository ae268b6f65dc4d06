// Passes arbitrary bytes of a client and a server through the guard of connections: once in the
// pieces that the input describes, once byte by byte. Both ways must agree, and the bounds hold.
// The input is a list of pieces: a byte with the length (low 7 bits) and the side (high bit: the
// server), and the bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "kernels/base/log.h"
#include "server/door/frame_guard.h"

namespace {

constexpr int64_t kNow = 1'000'000;

tessera::CloseReason FeedByteByByte(absl::string_view bytes, tessera::FrameGuard* guard) {
  for (const char& byte : bytes) {
    const tessera::CloseReason reason = guard->FromClient({&byte, 1}, kNow);
    if (reason != tessera::CloseReason::kNone) return reason;
  }
  return tessera::CloseReason::kNone;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr absl::string_view kPreface("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  tessera::GuardLimits limits;
  limits.max_streams = 8;
  limits.max_header_block_bytes = 256;
  limits.max_resets_per_second = 4;
  tessera::FrameGuard whole(limits, kNow);
  tessera::FrameGuard cut(limits, kNow);
  CHECK(whole.FromClient(kPreface, kNow) == tessera::CloseReason::kNone);
  CHECK(cut.FromClient(kPreface, kNow) == tessera::CloseReason::kNone);
  absl::string_view rest(reinterpret_cast<const char*>(data), size);
  while (!rest.empty()) {
    const auto head = static_cast<uint8_t>(rest[0]);
    const absl::string_view piece = rest.substr(1, head & 0x7f);
    rest.remove_prefix(1 + piece.size());
    if ((head & 0x80) != 0) {
      whole.FromServer(piece);
      for (const char& byte : piece) cut.FromServer({&byte, 1});
    } else {
      const tessera::CloseReason reason = whole.FromClient(piece, kNow);
      CHECK(FeedByteByByte(piece, &cut) == reason);
      if (reason != tessera::CloseReason::kNone) return 0;
    }
    CHECK_EQ(whole.open_streams(), cut.open_streams());
    CHECK_EQ(whole.incoming_bytes(), cut.incoming_bytes());
    CHECK_LE(whole.open_streams(), 8U);
    CHECK(whole.incoming_bytes() >= 0 && whole.incoming_bytes() <= tessera::kMaxIncomingBytes);
    CHECK(whole.CheckTime(kNow) == tessera::CloseReason::kNone);
  }
  return 0;
}

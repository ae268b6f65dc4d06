// The threads that prepare requests in place of the responders' threads. A rendering of a chat
// template may take long, and so may the tokenisation of a long text. A request waits only for
// requests that are prepared about as fast as itself: chats whose rendering is slow are moved to a
// lane of their own, so that they do not delay others. The methods are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"
#include "server/call/preparer.h"

namespace tessera {

class PrepareLanes final {
 public:
  // `max_bytes` bounds the requests of each lane. `clock` outlives the lanes.
  PrepareLanes(int64_t max_bytes, const Clock* clock)
      : chats_(max_bytes, clock, PreparerOptions{.num_threads = 2}),
        large_(max_bytes, clock),
        slow_(kMaxSlow * kSlowBytes, clock, PreparerOptions{.gives_way = true}) {}

  // Returns the lane of a new request; null if the responder's thread prepares the request.
  Preparer* LaneOf(bool may_render, size_t bytes) {
    if (bytes > kLargeBytes) return &large_;
    return may_render ? &chats_ : nullptr;
  }
  // The lane of requests whose rendering took longer than QuickTime.
  Preparer* slow() { return &slow_; }

  // The processor time after which a rendering is stopped and starts again in the slow lane.
  // Renderings of real templates take a small part of this time.
  static absl::Duration QuickTime(size_t bytes) {
    return absl::Milliseconds(10) + static_cast<int64_t>(bytes) * absl::Nanoseconds(100);
  }
  // The size by which a request counts in the slow lane, where time is scarce and not memory.
  static constexpr int64_t kSlowBytes = 1 << 20;

 private:
  static constexpr size_t kLargeBytes = 16 << 10;
  static constexpr int64_t kMaxSlow = 64;

  Preparer chats_;
  Preparer large_;
  Preparer slow_;
};

}  // namespace tessera

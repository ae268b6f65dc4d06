// Bounds the bytes of unary replies that clients have not read. gRPC keeps a reply in memory until
// the client's flow-control window permits it to be sent, and a client may leave the window shut.
// When all unread replies together pass the bound, the clients with the most bytes lose replies
// that have waited for some seconds, the oldest first, until the rest fits. Replies that are being
// read are younger, so a burst of large ones may pass the bound, by at most four times and the
// newest reply. The server's service owns the object. Any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "kernels/base/clock.h"

namespace tessera {

class UnreadReplies final {
 public:
  struct Drop {
    std::string client;
    int64_t bytes = 0;
  };
  struct Limits {
    int64_t max_bytes = int64_t{128} << 20;
    int64_t patience_us = 5'000'000;  // how long a reply may be unread
  };

  // `on_drop` is told of each reply that is dropped; it runs on the thread of Add. `clock` outlives
  // the object.
  UnreadReplies(const Limits& limits, const Clock* clock, std::function<void(const Drop&)> on_drop)
      : limits_(limits), clock_(clock), on_drop_(std::move(on_drop)) {}

  class Reply;
  // Counts a reply that is about to be sent to `client`. `cancel` ends its call and with it the
  // reply; it is called at most once and never after Remove has returned. It may call Remove. The
  // reply that is added is never dropped by its own Add.
  std::shared_ptr<Reply> Add(const std::string& client, int64_t bytes,
                             std::function<void()> cancel);
  // The reply has been read, or its call has ended otherwise.
  void Remove(const std::shared_ptr<Reply>& reply);

  int64_t bytes() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return bytes_;
  }

 private:
  using Replies = std::list<std::shared_ptr<Reply>>;
  struct Client {
    int64_t bytes = 0;
    Replies replies;  // the oldest first
  };

  // Takes a reply out of the account. REQUIRES: the reply is in it, and mutex_ is held.
  void Discount(Reply* reply);
  // Takes the replies that must be dropped out of the account and returns them.
  Replies MakeRoom(const Reply* newest);
  // The oldest reply of the client that has the most bytes among those whose oldest reply was sent
  // at `until_us` at the latest; null: there is none.
  std::shared_ptr<Reply> OldestOfMost(int64_t until_us) const;

  const Limits limits_;
  const Clock* const clock_;
  const std::function<void(const Drop&)> on_drop_;
  mutable std::mutex mutex_;
  absl::flat_hash_map<std::string, Client> clients_;
  int64_t bytes_ = 0;
};

}  // namespace tessera

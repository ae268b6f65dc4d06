// Bounds the bytes of unary replies that clients have not read. gRPC keeps a reply in memory until
// the client's flow-control window permits it to be sent, and a client may leave the window shut.
// When all unread replies together pass the bound, the client with the most bytes loses the reply
// that has waited longest, until they fit again; so a client that reads loses nothing. The server's
// service owns the object. Any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace tessera {

class UnreadReplies final {
 public:
  struct Drop {
    std::string client;
    int64_t bytes = 0;
  };
  // `on_drop` is told of each reply that is dropped; it runs on the thread of Add.
  UnreadReplies(int64_t max_bytes, std::function<void(const Drop&)> on_drop)
      : max_bytes_(max_bytes), on_drop_(std::move(on_drop)) {}

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

  const int64_t max_bytes_;
  const std::function<void(const Drop&)> on_drop_;
  mutable std::mutex mutex_;
  absl::flat_hash_map<std::string, Client> clients_;
  int64_t bytes_ = 0;
};

}  // namespace tessera

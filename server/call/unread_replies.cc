#include "server/call/unread_replies.h"

#include <algorithm>
#include <utility>

namespace tessera {

class UnreadReplies::Reply {
 public:
  Reply(std::string client, int64_t bytes, std::function<void()> cancel)
      : client(std::move(client)), bytes(bytes), cancel_(std::move(cancel)) {}

  void Cancel() {
    std::lock_guard<std::recursive_mutex> lock(mutex_);
    if (cancel_ == nullptr) return;
    const std::function<void()> cancel = std::exchange(cancel_, nullptr);
    cancel();
  }
  // Waits until a Cancel on another thread has returned.
  void Forget() {
    std::lock_guard<std::recursive_mutex> lock(mutex_);
    cancel_ = nullptr;
  }

  const std::string client;
  const int64_t bytes;
  // Under the account's mutex.
  bool is_counted = false;
  Replies::iterator place;  // among the client's replies

 private:
  std::recursive_mutex mutex_;  // Cancel may end the call at once, which removes the reply
  std::function<void()> cancel_;
};

std::shared_ptr<UnreadReplies::Reply> UnreadReplies::Add(const std::string& client, int64_t bytes,
                                                         std::function<void()> cancel) {
  auto reply = std::make_shared<Reply>(client, bytes, std::move(cancel));
  Replies dropped;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Client& account = clients_[client];
    reply->place = account.replies.insert(account.replies.end(), reply);
    reply->is_counted = true;
    account.bytes += bytes;
    bytes_ += bytes;
    dropped = MakeRoom(reply.get());
  }
  for (const std::shared_ptr<Reply>& each : dropped) {
    on_drop_({each->client, each->bytes});
    each->Cancel();
  }
  return reply;
}

void UnreadReplies::Remove(const std::shared_ptr<Reply>& reply) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (reply->is_counted) Discount(reply.get());
  }
  reply->Forget();
}

void UnreadReplies::Discount(Reply* reply) {
  const auto it = clients_.find(reply->client);
  reply->is_counted = false;
  bytes_ -= reply->bytes;
  it->second.bytes -= reply->bytes;
  it->second.replies.erase(reply->place);
  if (it->second.replies.empty()) clients_.erase(it);
}

UnreadReplies::Replies UnreadReplies::MakeRoom(const Reply* newest) {
  Replies dropped;
  while (bytes_ > max_bytes_) {
    const auto most = std::max_element(
        clients_.begin(), clients_.end(),
        [](const auto& a, const auto& b) { return a.second.bytes < b.second.bytes; });
    const std::shared_ptr<Reply> oldest = most->second.replies.front();
    if (oldest.get() == newest) break;
    Discount(oldest.get());
    dropped.push_back(oldest);
  }
  return dropped;
}

}  // namespace tessera

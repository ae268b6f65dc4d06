#include "server/call/unread_replies.h"

#include <utility>

namespace tessera {

class UnreadReplies::Reply {
 public:
  Reply(std::string client, int64_t bytes, int64_t sent_us, std::function<void()> cancel)
      : client(std::move(client)), bytes(bytes), sent_us(sent_us), cancel_(std::move(cancel)) {}

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
  const int64_t sent_us;
  // Under the account's mutex.
  bool is_counted = false;
  Replies::iterator place;  // among the client's replies

 private:
  std::recursive_mutex mutex_;  // Cancel may end the call at once, which removes the reply
  std::function<void()> cancel_;
};

std::shared_ptr<UnreadReplies::Reply> UnreadReplies::Add(const std::string& client, int64_t bytes,
                                                         std::function<void()> cancel) {
  auto reply = std::make_shared<Reply>(client, bytes, clock_->NowUs(), std::move(cancel));
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
  while (bytes_ > limits_.max_bytes) {
    const bool is_far_above = bytes_ > 4 * limits_.max_bytes;
    const std::shared_ptr<Reply> oldest =
        OldestOfMost(is_far_above ? newest->sent_us : newest->sent_us - limits_.patience_us);
    if (oldest == nullptr || oldest.get() == newest) break;
    Discount(oldest.get());
    dropped.push_back(oldest);
  }
  return dropped;
}

std::shared_ptr<UnreadReplies::Reply> UnreadReplies::OldestOfMost(int64_t until_us) const {
  const Client* most = nullptr;
  for (const auto& [name, client] : clients_) {
    if (client.replies.front()->sent_us > until_us) continue;
    if (most == nullptr || client.bytes > most->bytes) most = &client;
  }
  return most == nullptr ? nullptr : most->replies.front();
}

}  // namespace tessera

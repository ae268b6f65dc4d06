// The one way into a thread that owns state: many senders, one receiver, order kept. The receiver
// takes everything at once, so it locks once per wake-up and never while it works.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace tessera {

template <class T>
class Mailbox {
 public:
  // Thread-safe. Returns false (and drops the message) after Close.
  bool Send(T message) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (closed_) return false;
      messages_.push_back(std::move(message));
      if (messages_.size() > 1) return true;  // the receiver was woken for the first one
    }
    not_empty_.notify_one();
    return true;
  }

  // Moves all messages into *out (which is cleared first). Waits up to timeout_us for the first
  // one; 0 polls and a negative value waits until a message or Close. Returns false once closed and
  // empty. One receiver only.
  bool Drain(std::vector<T>* out, int64_t timeout_us) {
    out->clear();
    std::unique_lock<std::mutex> lock(mutex_);
    const auto ready = [this] { return !messages_.empty() || closed_; };
    if (timeout_us < 0) {
      not_empty_.wait(lock, ready);
    } else if (timeout_us > 0) {
      not_empty_.wait_for(lock, std::chrono::microseconds(timeout_us), ready);
    }
    out->swap(messages_);
    return !(out->empty() && closed_);
  }

  // Wakes the receiver; later sends are refused. Messages already sent are still delivered.
  void Close() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    not_empty_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable not_empty_;
  std::vector<T> messages_;
  bool closed_ = false;
};

}  // namespace tessera

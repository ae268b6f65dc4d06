// A Mailbox is the queue through which other threads send messages to the one thread that owns some
// state. Any number of threads send, one thread receives, and the order of messages is kept. The
// receiver takes all messages at once, so it takes the lock once per wake-up and holds no lock
// while it handles messages.
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
  // Thread-safe. After Close, drops the message and returns false.
  bool Send(T message) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (closed_) return false;
      messages_.push_back(std::move(message));
      if (messages_.size() > 1) return true;  // the first message has already woken the receiver
    }
    not_empty_.notify_one();
    return true;
  }

  // Clears *out and moves all messages into *out. If there are no messages, waits up to timeout_us
  // for the first message: 0 does not wait, and a negative value waits without a limit. Close ends
  // the wait. Returns false if the mailbox is closed and has no more messages. Only the one
  // receiver thread may call Drain.
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

  // Wakes the receiver and makes every later Send return false. Messages that were sent before
  // Close are still delivered.
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

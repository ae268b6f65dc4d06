// The one way into a thread that owns state: many senders, one receiver, order kept. The receiver
// takes everything at once, so it locks once per wake-up and never while it works.
#pragma once

#include <algorithm>
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
  // Thread-safe. Returns false (and drops the message) after Close. `urgent`: a receiver that is
  // patient (Drain) is woken all the same.
  bool Send(T message, bool urgent = false) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (closed_) return false;
      messages_.push_back(std::move(message));
      const bool is_first = messages_.size() == 1;
      const bool wakes = (is_first && !patient_) || (urgent && !urgent_);
      urgent_ = urgent_ || urgent;
      if (!wakes) return true;  // the receiver was woken before, or will look by itself
    }
    not_empty_.notify_one();
    return true;
  }

  // Moves all messages into *out (which is cleared first). Waits up to timeout_us for the first
  // one; 0 polls and a negative value waits until a message or Close. For the first patience_us of
  // it only an urgent message or Close ends the wait: what comes fast is taken in one turn. Returns
  // false once closed and empty. One receiver only.
  bool Drain(std::vector<T>* out, int64_t timeout_us, int64_t patience_us = 0) {
    out->clear();
    std::unique_lock<std::mutex> lock(mutex_);
    if (patience_us > 0) {
      patient_ = true;
      not_empty_.wait_for(lock, std::chrono::microseconds(patience_us),
                          [this] { return urgent_ || closed_; });
      patient_ = false;
      if (timeout_us > 0) timeout_us = std::max<int64_t>(0, timeout_us - patience_us);
    }
    const auto ready = [this] { return !messages_.empty() || closed_; };
    if (timeout_us < 0) {
      not_empty_.wait(lock, ready);
    } else if (timeout_us > 0) {
      not_empty_.wait_for(lock, std::chrono::microseconds(timeout_us), ready);
    }
    out->swap(messages_);
    urgent_ = false;
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
  bool patient_ = false;  // the receiver waits for an urgent message
  bool urgent_ = false;   // one is in messages_
};

}  // namespace tessera

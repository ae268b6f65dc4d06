// Time as a dependency: the engine asks a Clock, so that tests drive deadlines, ageing and cost by
// hand.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace tessera {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic microseconds since an arbitrary origin. Thread-safe.
  virtual int64_t NowUs() const = 0;
};

class SteadyClock final : public Clock {
 public:
  int64_t NowUs() const override {
    return std::chrono::duration_cast<std::chrono::microseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

class ManualClock final : public Clock {
 public:
  int64_t NowUs() const override { return now_us_.load(std::memory_order_relaxed); }
  void Advance(int64_t delta_us) { now_us_.fetch_add(delta_us, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> now_us_{0};
};

// Stands still between the rounds of a loop, so that all that a round does happens at one time.
// One thread.
class RoundClock final : public Clock {
 public:
  int64_t NowUs() const override { return now_us_; }
  void Set(int64_t now_us) { now_us_ = now_us; }

 private:
  int64_t now_us_ = 0;
};

}  // namespace tessera

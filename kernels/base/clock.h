// The Clock interface and its three implementations. All engine code reads the time from a Clock,
// so that tests can set the time that deadlines, ageing and step costs depend on. The object
// that creates a clock owns it. Thread-safe except for RoundClock.
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

// The clock of production: std::chrono::steady_clock.
class SteadyClock final : public Clock {
 public:
  int64_t NowUs() const override {
    return std::chrono::duration_cast<std::chrono::microseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

// The clock of tests: time moves only by Advance.
class ManualClock final : public Clock {
 public:
  int64_t NowUs() const override { return now_us_.load(std::memory_order_relaxed); }
  void Advance(int64_t delta_us) { now_us_.fetch_add(delta_us, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> now_us_{0};
};

// A clock that the engine loop sets once at the start of each round, so that all work of a round
// sees the same time. Only the thread of the loop may use this clock.
class RoundClock final : public Clock {
 public:
  int64_t NowUs() const override { return now_us_; }
  void Set(int64_t now_us) { now_us_ = now_us; }

 private:
  int64_t now_us_ = 0;
};

}  // namespace tessera

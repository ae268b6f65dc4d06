// Ends the process when it cannot end by itself: a thread that hangs, in a file system that does
// not answer for example, would otherwise keep it for ever. Main owns the object, which has a
// thread of its own.
#pragma once

#include <atomic>
#include <csignal>
#include <cstdint>
#include <thread>

namespace tessera {

class EndWatch final {
 public:
  // The process ends `limit_us` after one of `signals` has arrived if nobody has taken the signal,
  // and `limit_us` after Arm. REQUIRES: all threads block the signals.
  EndWatch(const sigset_t& signals, int64_t limit_us);
  ~EndWatch();
  EndWatch(const EndWatch&) = delete;
  EndWatch& operator=(const EndWatch&) = delete;

  // Main ends the process from now on.
  void Arm() { armed_.store(true); }
  // How often the watch has looked and has let the process live.
  int64_t num_looks() const { return num_looks_.load(); }

 private:
  void Loop();

  const sigset_t signals_;
  const int64_t limit_us_;
  std::atomic<bool> armed_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> num_looks_{0};
  std::thread thread_;  // the last member, because the thread uses the members above
};

}  // namespace tessera

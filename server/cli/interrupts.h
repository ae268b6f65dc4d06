// Calls a function on Ctrl-C (SIGINT) and SIGTERM. The function runs on a thread of its own, not in
// a signal handler.
#pragma once

#include <functional>
#include <mutex>
#include <thread>

namespace tessera::cli {

inline constexpr int kInterrupted = 130;  // exit status after Ctrl-C

class Interrupts final {
 public:
  // Blocks the signals in this thread and in the threads that this thread starts later. REQUIRES:
  // the program has started no other thread. Each signal calls `on_signal`; if it returns false,
  // the program exits at once with kInterrupted.
  explicit Interrupts(std::function<bool()> on_signal);
  // After the destructor returns, `on_signal` is not called again.
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

 private:
  void Wait();

  const std::function<bool()> on_signal_;
  std::mutex mutex_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace tessera::cli

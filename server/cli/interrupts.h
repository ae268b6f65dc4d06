// Ctrl-C and SIGTERM as calls of a function, on a thread of their own: no signal handler runs.
#pragma once

#include <functional>
#include <mutex>
#include <thread>

namespace tessera::cli {

inline constexpr int kInterrupted = 130;  // exit status after Ctrl-C

class Interrupts final {
 public:
  // Blocks the signals in this thread and in those it starts: construct it before anything else
  // starts threads. `on_signal` is called once a signal, and returns whether the program goes on;
  // where it does not, the program ends at once with kInterrupted.
  explicit Interrupts(std::function<bool()> on_signal);
  // `on_signal` is not called any more when it returns.
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

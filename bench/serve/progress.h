// Prints progress to stderr during a run. The line has its own thread, so that a slow terminal
// delays no send.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "bench/serve/load.h"

namespace tessera::bench {

class ProgressLine final {
 public:
  // On a terminal the line is rewritten twice a second; otherwise a line is printed every ten
  // seconds.
  explicit ProgressLine(std::function<LoadProgress()> progress);
  // Clears the line on a terminal.
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

 private:
  void Run();
  void Print(const LoadProgress& progress) const;

  const std::function<LoadProgress()> progress_;
  const bool terminal_;
  std::mutex mutex_;
  std::condition_variable ended_changed_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace tessera::bench

// The progress line on stderr while a run lasts, from a thread of its own: a terminal that is slow
// holds up no send.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "bench/serve/load.h"

namespace tessera::bench {

class ProgressLine final {
 public:
  // On a terminal it is renewed twice a second; elsewhere a line comes every ten seconds.
  explicit ProgressLine(std::function<LoadProgress()> progress);
  // Leaves the terminal's line empty.
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

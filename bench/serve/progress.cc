#include "bench/serve/progress.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <utility>

namespace tessera::bench {

ProgressLine::ProgressLine(std::function<LoadProgress()> progress)
    : progress_(std::move(progress)),
      terminal_(isatty(STDERR_FILENO) != 0),
      thread_([this] { Run(); }) {}

ProgressLine::~ProgressLine() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
  }
  ended_changed_.notify_all();
  thread_.join();
  if (terminal_) std::fprintf(stderr, "\r\033[K");
}

void ProgressLine::Run() {
  const auto interval = std::chrono::milliseconds(terminal_ ? 500 : 10'000);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!ended_changed_.wait_for(lock, interval, [this] { return ended_; })) Print(progress_());
}

void ProgressLine::Print(const LoadProgress& progress) const {
  const char* const begin = terminal_ ? "\r\033[K" : "";
  const char* const end = terminal_ ? "" : "\n";
  if (progress.warming_up) {
    std::fprintf(stderr, "%swarming up%s", begin, end);
  } else {
    std::fprintf(stderr, "%s%.0f s: %lld answered (%lld errors), %lld in flight, %lld tokens%s",
                 begin, progress.elapsed_s, static_cast<long long>(progress.ended),
                 static_cast<long long>(progress.errors),
                 static_cast<long long>(progress.in_flight),
                 static_cast<long long>(progress.tokens), end);
  }
  std::fflush(stderr);
}

}  // namespace tessera::bench

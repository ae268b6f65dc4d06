#include "server/end_watch.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "kernels/base/clock.h"

namespace tessera {
namespace {

constexpr std::chrono::milliseconds kTick(100);

}  // namespace

EndWatch::EndWatch(const sigset_t& signals, int64_t limit_us)
    : signals_(signals), limit_us_(limit_us), thread_([this] { Loop(); }) {}

EndWatch::~EndWatch() {
  stopping_.store(true);
  thread_.join();
}

void EndWatch::Loop() {
  const SteadyClock clock;
  int64_t asked_us = -1;  // when the process was asked to end; -1: it was not
  while (!stopping_.load()) {
    std::this_thread::sleep_for(kTick);
    sigset_t pending;
    sigemptyset(&pending);
    sigpending(&pending);
    const bool waits =
        (sigismember(&signals_, SIGTERM) == 1 && sigismember(&pending, SIGTERM) == 1) ||
        (sigismember(&signals_, SIGINT) == 1 && sigismember(&pending, SIGINT) == 1);
    if (!waits && !armed_.load()) {
      asked_us = -1;
      num_looks_.fetch_add(1);
      continue;
    }
    if (asked_us < 0) asked_us = clock.NowUs();
    if (clock.NowUs() - asked_us < limit_us_) continue;
    // Not by the log, whose lock the thread that hangs may hold.
    std::fprintf(stderr,
                 "tesserad: ended by force: it was asked to end %lld s ago, and a thread hangs; "
                 "look at the file systems of models and adapters\n",
                 static_cast<long long>(limit_us_ / 1'000'000));
    std::_Exit(1);
  }
}

}  // namespace tessera

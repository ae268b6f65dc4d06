#include "server/cli/interrupts.h"

#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <utility>

namespace tessera::cli {
namespace {

sigset_t InterruptSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

Interrupts::Interrupts(std::function<bool()> on_signal) : on_signal_(std::move(on_signal)) {
  const sigset_t signals = InterruptSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Wait(); });
}

Interrupts::~Interrupts() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
  }
  // The thread receives this signal in sigwait, so the signal terminates nothing.
  // NOLINTNEXTLINE(bugprone-bad-signal-to-kill-thread)
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void Interrupts::Wait() {
  const sigset_t signals = InterruptSignals();
  for (;;) {
    int number = 0;
    if (sigwait(&signals, &number) != 0) return;
    std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return;
    if (!on_signal_()) _exit(kInterrupted);
  }
}

}  // namespace tessera::cli

// tesserad: reads the configuration, starts the node, prints the ready line, and waits for a
// signal. SIGTERM or SIGINT ends the process while models load. Later the first signal drains, and
// a second signal cancels the remaining calls. Exit status: 0 ended by a signal or Control.Drain, 2
// wrong configuration or model, 1 any other failure.

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "server/config/flags.h"
#include "server/end_by_exception.h"
#include "server/end_watch.h"
#include "server/node.h"
#include "tessera/v1/config.pb.h"

namespace tessera {
namespace {

constexpr int kExitConfig = 2;
// The longest time that the process takes to end: to notice a signal while models load, or to stop
// its threads after the drain.
constexpr int64_t kMaxEndUs = 20'000'000;
constexpr long kTickNs = 100'000'000;  // interval between two checks of health or of the drain

// Waits one tick for SIGTERM or SIGINT. Returns true if one arrived. REQUIRES: all threads block
// both signals.
bool WaitForSignal(const sigset_t& signals) {
  const timespec tick{0, kTickNs};
  return sigtimedwait(&signals, nullptr, &tick) > 0;
}

// Exits if a signal arrived while models load. The process exits directly, because the loading
// threads cannot be interrupted; no request was served yet, so nothing is lost.
void EndIfAsked(const sigset_t& signals) {
  const timespec no_wait{0, 0};
  if (sigtimedwait(&signals, nullptr, &no_wait) <= 0) return;
  TLOG_INFO("ended while loading");
  std::_Exit(0);
}

void Drain(Node* node, const sigset_t& signals, int64_t drain_seconds) {
  const SteadyClock clock;
  const int64_t deadline_us = clock.NowUs() + drain_seconds * 1'000'000;
  node->BeginDrain();
  TLOG_INFO("draining: {} calls are open, {} s to finish them", node->num_open_calls(),
            drain_seconds);
  while (node->num_open_calls() > 0 && clock.NowUs() < deadline_us) {
    if (WaitForSignal(signals)) break;
  }
  if (node->num_open_calls() > 0) {
    TLOG_WARN("cancelling {} calls", node->num_open_calls());
    node->CancelAll();
  }
}

int Serve(const v1::Config& config, ConfigSource source, const sigset_t& signals) {
  EndWatch watch(signals, kMaxEndUs);
  auto node = StartNode(
      config, [&signals] { EndIfAsked(signals); }, std::move(source));
  if (!node.ok()) {
    std::fprintf(stderr, "tesserad: %s\n", LogText(node.status().message()).c_str());
    return kExitConfig;
  }
  std::printf("tesserad ready grpc=%s metrics=%s\n", (*node)->grpc_address().c_str(),
              (*node)->metrics_address().c_str());
  std::fflush(stdout);
  while (!WaitForSignal(signals) && !(*node)->exit_requested()) {
    (*node)->UpdateHealth();
    (*node)->UpdateSecurity();
  }
  Drain(node->get(), signals,
        config.server().has_drain_seconds() ? config.server().drain_seconds() : 30);
  watch.Arm();
  (*node)->Shutdown();
  TLOG_INFO("ended");
  return 0;
}

// How the configuration that these arguments give can be read again.
ConfigSource SourceOf(const std::vector<std::string>& arguments) {
  ConfigSource source;
  source.file = ConfigFileOf(arguments);
  source.read = [arguments]() -> absl::StatusOr<v1::Config> {
    v1::Config config;
    RETURN_IF_ERROR(ParseFlags(arguments, &config).status());
    return config;
  };
  return source;
}

int Check(const v1::Config& config) {
  const auto plan = CheckNode(config);
  if (!plan.ok()) {
    std::fprintf(stderr, "tesserad: %s\n", LogText(plan.status().message()).c_str());
    return kExitConfig;
  }
  std::printf("%s\n", plan->c_str());
  return 0;
}

int Main(const std::vector<std::string>& arguments) {
  std::set_terminate(&EndByException);
  // The signals are blocked before any thread starts, so that all threads inherit the mask.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  v1::Config config;
  const auto action = ParseFlags(arguments, &config);
  if (!action.ok()) {
    std::fprintf(stderr, "tesserad: %s\n", LogText(action.status().message()).c_str());
    return kExitConfig;
  }
  const std::string level = config.log().has_level() ? config.log().level() : "info";
  if (!InitLogging(level)) return kExitConfig;
  switch (*action) {
    case Action::kHelp:
      std::fputs(HelpText().c_str(), stdout);
      return 0;
    case Action::kVersion:
      std::printf("tesserad %s\n", kVersion);
      return 0;
    case Action::kCheck:
      sigprocmask(SIG_UNBLOCK, &signals, nullptr);
      return Check(config);
    case Action::kServe:
      return Serve(config, SourceOf(arguments), signals);
  }
  return 1;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  return tessera::Main(std::vector<std::string>(argv + 1, argv + argc));
}

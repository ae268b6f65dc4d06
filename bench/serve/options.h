// The command line of `tessera-bench`, checked as far as that goes without a server.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/serve/client.h"
#include "bench/serve/load.h"
#include "bench/serve/report.h"
#include "bench/serve/workload.h"

namespace tessera::bench {

enum class Action : int { kRun, kHelp, kVersion };

struct BenchOptions {
  std::string server;
  WorkloadOptions workload;  // vocab_size 0: the server knows
  LoadOptions load;
  ClientOptions client;
  Slo slo;
  std::string json_path;  // empty: none
  bool quiet = false;     // no progress
};

// `words` are those after the program's name. With kHelp and kVersion *options is not looked at.
absl::StatusOr<Action> ParseOptions(const std::vector<std::string>& words, BenchOptions* options);

std::string HelpText();

}  // namespace tessera::bench

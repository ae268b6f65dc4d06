// The command line of `tessera-bench`, with the checks that need no server. Pure functions; any
// thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/serve/client.h"
#include "bench/serve/load.h"
#include "bench/serve/report.h"
#include "bench/serve/workload.h"
#include "server/cli/connection.h"

namespace tessera::bench {

enum class Action : int { kRun, kHelp, kVersion };

struct BenchOptions {
  cli::ConnectionOptions connection;
  WorkloadOptions workload;  // vocab_size 0: ask the server
  LoadOptions load;
  ClientOptions client;
  Slo slo;
  std::string tenant;     // a label of the report; empty: none
  std::string json_path;  // empty: no JSON file
  bool quiet = false;     // print no progress
};

// Parses the words after the program's name. With kHelp and kVersion *options has no meaning.
absl::StatusOr<Action> ParseOptions(const std::vector<std::string>& words, BenchOptions* options);

std::string HelpText();

}  // namespace tessera::bench

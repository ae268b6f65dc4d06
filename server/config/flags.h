// The command line of tesserad. It selects an action and, together with the file that --config
// names, gives the configuration. A flag overrides --set, and --set overrides the file. main calls
// these functions before any thread starts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

namespace v1 {
class Config;
}

enum class Action : int { kServe, kCheck, kHelp, kVersion };

// Parses the arguments that follow the program's name. For kServe and kCheck, FinishConfig has run
// on *config.
absl::StatusOr<Action> ParseFlags(const std::vector<std::string>& arguments, v1::Config* config);

// The value of --config in these arguments; "" without it.
std::string ConfigFileOf(const std::vector<std::string>& arguments);

std::string HelpText();

}  // namespace tessera

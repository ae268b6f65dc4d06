// The command line of tesserad: what to do, and the configuration it gives together with the file
// that --config names. Flags win over --set, --set over the file.
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

// `arguments` are those after the program's name. With kServe and kCheck *config is finished
// (FinishConfig).
absl::StatusOr<Action> ParseFlags(const std::vector<std::string>& arguments, v1::Config* config);

std::string HelpText();

}  // namespace tessera

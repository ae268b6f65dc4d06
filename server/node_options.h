// From the configuration, whose values were checked one by one, to the options that the rooms below
// take, in their units. Pure; any thread.
#pragma once

#include "absl/status/status.h"
#include "scheduler/device/assemble.h"

namespace tessera {

namespace v1 {
class Config;
}

AssembleOptions OptionsOf(const v1::Config& config);

// What is wrong with options that do not go together.
absl::Status CheckOptions(const AssembleOptions& options);

}  // namespace tessera

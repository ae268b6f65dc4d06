// Converts the configuration to the options of the scheduler and the device, in their units. Pure
// functions; any thread.
#pragma once

#include "absl/status/status.h"
#include "scheduler/device/assemble.h"

namespace tessera {

namespace v1 {
class Config;
}

// REQUIRES: each value of `config` is valid by itself (see config_rules.h).
AssembleOptions OptionsOf(const v1::Config& config);

// Returns an error if options contradict each other.
absl::Status CheckOptions(const AssembleOptions& options);

}  // namespace tessera

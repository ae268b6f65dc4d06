// Converts the configuration to the options of the scheduler, the device and the gRPC port, in
// their units. Pure functions; any thread.
#pragma once

#include "absl/status/status.h"
#include "scheduler/device/assemble.h"
#include "server/door/door.h"

namespace tessera {

namespace v1 {
class Config;
class LimitsConfig;
}  // namespace v1

// REQUIRES: each value of `config` is valid by itself (see config_rules.h).
AssembleOptions OptionsOf(const v1::Config& config);

// The limits of connections, without the address.
DoorOptions DoorOptionsOf(const v1::LimitsConfig& limits);

// Returns an error if options contradict each other.
absl::Status CheckOptions(const AssembleOptions& options);

}  // namespace tessera

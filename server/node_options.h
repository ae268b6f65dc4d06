// Converts the configuration to the options of the scheduler, the device and the server, in their
// units and with their defaults. Pure functions; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/device/assemble.h"
#include "server/door/door.h"
#include "server/door/identities.h"

namespace tessera {

namespace v1 {
class Config;
class AdaptersConfig;
class ServerConfig;
class LimitsConfig;
class SecurityConfig;
}  // namespace v1

// REQUIRES: each value of `config` is valid by itself (see config_rules.h).
AssembleOptions OptionsOf(const v1::Config& config);

// The limits of connections, without the address.
DoorOptions DoorOptionsOf(const v1::LimitsConfig& limits);

// The callers of `security.identities`. Errors name the identity.
absl::StatusOr<Identities> IdentitiesOf(const v1::SecurityConfig& security);
// The files of TLS; none: no TLS.
TlsFiles TlsFilesOf(const v1::SecurityConfig& security);

// Returns an error if values contradict each other, or if one is given that has no effect because
// of another.
absl::Status CheckOptions(const v1::Config& config);

// The addresses of the gRPC server and of metrics and probes, as HOST:PORT.
std::string ListenAddressOf(const v1::ServerConfig& server);
std::string MetricsAddressOf(const v1::ServerConfig& server);
int ResponderThreadsOf(const v1::ServerConfig& server);

// One entry of `adapters.paths`, [MODEL=]DIR. A '=' after the first '/' belongs to DIR.
struct AdapterPath {
  std::string model;  // empty: the default model
  std::string dir;
};
AdapterPath ReadAdapterPath(const std::string& text);
// The folders below which clients may register adapters: `adapters.roots`, or else the folders of
// `adapters.paths`.
std::vector<std::string> AdapterRootsOf(const v1::AdaptersConfig& config);

}  // namespace tessera

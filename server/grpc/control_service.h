// The Control service for operators: capabilities, models, load, adapters, cancel, drain. Its
// methods do not block, so they run on gRPC's threads; only the registration of adapters reads the
// disk, on a thread of its own. The service accepts calls from loopback peers only.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace grpc {
class Service;
}

namespace tessera {

class Authenticator;
class ResponderPool;
struct ServingContext;

// `context`, `pool` and `authenticator` outlive the service. `begin_drain` calls
// Server::BeginDrain.
std::unique_ptr<grpc::Service> NewControlService(ServingContext* context, ResponderPool* pool,
                                                 std::function<void()> begin_drain,
                                                 const Authenticator* authenticator);

}  // namespace tessera

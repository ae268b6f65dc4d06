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

class ResponderPool;
struct ServingContext;

// `context` and `pool` outlive the service. `begin_drain` calls Server::BeginDrain.
std::unique_ptr<grpc::Service> NewControlService(ServingContext* context, ResponderPool* pool,
                                                 std::function<void()> begin_drain);

// Returns true if a client's address, as ClientOf returns it, is a loopback address of this
// machine: "ipv4:127.0.0.1:9" or "ipv6:[::1]:9". A proxy on this machine connects from such an
// address too, whoever its clients are.
bool IsLoopbackPeer(absl::string_view peer);

}  // namespace tessera

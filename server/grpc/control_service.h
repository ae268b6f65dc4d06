// The Control service, for operators: capabilities, models, load, cancel, drain. Everything it
// answers is at hand, so it runs on gRPC's threads. Without configured identities it answers on
// loopback only.
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

// Both outlive the service. `begin_drain` is Server::BeginDrain.
std::unique_ptr<grpc::Service> NewControlService(ServingContext* context, ResponderPool* pool,
                                                 std::function<void()> begin_drain);

// True for gRPC's names of peers on this machine: "ipv4:127.0.0.1:9", "ipv6:%5B::1%5D:9", "unix:".
bool IsLoopbackPeer(absl::string_view peer);

}  // namespace tessera

// The Inference service: gRPC callback reactors that pass bytes between gRPC's threads and the
// responders. Methods receive the raw bytes of a request, so that call/wire_check.h can report a
// parse error in detail.
#pragma once

#include <memory>

#include "server/call/unread_replies.h"

namespace grpc {
class Service;
}

namespace tessera {

class Authenticator;
class ResponderPool;
struct ServingContext;

// `context`, `pool` and `authenticator` outlive the service. `unread` bounds the unary replies that
// clients have not read.
std::unique_ptr<grpc::Service> NewInferenceService(ServingContext* context, ResponderPool* pool,
                                                   const UnreadReplies::Limits& unread,
                                                   const Authenticator* authenticator);

}  // namespace tessera

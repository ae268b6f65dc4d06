// The Inference service: gRPC callback reactors that carry bytes between gRPC and the responders.
// Requests come raw, so that what protobuf's parser would only call "failed" is answered with
// words.
#pragma once

#include <memory>

namespace grpc {
class Service;
}

namespace tessera {

class ResponderPool;
struct ServingContext;

// Both outlive the service.
std::unique_ptr<grpc::Service> NewInferenceService(ServingContext* context, ResponderPool* pool);

}  // namespace tessera

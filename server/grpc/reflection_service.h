// The services grpc.reflection.v1.ServerReflection and grpc.reflection.v1alpha.ServerReflection, by
// which tools such as grpcurl read the API from the server. gRPC 1.51 has only v1alpha, and answers
// everybody; these answer the callers that the authenticator knows.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace grpc {
class Service;
}

namespace tessera {

class Authenticator;

// `services` are the full names of the services that the server lists. The program must link their
// descriptors. `authenticator` outlives the services.
std::vector<std::unique_ptr<grpc::Service>> NewReflectionServices(
    const std::vector<std::string>& services, const Authenticator* authenticator);

}  // namespace tessera

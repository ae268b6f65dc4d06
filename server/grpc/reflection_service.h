// The service grpc.reflection.v1.ServerReflection, by which tools such as grpcurl read the API from
// the server. gRPC 1.51 itself has only the version v1alpha, which tools will drop.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace grpc {
class Service;
}

namespace tessera {

// `services` are the full names of the services that the server lists. The program must link their
// descriptors.
std::unique_ptr<grpc::Service> NewReflectionService(std::vector<std::string> services);

}  // namespace tessera

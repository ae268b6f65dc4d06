// Converts an absl::Status to the status that gRPC sends. Any thread.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace tessera {

// Converts the code, the message, and the payloads (server/call/errors.h) as google.rpc details.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace tessera

// absl::Status as gRPC sends it. Any thread.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace tessera {

// Code and message, and the payloads (server/call/errors.h) as google.rpc details.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace tessera

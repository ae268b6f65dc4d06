// Between protobuf messages and gRPC's byte buffers. Only for the .cc files that speak gRPC.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <string>

#include "absl/status/status.h"

namespace tessera {

// RESOURCE_EXHAUSTED for a message that the transport does not carry (kMaxMessageBytes). `buffer`
// is written only on success.
absl::Status Serialize(const google::protobuf::Message& message, grpc::ByteBuffer* buffer);

// Moves the bytes out of a request: gRPC keeps it until the call ends, and a thousand streams would
// hold a thousand prompts.
std::string TakeBytes(const grpc::ByteBuffer* request);

}  // namespace tessera

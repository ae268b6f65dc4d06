// Converts between protobuf messages and gRPC's byte buffers. Only .cc files that use gRPC include
// this header. Any thread.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <string>

#include "absl/status/status.h"

namespace tessera {

// Encodes `message` into *buffer. Returns RESOURCE_EXHAUSTED for a message of more than
// kMaxMessageBytes; *buffer is written only on success.
absl::Status Serialize(const google::protobuf::Message& message, grpc::ByteBuffer* buffer);

// Moves the bytes out of the request buffer and empties it. gRPC keeps the buffer until the call
// ends; otherwise every open stream would hold its whole prompt in memory.
std::string TakeBytes(const grpc::ByteBuffer* request);

}  // namespace tessera

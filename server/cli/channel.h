// The connection of the client programs to the server: its address, its gRPC channel, and the text
// of a failed call. Any thread.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>

#include "server/cli/arguments.h"

namespace tessera::cli {

// The flag --server, which all client programs have.
FlagSpec ServerFlag();
// The value of --server, else $TESSERA_SERVER, else 127.0.0.1:50051.
std::string ServerAddress(const Arguments& arguments);

// Creates a channel and waits up to 500 ms for its connection. If the server cannot be reached, the
// first call on the channel fails.
std::shared_ptr<grpc::Channel> NewChannel(const std::string& server);

// Formats "UNAVAILABLE: message" and the useful details of the status, one detail per line.
std::string FailureText(const grpc::Status& status, const std::string& server);

}  // namespace tessera::cli

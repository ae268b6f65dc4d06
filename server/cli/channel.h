// The connection that programs on the client's side share: where the server is, how it is reached,
// and what a failed call says.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>

#include "server/cli/arguments.h"

namespace tessera::cli {

// The flag --server, which all of them have.
FlagSpec ServerFlag();
// Its value, else $TESSERA_SERVER, else 127.0.0.1:50051.
std::string ServerAddress(const Arguments& arguments);

// Waits a moment for the connection. Whether it worked is said by the first call.
std::shared_ptr<grpc::Channel> NewChannel(const std::string& server);

// "UNAVAILABLE: message", then the details that help, each on a line of its own.
std::string FailureText(const grpc::Status& status, const std::string& server);

}  // namespace tessera::cli

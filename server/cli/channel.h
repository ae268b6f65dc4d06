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

// The environment variable whose HTTP proxy the connection to `server` goes through; "" if it goes
// through none. gRPC reads the variables grpc_proxy, https_proxy and http_proxy, in this order, and
// excludes the hosts that no_grpc_proxy, else no_proxy, lists. Loopback never uses a proxy.
std::string ProxyVariable(const std::string& server);

// Creates a channel and waits up to 500 ms for its connection. If the server cannot be reached, the
// first call on the channel fails.
std::shared_ptr<grpc::Channel> NewChannel(const std::string& server);

// Formats "UNAVAILABLE: message" and the useful details of the status, one detail per line. If the
// server cannot be reached, the text says what to check.
std::string FailureText(const grpc::Status& status, const std::string& server);

}  // namespace tessera::cli

// The gRPC channel of the client programs to the server, and the text of a failed call. Any thread.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>

#include "server/cli/connection.h"

namespace tessera::cli {

// The environment variable whose HTTP proxy the connection to `server` goes through; "" if it goes
// through none. gRPC reads the variables grpc_proxy, https_proxy and http_proxy, in this order, and
// excludes the hosts that no_grpc_proxy, else no_proxy, lists. Loopback never uses a proxy.
std::string ProxyVariable(const std::string& server);

// Creates a channel and waits up to 500 ms for its connection. If the server cannot be reached, the
// first call on the channel fails. If there is a token, each call on the channel sends it.
std::shared_ptr<grpc::Channel> NewChannel(const ConnectionOptions& connection);

// Formats "UNAVAILABLE: message" and the useful details of the status, one detail per line. If the
// server cannot be reached or does not know the caller, the text says what to check.
std::string FailureText(const grpc::Status& status, const ConnectionOptions& connection);

// Ends gRPC's own log on stderr, because FailureText tells a failure once and completely. The
// environment variable GRPC_VERBOSITY keeps the log. Call it once, from main, before the first
// channel.
void MuteTransportLog();

}  // namespace tessera::cli

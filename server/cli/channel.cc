#include "server/cli/channel.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tessera::cli {
namespace {

// How long NewChannel waits for the connection. It bridges the restart of a server.
constexpr std::chrono::milliseconds kConnectPatience(500);

void AppendDetails(const std::string& bytes, std::string* text) {
  google::rpc::Status details;
  if (bytes.empty() || !details.ParseFromString(bytes)) return;
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&info)) {
      absl::StrAppend(text, "\n  reason: ", info.reason());
    } else if (any.UnpackTo(&retry)) {
      const double seconds = static_cast<double>(retry.retry_delay().seconds()) +
                             static_cast<double>(retry.retry_delay().nanos()) / 1e9;
      absl::StrAppendFormat(text, "\n  try again in %.1f s", seconds);
    }
  }
}

}  // namespace

FlagSpec ServerFlag() {
  return {"--server", "HOST:PORT", "address of tesserad (127.0.0.1:50051, or $TESSERA_SERVER)"};
}

std::string ServerAddress(const Arguments& arguments) {
  if (const auto server = arguments.Text("--server")) return *server;
  const char* from_environment = std::getenv("TESSERA_SERVER");
  return from_environment != nullptr ? from_environment : "127.0.0.1:50051";
}

std::shared_ptr<grpc::Channel> NewChannel(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
  channel->WaitForConnected(std::chrono::system_clock::now() + kConnectPatience);
  return channel;
}

std::string FailureText(const grpc::Status& status, const std::string& server) {
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  std::string text = absl::StrCat(absl::StatusCodeToString(code), ": ", status.error_message());
  AppendDetails(status.error_details(), &text);
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && status.error_details().empty()) {
    absl::StrAppend(&text, "\n  is tesserad running at ", server, "? (--server HOST:PORT)");
  }
  return text;
}

}  // namespace tessera::cli

#include "server/cli/channel.h"

#include <arpa/inet.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdlib>
#include <initializer_list>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

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

// The host of "HOST:PORT", "[HOST]:PORT" or "SCHEME:///HOST:PORT" without brackets.
std::string HostOf(absl::string_view server) {
  const size_t slash = server.rfind('/');
  if (slash != absl::string_view::npos) server.remove_prefix(slash + 1);
  for (const absl::string_view scheme : {"dns:", "ipv4:", "ipv6:"}) {
    absl::ConsumePrefix(&server, scheme);
  }
  if (absl::ConsumePrefix(&server, "[")) return std::string(server.substr(0, server.find(']')));
  return std::string(server.substr(0, server.rfind(':')));
}

bool IsLoopback(const std::string& host) {
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return absl::EqualsIgnoreCase(host, "localhost");
}

// The first of these environment variables that is not empty; null if there is none.
const char* FirstSet(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* const value = std::getenv(name);
    if (value != nullptr && *value != 0) return name;
  }
  return nullptr;
}

// What to check if the server does not answer.
std::string Advice(const grpc::Status& status, const std::string& server) {
  if (const std::string variable = ProxyVariable(server); !variable.empty()) {
    absl::string_view proxy = std::getenv(variable.c_str());
    // The part before the last '@' is a name and a password.
    if (const size_t at = proxy.rfind('@'); at != absl::string_view::npos) {
      proxy.remove_prefix(at + 1);
    }
    return absl::StrCat("\n  the connection goes through the proxy ", proxy, " of $", variable,
                        "; no_proxy=", HostOf(server), " in the environment connects without it");
  }
  if (absl::StrContains(status.error_message(), "DNS resolution failed")) {
    return absl::StrCat("\n  check the host name in --server ", server);
  }
  return absl::StrCat("\n  is tesserad running at ", server, "? (--server HOST:PORT)");
}

// gRPC's message without the texts of its name resolver and its list of addresses.
std::string MessageOf(const grpc::Status& status, const std::string& server) {
  std::string message = status.error_message();
  if (absl::StrContains(message, "DNS resolution failed")) {
    return absl::StrCat("the host name '", HostOf(server), "' is not known");
  }
  const std::string refused = "Failed to connect to remote host: ";
  if (const size_t at = message.rfind(refused); at != std::string::npos) {
    return absl::StrCat("cannot connect to ", server, ": ", message.substr(at + refused.size()));
  }
  return message;
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

std::string ProxyVariable(const std::string& server) {
  const std::string host = HostOf(server);
  if (IsLoopback(host) || absl::StartsWith(server, "unix")) return "";
  const char* const proxy = FirstSet({"grpc_proxy", "https_proxy", "http_proxy"});
  if (proxy == nullptr) return "";
  const char* const excluded = FirstSet({"no_grpc_proxy", "no_proxy"});
  if (excluded == nullptr) return proxy;
  for (absl::string_view suffix : absl::StrSplit(std::getenv(excluded), ',', absl::SkipEmpty())) {
    if (absl::EndsWithIgnoreCase(host, absl::StripAsciiWhitespace(suffix))) return "";
  }
  return proxy;
}

std::shared_ptr<grpc::Channel> NewChannel(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, ProxyVariable(server).empty() ? 0 : 1);
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
  channel->WaitForConnected(std::chrono::system_clock::now() + kConnectPatience);
  return channel;
}

std::string FailureText(const grpc::Status& status, const std::string& server) {
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  const bool is_answer =
      status.error_code() != grpc::StatusCode::UNAVAILABLE || !status.error_details().empty();
  std::string text = absl::StrCat(absl::StatusCodeToString(code), ": ",
                                  is_answer ? status.error_message() : MessageOf(status, server));
  AppendDetails(status.error_details(), &text);
  if (!is_answer) absl::StrAppend(&text, Advice(status, server));
  return text;
}

}  // namespace tessera::cli

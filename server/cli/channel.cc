#include "server/cli/channel.h"

#include <arpa/inet.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpc/support/log.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_interceptor.h>

#include <chrono>
#include <cstdlib>
#include <initializer_list>
#include <utility>
#include <vector>

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

// gRPC's text of a call that found no connection; the reason follows it.
constexpr absl::string_view kNoConnection = "failed to connect to all addresses";
// gRPC's texts of a TLS handshake that failed, and OpenSSL's reason after its last "::".
constexpr absl::string_view kHandshakeFailed = "Ssl handshake failed: ";
constexpr absl::string_view kOpenSslReason = "SSL routines::";
constexpr absl::string_view kWrongName = "is not in peer certificate";
constexpr absl::string_view kRefused = "Failed to connect to remote host: ";

bool IsHandshakeFailure(absl::string_view message) {
  return absl::StrContains(message, kHandshakeFailed) || absl::StrContains(message, kWrongName) ||
         absl::StrContains(message, "SSL_ERROR_SSL") ||
         absl::StrContains(message, "certificate verify failed");
}

// What to check if the server does not answer.
std::string Advice(absl::string_view message, const ConnectionOptions& connection) {
  const std::string& server = connection.server;
  if (const std::string variable = ProxyVariable(server); !variable.empty()) {
    absl::string_view proxy = std::getenv(variable.c_str());
    // The part before the last '@' is a name and a password.
    if (const size_t at = proxy.rfind('@'); at != absl::string_view::npos) {
      proxy.remove_prefix(at + 1);
    }
    return absl::StrCat("\n  the connection goes through the proxy ", proxy, " of $", variable,
                        "; no_proxy=", HostOf(server), " in the environment connects without it");
  }
  if (absl::StrContains(message, "DNS resolution failed")) {
    return absl::StrCat("\n  check the host name in --server ", server);
  }
  if (IsHandshakeFailure(message)) {
    return absl::StrCat("\n  does tesserad at ", server, " use TLS, has a CA of ",
                        connection.ca.empty() ? "this system (--tls)" : "--tls-ca",
                        " signed its certificate, and does the certificate name ", HostOf(server),
                        "?");
  }
  std::string text = absl::StrCat("\n  is tesserad running at ", server, "? (--server HOST:PORT)");
  if (absl::StrContains(message, kNoConnection) && !absl::StrContains(message, kRefused)) {
    absl::StrAppend(&text, connection.tls
                               ? "\n  if it asks for a client's certificate, give --tls-cert FILE "
                                 "and --tls-key FILE that it accepts"
                               : "\n  if it uses TLS, give --tls-ca FILE");
  }
  return text;
}

// What to check if the server does not know the caller.
const char* IdentityAdvice(const ConnectionOptions& connection) {
  if (!connection.token.empty()) {
    return "\n  the server does not accept the token of --token-file; `tessera token hash` prints "
           "the hash that its security.identities must have";
  }
  if (!connection.certificate.empty()) {
    return "\n  the server does not know the names in --tls-cert; give --token-file FILE or "
           "another certificate";
  }
  return "\n  give --token-file FILE, or --tls-cert FILE and --tls-key FILE";
}

// gRPC's message without the texts of its name resolver and its list of addresses.
std::string MessageOf(absl::string_view message, const std::string& server) {
  if (absl::StrContains(message, "DNS resolution failed")) {
    return absl::StrCat("the host name '", HostOf(server), "' is not known");
  }
  if (const size_t at = message.rfind(kRefused); at != absl::string_view::npos) {
    return absl::StrCat("cannot connect to ", server, ": ", message.substr(at + kRefused.size()));
  }
  if (IsHandshakeFailure(message)) {
    absl::string_view reason = message;
    for (const absl::string_view start : {kHandshakeFailed, kOpenSslReason}) {
      const size_t at = reason.rfind(start);
      if (at != absl::string_view::npos) reason.remove_prefix(at + start.size());
    }
    if (absl::StrContains(message, kWrongName)) reason = "its certificate has other names";
    return absl::StrCat("no TLS connection to ", server, ": ", reason);
  }
  return std::string(message);
}

// Adds the token to the metadata of each call when the call is created. gRPC's own call credentials
// would refuse to send it without TLS. The factory makes no interceptor: one would cost a round
// through the completion queue for each message.
class TokenSender final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit TokenSender(absl::string_view token) : value_(absl::StrCat("Bearer ", token)) {}

  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* info) override {
    info->client_context()->AddMetadata("authorization", value_);
    return nullptr;
  }

 private:
  const std::string value_;
};

std::shared_ptr<grpc::ChannelCredentials> Credentials(const ConnectionOptions& connection) {
  if (!connection.tls) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({.pem_root_certs = connection.ca,
                               .pem_private_key = connection.key,
                               .pem_cert_chain = connection.certificate});
}

}  // namespace

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

std::shared_ptr<grpc::Channel> NewChannel(const ConnectionOptions& connection) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, ProxyVariable(connection.server).empty() ? 0 : 1);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> senders;
  if (!connection.token.empty()) {
    senders.push_back(std::make_unique<TokenSender>(connection.token));
  }
  std::shared_ptr<grpc::Channel> channel = grpc::experimental::CreateCustomChannelWithInterceptors(
      connection.server, Credentials(connection), arguments, std::move(senders));
  channel->WaitForConnected(std::chrono::system_clock::now() + kConnectPatience);
  return channel;
}

std::string FailureText(const grpc::Status& status, const ConnectionOptions& connection) {
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  const std::string message = status.error_message();
  const bool is_answer =
      status.error_code() != grpc::StatusCode::UNAVAILABLE || !status.error_details().empty();
  std::string text = absl::StrCat(absl::StatusCodeToString(code), ": ",
                                  is_answer ? message : MessageOf(message, connection.server));
  AppendDetails(status.error_details(), &text);
  if (!is_answer) absl::StrAppend(&text, Advice(message, connection));
  if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED) {
    absl::StrAppend(&text, IdentityAdvice(connection));
  }
  return text;
}

void MuteTransportLog() {
  if (FirstSet({"GRPC_VERBOSITY"}) == nullptr) gpr_set_log_function([](gpr_log_func_args*) {});
}

}  // namespace tessera::cli

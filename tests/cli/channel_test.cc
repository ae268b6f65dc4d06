// Tests of the client programs' channel against a small gRPC server over real sockets: the token
// arrives with every kind of call, with and without TLS, and the text of a failure says what to
// check.
#include "server/cli/channel.h"

#include <gmock/gmock.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tessera/v1/inference.grpc.pb.h"
#include "tests/lib/certificates.h"

namespace tessera::cli {
namespace {

using tessera::testing::CertifiedKey;
using tessera::testing::TestAuthority;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Records the values of the metadata `authorization` of all calls. gRPC's threads call it.
class Recorder final : public v1::Inference::Service {
 public:
  grpc::Status Tokenize(grpc::ServerContext* context, const v1::TokenizeRequest*,
                        v1::TokenizeResponse*) override {
    Record(*context);
    return grpc::Status::OK;
  }
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest*,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    Record(*context);
    for (int i = 0; i < 3; ++i) writer->Write({});
    return grpc::Status::OK;
  }

  std::vector<std::string> Take() {
    std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(seen_, {});
  }

 private:
  void Record(const grpc::ServerContext& context) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto [begin, end] = context.client_metadata().equal_range("authorization");
    for (auto it = begin; it != end; ++it) {
      seen_.emplace_back(it->second.data(), it->second.size());
    }
  }

  std::mutex mutex_;
  std::vector<std::string> seen_;
};

class ChannelTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { MuteTransportLog(); }

  // Starts the server on a free port and returns its address.
  std::string Start(const std::shared_ptr<grpc::ServerCredentials>& credentials) {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", credentials, &port);
    builder.RegisterService(&recorder_);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
    return absl::StrCat("127.0.0.1:", port);
  }
  std::string StartPlain() { return Start(grpc::InsecureServerCredentials()); }
  std::string StartTls(const std::string& names = "IP:127.0.0.1", bool asks_for_client = false) {
    const CertifiedKey own = authority_.Sign(names);
    grpc::SslServerCredentialsOptions options(
        asks_for_client ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                        : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
    options.pem_root_certs = authority_.pem();
    options.pem_key_cert_pairs.push_back({own.key, own.certificate});
    return Start(grpc::SslServerCredentials(options));
  }

  static grpc::Status Tokenize(const ConnectionOptions& connection) {
    const auto stub = v1::Inference::NewStub(NewChannel(connection));
    grpc::ClientContext context;
    v1::TokenizeResponse response;
    return stub->Tokenize(&context, {}, &response);
  }

  // The text of the failure of a call with this connection.
  static std::string Failure(const ConnectionOptions& connection) {
    const grpc::Status status = Tokenize(connection);
    EXPECT_FALSE(status.ok());
    return FailureText(status, connection);
  }

  void ExpectTokenInEachKindOfCall(const ConnectionOptions& connection) {
    const std::string sent = absl::StrCat("Bearer ", connection.token);
    const auto stub = v1::Inference::NewStub(NewChannel(connection));
    for (int i = 0; i < 2; ++i) {
      grpc::ClientContext context;
      v1::TokenizeResponse response;
      const grpc::Status status = stub->Tokenize(&context, {}, &response);
      ASSERT_TRUE(status.ok()) << status.error_message();
      EXPECT_THAT(recorder_.Take(), ElementsAre(sent));
    }
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, {});
    v1::GenerateResponse message;
    int num_messages = 0;
    while (reader->Read(&message)) ++num_messages;
    ASSERT_TRUE(reader->Finish().ok());
    EXPECT_EQ(num_messages, 3);
    EXPECT_THAT(recorder_.Take(), ElementsAre(sent));
    ReadAsynchronously(stub.get());
    EXPECT_THAT(recorder_.Take(), ElementsAre(sent));
  }

  // Reads a stream by the completion queue, as tessera-bench does.
  static void ReadAsynchronously(v1::Inference::Stub* stub) {
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    const auto reader = stub->PrepareAsyncGenerate(&context, {}, &queue);
    const auto wait = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      EXPECT_TRUE(queue.Next(&tag, &ok));
      return ok;
    };
    reader->StartCall(nullptr);
    EXPECT_TRUE(wait());
    v1::GenerateResponse message;
    int num_messages = 0;
    for (reader->Read(&message, nullptr); wait(); reader->Read(&message, nullptr)) ++num_messages;
    EXPECT_EQ(num_messages, 3);
    grpc::Status status;
    reader->Finish(&status, nullptr);
    EXPECT_TRUE(wait());
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  const TestAuthority authority_{"authority"};
  Recorder recorder_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(ChannelTest, TheTokenGoesWithEachKindOfCallWithoutTls) {
  ExpectTokenInEachKindOfCall({.server = StartPlain(), .token = "tsr_abc"});
}

TEST_F(ChannelTest, TheTokenGoesWithEachKindOfCallOverTls) {
  ExpectTokenInEachKindOfCall(
      {.server = StartTls(), .token = "tsr_abc", .tls = true, .ca = authority_.pem()});
}

TEST_F(ChannelTest, WithoutATokenNoneIsSent) {
  EXPECT_TRUE(Tokenize({.server = StartPlain()}).ok());
  EXPECT_THAT(recorder_.Take(), IsEmpty());
}

TEST_F(ChannelTest, AServerThatAsksForACertificateGetsOne) {
  ConnectionOptions connection = {
      .server = StartTls("IP:127.0.0.1", true), .tls = true, .ca = authority_.pem()};
  EXPECT_THAT(Failure(connection), HasSubstr("if it asks for a client's certificate, give "
                                             "--tls-cert FILE and --tls-key FILE"));
  const CertifiedKey client = authority_.Sign("DNS:client");
  connection.certificate = client.certificate;
  connection.key = client.key;
  const grpc::Status status = Tokenize(connection);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(ChannelTest, AFailedHandshakeSaysWhatToCheck) {
  const std::string other = TestAuthority("other").pem();
  const std::string server = StartTls();
  EXPECT_THAT(Failure({.server = server, .tls = true, .ca = other}),
              AllOf(HasSubstr("no TLS connection to " + server + ": certificate verify failed\n"),
                    HasSubstr("has a CA of --tls-ca signed its certificate")));
}

TEST_F(ChannelTest, ACertificateOfAnotherServerSaysSo) {
  const std::string server = StartTls("DNS:elsewhere.example");
  EXPECT_THAT(Failure({.server = server, .tls = true, .ca = authority_.pem()}),
              AllOf(HasSubstr("its certificate has other names"),
                    HasSubstr("does the certificate name 127.0.0.1?")));
}

TEST_F(ChannelTest, TlsToAServerWithoutTlsSaysSo) {
  const std::string server = StartPlain();
  EXPECT_THAT(Failure({.server = server, .tls = true, .ca = authority_.pem()}),
              AllOf(HasSubstr("no TLS connection to " + server),
                    HasSubstr("does tesserad at " + server + " use TLS")));
}

TEST_F(ChannelTest, NoTlsToAServerWithTlsSaysSo) {
  EXPECT_THAT(Failure({.server = StartTls()}), HasSubstr("if it uses TLS, give --tls-ca FILE"));
}

TEST(FailureTextTest, AnAbsentServerNeedsNoAdviceAboutTls) {
  const grpc::Status refused(
      grpc::StatusCode::UNAVAILABLE,
      "failed to connect to all addresses; last error: UNKNOWN: "
      "ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused");
  EXPECT_EQ(FailureText(refused, {.server = "127.0.0.1:1"}),
            "UNAVAILABLE: cannot connect to 127.0.0.1:1: Connection refused\n"
            "  is tesserad running at 127.0.0.1:1? (--server HOST:PORT)");
  // The connection of this call worked before it broke.
  const grpc::Status broken(grpc::StatusCode::UNAVAILABLE, "Socket closed");
  EXPECT_THAT(FailureText(broken, {.server = "127.0.0.1:1"}), Not(HasSubstr("TLS")));
}

TEST(FailureTextTest, TheTextsOfTlsAreRecognised) {
  for (const char* message :
       {"Ssl handshake failed: SSL_ERROR_SSL: error:0A00010B:SSL routines::wrong version number",
        "SSL_ERROR_SSL", "certificate verify failed",
        "Peer name 127.0.0.1 is not in peer certificate"}) {
    const grpc::Status status(grpc::StatusCode::UNAVAILABLE, message);
    EXPECT_THAT(FailureText(status, {.server = "127.0.0.1:1", .tls = true}),
                HasSubstr("does tesserad at 127.0.0.1:1 use TLS, has a CA of this system (--tls) "))
        << message;
  }
}

TEST(FailureTextTest, ACallerThatIsNotKnownLearnsWhatToGive) {
  google::rpc::ErrorInfo info;
  info.set_reason("UNAUTHENTICATED");
  google::rpc::Status details;
  details.add_details()->PackFrom(info);
  const grpc::Status status(grpc::StatusCode::UNAUTHENTICATED, "who?", details.SerializeAsString());
  EXPECT_EQ(FailureText(status, {.server = "a:1"}),
            "UNAUTHENTICATED: who?\n  reason: UNAUTHENTICATED\n"
            "  give --token-file FILE, or --tls-cert FILE and --tls-key FILE");
  EXPECT_THAT(FailureText(status, {.server = "a:1", .token = "tsr_password"}),
              AllOf(HasSubstr("does not accept the token of --token-file; `tessera token hash`"),
                    Not(HasSubstr("password"))));
  EXPECT_THAT(FailureText(status, {.server = "a:1", .tls = true, .certificate = "PEM"}),
              HasSubstr("does not know the names in --tls-cert"));
}

}  // namespace
}  // namespace tessera::cli

// Tests of identities over real sockets: who may call what, what a tenant sees of another, and what
// changes while the server runs. Certificates and tokens are made by the test.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "kernels/base/sha256.h"
#include "server/door/identities.h"
#include "server/door/tls.h"
#include "tests/lib/certificates.h"
#include "tests/lib/log_capture.h"
#include "tests/server/server_fixture.h"

namespace tessera::testing {
namespace {

using Context = std::unique_ptr<grpc::ClientContext>;

std::string HashOf(const std::string& token) {
  Sha256 hash;
  hash.Add(token.data(), token.size());
  const Sha256Digest digest = hash.Finish();
  return absl::BytesToHexString(std::string(digest.begin(), digest.end()));
}

std::shared_ptr<const Identities> Known(const std::vector<IdentityRule>& rules) {
  auto made = Identities::Make(rules);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? std::make_shared<const Identities>(*std::move(made)) : nullptr;
}

constexpr char kRedToken[] = "tsr_red_0123456789abcdef";
constexpr char kBlueToken[] = "tsr_blue_0123456789abcdef";
constexpr char kAdminToken[] = "tsr_admin_0123456789abcdef";

const std::vector<IdentityRule>& Rules() {
  static const auto* const rules = new std::vector<IdentityRule>{
      {"red", false, HashOf(kRedToken), ""},
      {"blue", false, HashOf(kBlueToken), ""},
      {"ops", true, HashOf(kAdminToken), ""},
      {"mesh", false, "", "URI:spiffe://cluster/mesh"},
  };
  return *rules;
}

class SecurityTest : public ServerTest {
 protected:
  void SetUp() override { StartWith(Rules()); }

  void StartWith(const std::vector<IdentityRule>& rules, bool held = false) {
    FakeGeneratorOptions fake;
    fake.held = held;
    ServerOptions options;
    options.identities = Known(rules);
    Start(fake, options);
  }

  // A context with this value of `authorization`; empty: without.
  Context With(const std::string& authorization) const {
    Context context = NewContext();
    if (!authorization.empty()) context->AddMetadata("authorization", authorization);
    return context;
  }
  static std::string Bearer(const std::string& token) { return absl::StrCat("Bearer ", token); }

  grpc::Status Tokenize(Context context) {
    v1::TokenizeRequest request;
    request.set_text("hello");
    v1::TokenizeResponse response;
    return stub_->Tokenize(context.get(), request, &response);
  }
  grpc::Status GenerateAs(const std::string& token, const v1::GenerateRequest& request) {
    const Context context = With(Bearer(token));
    auto reader = stub_->Generate(context.get(), request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) continue;
    return reader->Finish();
  }
};

TEST_F(SecurityTest, ACallNeedsAKnownToken) {
  EXPECT_TRUE(Tokenize(With(Bearer(kRedToken))).ok());
  EXPECT_TRUE(Tokenize(With(absl::StrCat("bearer ", kBlueToken))).ok());
  const std::pair<std::string, std::string> refused[] = {
      {"", "NO_IDENTITY"},
      {Bearer("wrong"), "UNKNOWN_TOKEN"},
      {Bearer(""), "UNKNOWN_TOKEN"},
      {Bearer(absl::StrCat(" ", kRedToken)), "UNKNOWN_TOKEN"},
      {Bearer(HashOf(kRedToken)), "UNKNOWN_TOKEN"},
      {kRedToken, "NO_BEARER_TOKEN"},
      {absl::StrCat("Basic ", kRedToken), "NO_BEARER_TOKEN"},
  };
  for (const auto& [authorization, reason] : refused) {
    const grpc::Status status = Tokenize(With(authorization));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << authorization;
    EXPECT_EQ(FactsOf(status).reason, reason) << authorization;
    EXPECT_EQ(status.error_message().find(kRedToken), std::string::npos) << status.error_message();
  }
  Context twice = With(Bearer(kRedToken));
  twice->AddMetadata("authorization", Bearer(kBlueToken));
  EXPECT_EQ(FactsOf(Tokenize(std::move(twice))).reason, "SEVERAL_TOKENS");
}

TEST_F(SecurityTest, EveryMethodOfInferenceNeedsAnIdentity) {
  EXPECT_EQ(Generate(TextRequest("hello")).status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Chat({}).status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  v1::EmbedResponse embedded;
  EXPECT_EQ(stub_->Embed(NewContext().get(), {}, &embedded).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  v1::DetokenizeResponse text;
  EXPECT_EQ(stub_->Detokenize(NewContext().get(), {}, &text).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(generator_->num_submitted(), 0);
}

TEST_F(SecurityTest, TheTenantComesFromTheTokenAlone) {
  v1::GenerateRequest request = TextRequest("hello");
  EXPECT_TRUE(GenerateAs(kRedToken, request).ok());
  EXPECT_EQ(generator_->last().tenant, "red");
  EXPECT_TRUE(GenerateAs(kBlueToken, request).ok());
  EXPECT_EQ(generator_->last().tenant, "blue");
  const Context context = With(Bearer(kRedToken));
  context->AddMetadata("tenant", "blue");
  context->AddMetadata("x-tenant", "blue");
  context->AddMetadata("x-client-id", "blue");
  ReadAll(stub_->Generate(context.get(), request));
  EXPECT_EQ(generator_->last().tenant, "red");
}

TEST_F(SecurityTest, ATokenInAUrlOrAMessageIsNotTaken) {
  v1::GenerateRequest request = TextRequest("hello");
  request.set_request_id(absl::StrCat("authorization=Bearer ", kRedToken));
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(SecurityTest, TenantsMayHaveTheSameRequestId) {
  StartWith(Rules(), /*held=*/true);
  v1::GenerateRequest request = TextRequest("hello");
  request.set_request_id("mine");
  std::vector<std::future<grpc::Status>> calls;
  for (const char* token : {kRedToken, kBlueToken}) {
    calls.push_back(
        std::async(std::launch::async, [&, token] { return GenerateAs(token, request); }));
  }
  WaitFor("both to be accepted", [&] { return generator_->num_submitted() == 2; });
  const grpc::Status again = GenerateAs(kRedToken, request);
  EXPECT_EQ(FactsOf(again).reason, "REQUEST_ID_IN_USE");
  // An admin cancels the calls of all tenants with this id.
  v1::CancelRequest cancel;
  cancel.set_request_id("mine");
  v1::CancelResponse cancelled;
  EXPECT_TRUE(control_->Cancel(With(Bearer(kAdminToken)).get(), cancel, &cancelled).ok());
  EXPECT_TRUE(cancelled.found());
  for (auto& call : calls) EXPECT_TRUE(call.get().ok());
  EXPECT_TRUE(control_->Cancel(With(Bearer(kAdminToken)).get(), cancel, &cancelled).ok());
  EXPECT_FALSE(cancelled.found());
  generator_->Release();
}

TEST_F(SecurityTest, ControlNeedsAnAdmin) {
  v1::GetLoadResponse load;
  EXPECT_TRUE(control_->GetLoad(With(Bearer(kAdminToken)).get(), {}, &load).ok());
  EXPECT_TRUE(Tokenize(With(Bearer(kAdminToken))).ok());
  const grpc::Status tenant = control_->GetLoad(With(Bearer(kRedToken)).get(), {}, &load);
  EXPECT_EQ(tenant.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(FactsOf(tenant).reason, "NOT_ADMIN");
  const grpc::Status nobody = control_->GetLoad(NewContext().get(), {}, &load);
  EXPECT_EQ(nobody.error_code(), grpc::StatusCode::UNAUTHENTICATED) << "loopback is no identity";
  v1::DrainResponse drained;
  EXPECT_EQ(control_->Drain(With(Bearer(kRedToken)).get(), {}, &drained).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  const Context context = With(Bearer(kRedToken));
  const auto watch = control_->WatchLoad(context.get(), {});
  EXPECT_FALSE(watch->Read(&load));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(Tokenize(With(Bearer(kRedToken))).ok()) << "the server does not drain";
}

// The services that reflection lists, in one version of the protocol.
template <class Reflection, class Request, class Response>
grpc::Status ListServices(const std::shared_ptr<grpc::Channel>& channel, Context context,
                          int* num_services) {
  const auto stub = Reflection::NewStub(channel);
  const auto stream = stub->ServerReflectionInfo(context.get());
  Request request;
  request.set_list_services("");
  Response response;
  if (stream->Write(request) && stream->Read(&response)) {
    *num_services = response.list_services_response().service_size();
  }
  stream->WritesDone();
  return stream->Finish();
}

TEST_F(SecurityTest, ReflectionNeedsAnIdentityAndHealthNone) {
  namespace now = grpc::reflection::v1;
  namespace old = grpc::reflection::v1alpha;
  constexpr auto kNow = &ListServices<now::ServerReflection, now::ServerReflectionRequest,
                                      now::ServerReflectionResponse>;
  constexpr auto kOld = &ListServices<old::ServerReflection, old::ServerReflectionRequest,
                                      old::ServerReflectionResponse>;
  for (const auto list : {kNow, kOld}) {
    int num_services = 0;
    EXPECT_TRUE(list(NewChannel(), With(Bearer(kRedToken)), &num_services).ok());
    EXPECT_EQ(num_services, 5);
    num_services = 0;
    EXPECT_EQ(list(NewChannel(), NewContext(), &num_services).error_code(),
              grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(num_services, 0);
  }
  grpc::health::v1::HealthCheckResponse health;
  EXPECT_TRUE(
      grpc::health::v1::Health::NewStub(NewChannel())->Check(NewContext().get(), {}, &health).ok());
}

TEST_F(SecurityTest, NewIdentitiesCountForNewCalls) {
  StartWith(Rules(), /*held=*/true);
  auto open =
      std::async(std::launch::async, [&] { return GenerateAs(kRedToken, TextRequest("hello")); });
  WaitFor("the call to be accepted", [&] { return generator_->num_submitted() == 1; });
  server_->SetIdentities(Known({{"blue", false, HashOf(kBlueToken), ""}}));
  EXPECT_EQ(FactsOf(Tokenize(With(Bearer(kRedToken)))).reason, "UNKNOWN_TOKEN");
  EXPECT_TRUE(Tokenize(With(Bearer(kBlueToken))).ok());
  generator_->Release();
  EXPECT_TRUE(open.get().ok()) << "an open call lives on";
  server_->SetIdentities(std::make_shared<const Identities>());
  EXPECT_TRUE(Tokenize(NewContext()).ok());
}

TEST_F(SecurityTest, WithoutIdentitiesATokenMeansNothing) {
  StartWith({});
  EXPECT_TRUE(Tokenize(NewContext()).ok());
  EXPECT_TRUE(Tokenize(With(Bearer("anything"))).ok());
  EXPECT_TRUE(GenerateAs("anything", TextRequest("hello")).ok());
  EXPECT_EQ(generator_->last().tenant, "");
  v1::GetLoadResponse load;
  EXPECT_TRUE(control_->GetLoad(NewContext().get(), {}, &load).ok());
}

TEST_F(SecurityTest, LogsNameTenantsAndClientsAndNoTokens) {
  TearDown();
  LogCapture log;
  SetUp();
  v1::GenerateRequest request = TextRequest("hello");
  const Context context = With(Bearer(kRedToken));
  context->AddMetadata("x-client-id", "batch \"7\"");
  ReadAll(stub_->Generate(context.get(), request));
  EXPECT_FALSE(Tokenize(With(Bearer("tsr_a_wrong_token"))).ok());
  EXPECT_FALSE(Tokenize(With("tsr_no_bearer")).ok());
  v1::UnloadAdapterRequest unload;
  unload.set_name("nobody");
  v1::UnloadAdapterResponse unloaded;
  EXPECT_FALSE(control_->UnloadAdapter(With(Bearer(kAdminToken)).get(), unload, &unloaded).ok());
  EXPECT_FALSE(control_->UnloadAdapter(With(Bearer("tsr_x")).get(), unload, &unloaded).ok());
  TearDown();
  const std::string text = log.text();
  EXPECT_NE(text.find("tenant=\"red\" client=\"batch \\\"7\\\"\""), std::string::npos) << text;
  EXPECT_NE(text.find("tenant=\"ops\""), std::string::npos) << text;
  EXPECT_NE(text.find("reason=UNKNOWN_TOKEN"), std::string::npos) << text;
  EXPECT_EQ(text.find("tsr_"), std::string::npos) << text;
  EXPECT_EQ(text.find(HashOf(kRedToken)), std::string::npos) << text;
}

// The same over TLS, where callers may have certificates.
class TlsServerTest : public SecurityTest {
 protected:
  void SetUp() override {
    const std::string folder = ::testing::TempDir() + absl::StrCat("/security_", getpid());
    mkdir(folder.c_str(), 0700);
    files_.certificate = folder + "/server.pem";
    files_.key = folder + "/server.key";
    files_.client_ca = folder + "/clients.pem";
    files_.certificate_is_optional = true;
    WriteServer(authority_.Sign(kServerNames));
    std::ofstream(files_.client_ca) << authority_.pem();
    ServerOptions options;
    options.identities = Known(Rules());
    options.door.tls = Load();
    Start({}, options);
  }

  static constexpr char kServerNames[] = "DNS:localhost,IP:127.0.0.1";

  void WriteServer(const CertifiedKey& server) const {
    std::ofstream(files_.certificate) << server.certificate;
    std::ofstream(files_.key) << server.key;
    chmod(files_.key.c_str(), 0600);
  }
  std::shared_ptr<const TlsContext> Load() const {
    auto loaded = TlsContext::Load(files_);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.ok() ? *loaded : nullptr;
  }
  // Connects with this certificate; empty: without one.
  void Connect(const CertifiedKey& own, const std::string& roots) {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = roots;
    ssl.pem_cert_chain = own.certificate;
    ssl.pem_private_key = own.key;
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::Inference::NewStub(
        grpc::CreateCustomChannel(server_->address(), grpc::SslCredentials(ssl), arguments));
  }
  void Connect(const CertifiedKey& own) { Connect(own, authority_.pem()); }

  const TestAuthority authority_{"clients and servers"};
  TlsFiles files_;
};

TEST_F(TlsServerTest, TokensWorkWithoutACertificate) {
  Connect({});
  EXPECT_TRUE(Tokenize(With(Bearer(kRedToken))).ok());
  EXPECT_EQ(FactsOf(Tokenize(NewContext())).reason, "NO_IDENTITY");
}

TEST_F(TlsServerTest, ACertificateNamesItsCaller) {
  Connect(authority_.Sign("DNS:pod-7,URI:spiffe://cluster/mesh"));
  const StreamResult result = Generate(TextRequest("hello"));
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(generator_->last().tenant, "mesh");
  // A token counts before the certificate, also a wrong one.
  EXPECT_TRUE(GenerateAs(kRedToken, TextRequest("hello")).ok());
  EXPECT_EQ(generator_->last().tenant, "red");
  EXPECT_EQ(FactsOf(Tokenize(With(Bearer("wrong")))).reason, "UNKNOWN_TOKEN");
}

TEST_F(TlsServerTest, ACertificateWithUnknownNamesIsNoIdentity) {
  for (const char* names : {"DNS:other", "DNS:spiffe.cluster.mesh", "URI:spiffe://cluster/mesh2",
                            "DNS:URI:spiffe://cluster/mesh"}) {
    Connect(authority_.Sign(names));
    EXPECT_EQ(FactsOf(Tokenize(NewContext())).reason, "UNKNOWN_CERTIFICATE") << names;
  }
}

TEST_F(TlsServerTest, ACertificateOfAnotherAuthorityDoesNotConnect) {
  const TestAuthority other("clients and servers");
  Connect(other.Sign("URI:spiffe://cluster/mesh"));
  EXPECT_EQ(Tokenize(NewContext()).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Tokenize(With(Bearer(kRedToken))).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsServerTest, AClientSeesTheServersCertificate) {
  const TestAuthority other("another");
  Connect({}, other.pem());
  EXPECT_EQ(Tokenize(With(Bearer(kRedToken))).error_code(), grpc::StatusCode::UNAVAILABLE);
  stub_ = v1::Inference::NewStub(NewChannel());  // without TLS
  EXPECT_EQ(Tokenize(With(Bearer(kRedToken))).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsServerTest, RotatedCertificatesServeNewConnectionsAndOpenStreamsLiveOn) {
  generator_->Hold();
  Connect({});
  auto open = std::async(std::launch::async, [&, stub = std::move(stub_)] {
    const Context context = With(Bearer(kRedToken));
    return ReadAll(stub->Generate(context.get(), TextRequest("hello")));
  });
  WaitFor("the stream to be accepted", [&] { return generator_->num_submitted() == 1; });
  const TestAuthority next("the next authority");
  WriteServer(next.Sign(kServerNames));
  server_->SetTls(Load());
  Connect({});
  EXPECT_EQ(Tokenize(With(Bearer(kRedToken))).error_code(), grpc::StatusCode::UNAVAILABLE)
      << "the new certificate has another authority";
  Connect({}, next.pem());
  EXPECT_TRUE(Tokenize(With(Bearer(kRedToken))).ok());
  generator_->Release();
  EXPECT_TRUE(open.get().status.ok());
}

}  // namespace
}  // namespace tessera::testing

// Tests of what a running server takes from its security files when they change. The test tells the
// time and writes the files.
#include "server/security_watch.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tessera/v1/config.pb.h"
#include "tests/lib/tls_client.h"

namespace tessera::testing {
namespace {

class SecurityWatchTest : public ::testing::Test {
 protected:
  SecurityWatchTest() : files_(folder_.Write(authority_.Sign("DNS:localhost"), authority_.pem())) {
    v1::TlsConfig& tls = *config_.mutable_security()->mutable_tls();
    tls.set_certificate(files_.certificate);
    tls.set_key(files_.key);
    tls.set_client_ca(files_.client_ca);
    SetTokens({"a"});
    file_ = folder_.Secret("config", "0");
    watch_ = std::make_unique<SecurityWatch>(
        config_, ConfigSource{file_, [this]() -> absl::StatusOr<v1::Config> { return config_; }});
  }

  void SetTokens(const std::vector<std::string>& tenants) {
    config_.mutable_security()->clear_identities();
    for (const std::string& tenant : tenants) {
      v1::IdentityConfig& identity = *config_.mutable_security()->add_identities();
      identity.set_tenant(tenant);
      identity.set_token_sha256(std::string(63, '0') + tenant[0]);
    }
  }
  // What the watch takes after the files have changed: at the second look at equal files.
  SecurityWatch::Changes Change() {
    folder_.Secret("config", std::string(static_cast<size_t>(++num_changes_) + 1, 'x'));
    SecurityWatch::Changes changes = Look();
    EXPECT_TRUE(changes.tls == nullptr && changes.identities == nullptr) << "it may be half done";
    return Look();
  }
  SecurityWatch::Changes Look() {
    now_us_ += SecurityWatch::kIntervalUs;
    return watch_->Look(now_us_);
  }

  const TestAuthority authority_{"authority"};
  TlsFolder folder_;
  const TlsFiles files_;
  v1::Config config_;
  std::string file_;
  std::unique_ptr<SecurityWatch> watch_;
  int num_changes_ = 0;
  int64_t now_us_ = 0;
};

TEST_F(SecurityWatchTest, NothingIsReadWhileTheFilesStayTheSame) {
  SetTokens({"b"});
  for (int i = 0; i < 3; ++i) {
    const SecurityWatch::Changes changes = Look();
    EXPECT_TRUE(changes.tls == nullptr && changes.identities == nullptr);
  }
  EXPECT_NE(Change().identities, nullptr);
}

TEST_F(SecurityWatchTest, ChangedFilesAreReadOnce) {
  SetTokens({"b", "c"});
  const SecurityWatch::Changes changes = Change();
  ASSERT_NE(changes.identities, nullptr);
  EXPECT_TRUE(changes.identities->has_tokens());
  EXPECT_NE(changes.tls, nullptr);
  EXPECT_EQ(Look().identities, nullptr);
}

TEST_F(SecurityWatchTest, ATokenIsRevokedAlsoWhileTheCertificateIsDamaged) {
  folder_.Secret("server.pem", "damaged");
  SetTokens({"b"});
  const SecurityWatch::Changes changes = Change();
  EXPECT_NE(changes.identities, nullptr);
  EXPECT_EQ(changes.tls, nullptr);
}

TEST_F(SecurityWatchTest, NoChangeOpensTheServer) {
  const v1::Config before = config_;
  config_.mutable_security()->clear_identities();
  EXPECT_EQ(Change().identities, nullptr);
  config_ = before;
  config_.mutable_security()->mutable_tls()->clear_client_ca();
  SecurityWatch::Changes changes = Change();
  EXPECT_TRUE(changes.tls == nullptr && changes.identities == nullptr);
  config_ = before;
  config_.mutable_security()->clear_tls();
  changes = Change();
  EXPECT_TRUE(changes.tls == nullptr && changes.identities == nullptr);
  config_ = before;
  SetTokens({"b"});
  changes = Change();
  EXPECT_TRUE(changes.tls != nullptr && changes.identities != nullptr);
}

TEST_F(SecurityWatchTest, WhatIsRefusedAtAStartChangesNothing) {
  config_.mutable_security()->add_identities()->set_tenant("nobody");
  const SecurityWatch::Changes changes = Change();
  EXPECT_TRUE(changes.tls == nullptr && changes.identities == nullptr);
}

}  // namespace
}  // namespace tessera::testing

// Tests of the flags of a connection, of the variables that stand in for them, and of the files
// that they name.
#include "server/cli/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "tests/lib/certificates.h"
#include "tests/lib/file_zoo.h"

namespace tessera::cli {
namespace {

using tessera::testing::CertifiedKey;
using tessera::testing::FileZoo;
using tessera::testing::TestAuthority;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kVariables[] = {"TESSERA_SERVER", "TESSERA_TOKEN_FILE", "TESSERA_TLS_CA"};

class ConnectionTest : public ::testing::Test {
 protected:
  ConnectionTest() { UnsetVariables(); }
  ~ConnectionTest() override { UnsetVariables(); }

  static void UnsetVariables() {
    for (const char* name : kVariables) unsetenv(name);
  }

  std::string Secret(const std::string& name, const std::string& content) {
    std::string path = zoo_.File(name, content);
    EXPECT_EQ(chmod(path.c_str(), 0600), 0);
    return path;
  }

  static absl::StatusOr<ConnectionOptions> Read(const std::vector<std::string>& words) {
    const auto arguments = Arguments::Parse(words, ConnectionFlags());
    EXPECT_TRUE(arguments.ok()) << arguments.status();
    return ReadConnection(*arguments);
  }
  static std::string ErrorOf(const std::vector<std::string>& words) {
    const auto options = Read(words);
    EXPECT_FALSE(options.ok());
    return std::string(options.status().message());
  }

  FileZoo zoo_;
  const TestAuthority authority_{"authority"};
  const std::string ca_ = zoo_.File("ca.pem", authority_.pem());
  const std::string token_ = Secret("token", "tsr_password\n");
  const CertifiedKey client_ = authority_.Sign("DNS:client");
  const std::string certificate_ = zoo_.File("client.pem", client_.certificate);
  const std::string key_ = Secret("client.key", client_.key);
};

TEST_F(ConnectionTest, WithoutFlagsTheServerIsLocalAndTheClientHasNoName) {
  const auto options = Read({});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->server, "127.0.0.1:50051");
  EXPECT_EQ(options->token, "");
  EXPECT_FALSE(options->tls);
}

TEST_F(ConnectionTest, ReadsTheFilesOfTheFlags) {
  const auto options = Read({"--server", "a:1", "--token-file", token_, "--tls-ca", ca_,
                             "--tls-cert", certificate_, "--tls-key", key_});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->server, "a:1");
  EXPECT_EQ(options->token, "tsr_password");
  EXPECT_TRUE(options->tls);
  EXPECT_EQ(options->ca, authority_.pem());
  EXPECT_EQ(options->certificate, client_.certificate);
  EXPECT_EQ(options->key, client_.key);
}

TEST_F(ConnectionTest, TlsAloneTrustsTheAuthoritiesOfTheSystem) {
  const auto options = Read({"--tls", "--tls-cert", certificate_, "--tls-key", key_});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_TRUE(options->tls);
  EXPECT_EQ(options->ca, "");
  EXPECT_EQ(options->key, client_.key);
}

TEST_F(ConnectionTest, VariablesStandInForAbsentFlags) {
  setenv("TESSERA_SERVER", "b:2", 1);
  setenv("TESSERA_TOKEN_FILE", token_.c_str(), 1);
  setenv("TESSERA_TLS_CA", ca_.c_str(), 1);
  const auto options = Read({"--tls-cert", certificate_, "--tls-key", key_});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->server, "b:2");
  EXPECT_EQ(options->token, "tsr_password");
  EXPECT_EQ(options->ca, authority_.pem());
  const std::string other = Secret("other", "tsr_other");
  const auto flags = Read({"--server", "a:1", "--token-file", other, "--tls"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ(flags->server, "a:1");
  EXPECT_EQ(flags->token, "tsr_other");
  EXPECT_TRUE(flags->tls);
  EXPECT_EQ(flags->ca, "");
}

TEST_F(ConnectionTest, AnEmptyVariableIsAbsent) {
  for (const char* name : kVariables) setenv(name, "", 1);
  const auto options = Read({});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->server, "127.0.0.1:50051");
  EXPECT_FALSE(options->tls);
}

TEST_F(ConnectionTest, FlagsThatNeedOthersSaySo) {
  EXPECT_THAT(ErrorOf({"--tls", "--tls-ca", ca_}), HasSubstr("give one of the two"));
  EXPECT_THAT(ErrorOf({"--tls-ca", ca_, "--tls-cert", certificate_}),
              HasSubstr("--tls-cert needs its private key: --tls-key FILE"));
  EXPECT_THAT(ErrorOf({"--tls-ca", ca_, "--tls-key", key_}),
              HasSubstr("--tls-key needs its certificate: --tls-cert FILE"));
  EXPECT_THAT(ErrorOf({"--tls-cert", certificate_, "--tls-key", key_}),
              AllOf(HasSubstr("--tls-cert needs TLS: give --tls-ca FILE"), HasSubstr("--tls")));
}

TEST_F(ConnectionTest, ErrorsNameTheFlagOrTheVariableAndTheFile) {
  EXPECT_THAT(ErrorOf({"--token-file", "/no/token"}),
              HasSubstr("--token-file: /no/token: No such"));
  EXPECT_THAT(ErrorOf({"--tls-ca", "/no/ca"}), HasSubstr("--tls-ca: /no/ca: No such"));
  EXPECT_THAT(ErrorOf({"--tls", "--tls-cert", "/no/cert", "--tls-key", key_}),
              HasSubstr("--tls-cert: /no/cert: No such"));
  EXPECT_THAT(ErrorOf({"--tls", "--tls-cert", certificate_, "--tls-key", "/no/key"}),
              HasSubstr("--tls-key: /no/key: No such"));
  setenv("TESSERA_TOKEN_FILE", "/no/token", 1);
  EXPECT_THAT(ErrorOf({}), HasSubstr("$TESSERA_TOKEN_FILE: /no/token: No such"));
  setenv("TESSERA_TOKEN_FILE", "", 1);
  setenv("TESSERA_TLS_CA", "/no/ca", 1);
  EXPECT_THAT(ErrorOf({}), HasSubstr("$TESSERA_TLS_CA: /no/ca: No such"));
}

TEST_F(ConnectionTest, SecretsThatOthersMayReadAreRefused) {
  for (const std::string& path : {token_, key_}) ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  EXPECT_THAT(ErrorOf({"--token-file", token_}),
              AllOf(HasSubstr("chmod o-rwx " + token_), Not(HasSubstr("password"))));
  EXPECT_THAT(ErrorOf({"--tls", "--tls-cert", certificate_, "--tls-key", key_}),
              AllOf(HasSubstr("--tls-key"), HasSubstr("chmod o-rwx " + key_)));
}

TEST_F(ConnectionTest, AnEmptyTokenAndOneThatCannotBeSentAreRefused) {
  EXPECT_THAT(ErrorOf({"--token-file", Secret("empty", "\n")}),
              HasSubstr("--token-file: " + zoo_.Path("empty") + ": is empty"));
  EXPECT_THAT(ErrorOf({"--token-file", Secret("words", "pass word")}),
              AllOf(HasSubstr("printable ASCII"), Not(HasSubstr("pass"))));
}

TEST_F(ConnectionTest, FilesThatAreNoPemAreRefusedBeforeTheConnection) {
  const std::string text = Secret("text", "password\n");
  EXPECT_THAT(
      ErrorOf({"--tls-ca", text}),
      AllOf(HasSubstr("--tls-ca: " + text + ": has no certificate"), Not(HasSubstr("password"))));
  EXPECT_THAT(ErrorOf({"--tls-ca", key_}), HasSubstr("has no certificate"));
  std::string damaged = authority_.pem();
  damaged.replace(damaged.size() / 2, 4, "****");
  EXPECT_THAT(ErrorOf({"--tls-ca", zoo_.File("damaged", authority_.pem() + damaged)}),
              HasSubstr("has a damaged certificate"));
  const std::vector<std::string> shared = {"--tls", "--tls-cert", certificate_, "--tls-key"};
  const auto with_key = [&shared](const std::string& path) {
    std::vector<std::string> words = shared;
    words.push_back(path);
    return words;
  };
  EXPECT_THAT(
      ErrorOf(with_key(text)),
      AllOf(HasSubstr("--tls-key: " + text + ": has no private key"), Not(HasSubstr("password"))));
  EXPECT_THAT(ErrorOf(with_key(Secret("other.key", authority_.Sign("DNS:other").key))),
              HasSubstr("is the key of another certificate"));
}

TEST_F(ConnectionTest, AKeyWithAPassphraseIsRefusedWithoutAQuestion) {
  const std::string path =
      Secret("locked.key", tessera::testing::LockedKey(client_.key, "password"));
  EXPECT_THAT(ErrorOf({"--tls", "--tls-cert", certificate_, "--tls-key", path}),
              HasSubstr("whose key has no passphrase"));
}

TEST_F(ConnectionTest, ABundleOfAuthoritiesIsAccepted) {
  const std::string bundle =
      "# a comment\n" + authority_.pem() + "\n" + TestAuthority("other").pem() + "\n# its end\n";
  const auto options = Read({"--tls-ca", zoo_.File("bundle", bundle)});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->ca, bundle);
}

}  // namespace
}  // namespace tessera::cli

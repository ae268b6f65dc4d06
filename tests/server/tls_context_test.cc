// Tests of the files of TLS and of what they permit: which clients are accepted, under which names,
// and what a wrong file is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/door/tls.h"
#include "tests/lib/tls_client.h"

namespace tessera::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kNow = 1'000'000'000;

struct Outcome {
  TlsStream::State state = TlsStream::State::kHandshake;
  std::string error;
  std::vector<std::string> names;
  std::string client_error;
  std::string server_certificate;
};

class TlsContextTest : public ::testing::Test {
 protected:
  // Connects with this certificate; without one if it is empty.
  Outcome Connect(const std::shared_ptr<const TlsContext>& server,
                  const CertifiedKey& certificate) const {
    const TlsClientContext context(
        TlsClientOptions{.ca = authority_.pem(), .certificate = certificate});
    TlsClient client(context);
    TlsStream stream(server, kNow);
    for (std::string wire = client.TakeWire(); !wire.empty(); wire = client.TakeWire()) {
      if (stream.state() != TlsStream::State::kHandshake) break;
      std::vector<char> plain(wire.size() + TlsStream::kMaxRecordBytes);
      std::string out;
      EXPECT_EQ(stream.Receive(wire, plain.data(), &out, kNow), 0U);
      EXPECT_EQ(client.Receive(out), "");
    }
    Outcome outcome;
    outcome.state = stream.state();
    outcome.error = stream.error();
    outcome.client_error = client.error();
    if (stream.state() != TlsStream::State::kOpen) return outcome;
    outcome.names = stream.ClientCertificateNames();
    outcome.server_certificate = client.server_certificate();
    return outcome;
  }
  void ExpectRefused(const std::shared_ptr<const TlsContext>& server,
                     const CertifiedKey& certificate, const std::string& error) const {
    const Outcome outcome = Connect(server, certificate);
    EXPECT_EQ(outcome.state, TlsStream::State::kFailed);
    EXPECT_EQ(outcome.error, error);
    EXPECT_NE(outcome.client_error, "") << "the client is told; " << error;
  }
  std::vector<std::string> NamesOf(const std::string& names) const {
    const Outcome outcome = Connect(mutual_, authority_.Sign(names));
    EXPECT_EQ(outcome.state, TlsStream::State::kOpen) << outcome.error;
    return outcome.names;
  }

  TlsFolder folder_;
  const TestAuthority authority_{"authority"};
  const CertifiedKey server_ = authority_.Sign("DNS:localhost");
  const CertifiedKey client_ = authority_.Sign("DNS:client");
  const std::shared_ptr<const TlsContext> mutual_ = folder_.Load(server_, authority_.pem());
};

TEST_F(TlsContextTest, NamesAreThoseOfTheClientsCertificate) {
  EXPECT_THAT(NamesOf("DNS:a.example.com"), ElementsAre("a.example.com", "DNS:a.example.com"));
  EXPECT_THAT(NamesOf("URI:spiffe://cluster/a"),
              ElementsAre("spiffe://cluster/a", "URI:spiffe://cluster/a"));
  EXPECT_THAT(NamesOf("IP:10.0.0.1,IP:2001:db8::1"),
              ElementsAre("10.0.0.1", "IP:10.0.0.1", "2001:db8::1", "IP:2001:db8::1"));
  EXPECT_THAT(NamesOf("email:a@example.com"), ElementsAre("a@example.com", "email:a@example.com"));
  EXPECT_THAT(NamesOf("DNS:a,URI:b:c"), ElementsAre("a", "DNS:a", "b:c", "URI:b:c"));
  // Other kinds of names, and the common name, are none.
  EXPECT_THAT(NamesOf("RID:1.2.3.4"), ElementsAre());
  EXPECT_THAT(NamesOf(""), ElementsAre());
}

TEST_F(TlsContextTest, ANameThatLooksLikeOneWithAKindCountsWithItsOwnKindOnly) {
  EXPECT_THAT(NamesOf("DNS:URI:spiffe://cluster/admin"),
              ElementsAre("DNS:URI:spiffe://cluster/admin"));
  EXPECT_THAT(NamesOf("email:DNS:admin"), ElementsAre("email:DNS:admin"));
  EXPECT_THAT(NamesOf("URI:IP:10.0.0.1"), ElementsAre("URI:IP:10.0.0.1"));
  EXPECT_THAT(NamesOf("DNS:DNS:admin"), ElementsAre("DNS:DNS:admin"));
  EXPECT_THAT(NamesOf("URI:email:a@b"), ElementsAre("URI:email:a@b"));
}

TEST_F(TlsContextTest, AClientNeedsACertificateOfTheAuthorityThatIsValidNow) {
  ExpectRefused(mutual_, {}, "peer did not return a certificate");
  const std::string is = "the client's certificate: ";
  ExpectRefused(mutual_, authority_.Sign("DNS:client", {.from_s = -7200, .to_s = -3600}),
                is + "certificate has expired");
  ExpectRefused(mutual_, authority_.Sign("DNS:client", {.from_s = 3600, .to_s = 7200}),
                is + "certificate is not yet valid");
  const TestAuthority other("another authority");
  ExpectRefused(mutual_, other.Sign("DNS:client"), is + "unable to get local issuer certificate");
  // An authority with the same name and another key.
  ExpectRefused(mutual_, TestAuthority("authority").Sign("DNS:client"),
                is + "certificate signature failure");
  // The key is for servers only.
  ExpectRefused(mutual_, authority_.Sign("DNS:client", {}, "serverAuth"),
                is + "unsuitable certificate purpose");
  EXPECT_EQ(Connect(mutual_, authority_.Sign("DNS:client", {}, "clientAuth")).state,
            TlsStream::State::kOpen);
}

TEST_F(TlsContextTest, ACertificateThatSignsItselfIsRefused) {
  ExpectRefused(mutual_, TestAuthority("somebody").own(),
                "the client's certificate: self-signed certificate");
}

TEST_F(TlsContextTest, AnOptionalCertificateIsCheckedIfThereIsOne) {
  TlsFiles files = folder_.Write(server_, authority_.pem());
  files.certificate_is_optional = true;
  const auto server = TlsContext::Load(files);
  ASSERT_TRUE(server.ok()) << server.status();
  const Outcome without = Connect(*server, {});
  EXPECT_EQ(without.state, TlsStream::State::kOpen) << without.error;
  EXPECT_THAT(without.names, ElementsAre());
  EXPECT_THAT(Connect(*server, client_).names, ElementsAre("client", "DNS:client"));
  ExpectRefused(*server, TestAuthority("another authority").Sign("DNS:client"),
                "the client's certificate: unable to get local issuer certificate");
}

TEST_F(TlsContextTest, WithoutAnAuthorityNoClientIsAskedForACertificate) {
  const auto server = folder_.Load(server_);
  const Outcome outcome = Connect(server, client_);
  EXPECT_EQ(outcome.state, TlsStream::State::kOpen) << outcome.error;
  EXPECT_THAT(outcome.names, ElementsAre());
}

TEST_F(TlsContextTest, ARevokedCertificateIsRefused) {
  const CertifiedKey revoked = authority_.Sign("DNS:revoked");
  const auto server =
      folder_.Load(server_, authority_.pem(), authority_.RevocationList({revoked.certificate}));
  ExpectRefused(server, revoked, "the client's certificate: certificate revoked");
  EXPECT_EQ(Connect(server, client_).state, TlsStream::State::kOpen);
}

TEST_F(TlsContextTest, AListOfAnotherAuthorityOrOfAnotherTimeRefusesAll) {
  const std::string is = "the client's certificate: ";
  const TestAuthority other("another authority");
  ExpectRefused(folder_.Load(server_, authority_.pem(), other.RevocationList({})), client_,
                is + "unable to get certificate CRL");
  ExpectRefused(folder_.Load(server_, authority_.pem(),
                             authority_.RevocationList({}, {.from_s = -7200, .to_s = -3600})),
                client_, is + "CRL has expired");
  ExpectRefused(
      folder_.Load(server_, authority_.pem(), TestAuthority("authority").RevocationList({})),
      client_, is + "CRL signature failure");
}

TEST_F(TlsContextTest, AnIntermediateAuthoritySignsForBothSides) {
  const TestAuthority middle = authority_.SignAuthority("intermediate authority");
  const auto chained = [&middle](const std::string& names) {
    CertifiedKey certified = middle.Sign(names);
    certified.certificate += middle.pem();
    return certified;
  };
  const auto server = folder_.Load(chained("DNS:localhost"), authority_.pem());
  const Outcome outcome = Connect(server, chained("DNS:client"));
  EXPECT_EQ(outcome.state, TlsStream::State::kOpen) << outcome.error;
  EXPECT_THAT(outcome.names, ElementsAre("client", "DNS:client"));
  ExpectRefused(server, middle.Sign("DNS:client"),
                "the client's certificate: unable to get local issuer certificate");
  // Each authority of the chain needs its list.
  const CertifiedKey revoked = chained("DNS:revoked");
  const std::string list = middle.RevocationList({revoked.certificate});
  ExpectRefused(folder_.Load(server_, authority_.pem(), list), chained("DNS:client"),
                "the client's certificate: unable to get certificate CRL");
  const auto both = folder_.Load(server_, authority_.pem(), list + authority_.RevocationList({}));
  EXPECT_EQ(Connect(both, chained("DNS:client")).state, TlsStream::State::kOpen);
  ExpectRefused(both, revoked, "the client's certificate: certificate revoked");
  // An authority that is revoked takes its clients with it.
  const auto without_middle =
      folder_.Load(server_, authority_.pem(), list + authority_.RevocationList({middle.pem()}));
  ExpectRefused(without_middle, chained("DNS:client"),
                "the client's certificate: certificate revoked");
}

TEST_F(TlsContextTest, SeveralAuthoritiesMayStandInOneFile) {
  const TestAuthority other("another authority");
  const auto server = folder_.Load(server_, authority_.pem() + other.pem());
  EXPECT_EQ(Connect(server, client_).state, TlsStream::State::kOpen);
  EXPECT_THAT(Connect(server, other.Sign("DNS:b")).names, ElementsAre("b", "DNS:b"));
}

// A client's certificate is no authority, even if its authority has signed it.
TEST_F(TlsContextTest, AClientSignsNoOtherClients) {
  CertifiedKey forged = TestAuthority(client_).Sign("DNS:admin");
  forged.certificate += client_.certificate;
  ExpectRefused(mutual_, forged, "the client's certificate: invalid CA certificate");
}

// Errors of files.
class TlsFilesTest : public ::testing::Test {
 protected:
  // The error of loading these files. It has no part of a secret.
  std::string ErrorOf(const TlsFiles& files) {
    const auto loaded = TlsContext::Load(files);
    EXPECT_FALSE(loaded.ok());
    std::string message(loaded.status().message());
    for (const std::string& secret : {server_.key, LockedKey(server_.key, "passphrase")}) {
      for (const absl::string_view line : absl::StrSplit(secret, '\n')) {
        if (line.empty() || line.front() == '-') continue;
        for (size_t i = 0; i + 8 <= line.size(); ++i) {
          EXPECT_THAT(message, Not(HasSubstr(std::string(line.substr(i, 8)))));
        }
      }
    }
    return message;
  }
  // The error starts with the key of the configuration and the path, and says this.
  void ExpectError(const TlsFiles& files, const std::string& key, const std::string& path,
                   const std::string& says) {
    const std::string error = ErrorOf(files);
    EXPECT_THAT(error, ::testing::StartsWith(absl::StrCat("security.tls.", key, ": ", path)));
    EXPECT_THAT(error, HasSubstr(says));
  }
  // All files whose content is wrong in the same way for each key.
  void ExpectErrorsOf(const std::string& key, std::string TlsFiles::*path) {
    TlsFiles files = files_;
    files.*path = folder_.zoo().Path("missing");
    ExpectError(files, key, files.*path, "No such file");
    files.*path = folder_.Secret("empty", "");
    ExpectError(files, key, files.*path, "give a PEM file");
    files.*path = folder_.Secret("garbage", "no PEM\n");
    ExpectError(files, key, files.*path, "give a PEM file");
    files.*path = folder_.Secret("large", std::string(5 << 20, 'x'));
    ExpectError(files, key, files.*path, "");
    files.*path = folder_.zoo().Folder("folder");
    ExpectError(files, key, files.*path, "");
    files.*path = folder_.zoo().Fifo("fifo");
    ExpectError(files, key, files.*path, "");
  }
  // A text that is not base64 any more.
  static std::string Damaged(std::string pem) {
    pem[pem.find('\n') + 40] = '!';
    return pem;
  }

  TlsFolder folder_;
  const TestAuthority authority_{"authority"};
  const CertifiedKey server_ = authority_.Sign("DNS:localhost");
  const TlsFiles files_ = folder_.Write(server_, authority_.pem(), authority_.RevocationList({}));
};

TEST_F(TlsFilesTest, TheFilesOfTheTestsLoad) {
  EXPECT_TRUE(TlsContext::Load(files_).ok());
  TlsFiles without = files_;
  without.client_ca.clear();
  without.client_crl.clear();
  EXPECT_TRUE(TlsContext::Load(without).ok());
  EXPECT_TRUE(files_.enabled());
  EXPECT_FALSE(TlsFiles().enabled());
}

TEST_F(TlsFilesTest, WrongFilesAreNamed) {
  ExpectErrorsOf("certificate", &TlsFiles::certificate);
  ExpectErrorsOf("key", &TlsFiles::key);
  ExpectErrorsOf("client_ca", &TlsFiles::client_ca);
  ExpectErrorsOf("client_crl", &TlsFiles::client_crl);
}

TEST_F(TlsFilesTest, DamagedFilesAreNamed) {
  TlsFiles files = files_;
  files.certificate = folder_.zoo().File("damaged.pem", Damaged(server_.certificate));
  ExpectError(files, "certificate", files.certificate, "is damaged");
  files = files_;
  files.client_ca = folder_.zoo().File("damaged.pem", authority_.pem() + Damaged(authority_.pem()));
  ExpectError(files, "client_ca", files.client_ca, "is damaged");
  files = files_;
  files.client_crl = folder_.zoo().File(
      "damaged.pem", authority_.RevocationList({}) + Damaged(authority_.RevocationList({})));
  ExpectError(files, "client_crl", files.client_crl, "is damaged");
  files = files_;
  files.key = folder_.Secret("damaged.key", Damaged(server_.key));
  ExpectError(files, "key", files.key, "");
}

TEST_F(TlsFilesTest, AKeyThatOthersMayReadIsRefused) {
  ASSERT_EQ(chmod(files_.key.c_str(), 0644), 0);
  ExpectError(files_, "key", files_.key, "chmod");
  ASSERT_EQ(chmod(files_.key.c_str(), 0640), 0);
  EXPECT_TRUE(TlsContext::Load(files_).ok()) << "secrets are given to processes by their group";
}

TEST_F(TlsFilesTest, AKeyBelongsToItsCertificate) {
  TlsFiles files = files_;
  files.key = folder_.Secret("other.key", authority_.Sign("DNS:localhost").key);
  ExpectError(files, "key", files.key,
              absl::StrCat("does not belong to ", files.certificate, " (key values mismatch)"));
}

// Nobody is asked for a passphrase: the test would wait for an answer.
TEST_F(TlsFilesTest, AKeyWithAPassphraseIsRefused) {
  TlsFiles files = files_;
  files.key = folder_.Secret("locked.key", LockedKey(server_.key, "passphrase"));
  ExpectError(files, "key", files.key, "no private key without a passphrase");
}

TEST_F(TlsFilesTest, FilesThatHaveChangedPlaces) {
  TlsFiles files = files_;
  files.key = folder_.Secret("certificate.pem", server_.certificate);
  ExpectError(files, "key", files.key, "no private key");
  files = files_;
  files.certificate = files.key;
  ExpectError(files, "certificate", files.certificate, "has no certificate");
  files = files_;
  files.client_crl = files.client_ca;
  ExpectError(files, "client_crl", files.client_crl, "has no list");
  files = files_;
  files.client_ca = files.client_crl;
  ExpectError(files, "client_ca", files.client_ca, "has no certificate");
}

// A certificate and its key may stand in one file, which is then a secret.
TEST_F(TlsFilesTest, OneFileMayHaveBoth) {
  TlsFiles files = files_;
  files.certificate = folder_.Secret("both.pem", server_.key + server_.certificate);
  files.key = files.certificate;
  const auto loaded = TlsContext::Load(files);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
}

}  // namespace
}  // namespace tessera::testing

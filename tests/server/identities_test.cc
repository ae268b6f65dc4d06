// Tests of the set of callers: which configurations are refused, and who is found.
#include "server/door/identities.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"

namespace tessera {
namespace {

std::string HashOf(const std::string& token) {
  Sha256 hash;
  hash.Add(token.data(), token.size());
  const Sha256Digest digest = hash.Finish();
  return absl::BytesToHexString(std::string(digest.begin(), digest.end()));
}

IdentityRule WithToken(const std::string& token, const std::string& tenant, bool admin = false) {
  return {tenant, admin, HashOf(token), ""};
}

IdentityRule WithName(const std::string& name, const std::string& tenant) {
  return {tenant, false, "", name};
}

Identities Made(const std::vector<IdentityRule>& rules) {
  absl::StatusOr<Identities> made = Identities::Make(rules);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : Identities();
}

TEST(IdentitiesTest, ATokenIsFoundByItsHash) {
  const Identities known =
      Made({WithToken("red token", "red"), WithToken("blue token", "blue", /*admin=*/true)});
  EXPECT_FALSE(known.empty());
  EXPECT_TRUE(known.has_tokens());
  EXPECT_FALSE(known.has_certificates());
  ASSERT_NE(known.FindToken("red token"), nullptr);
  EXPECT_EQ(known.FindToken("red token")->tenant, "red");
  EXPECT_FALSE(known.FindToken("red token")->admin);
  EXPECT_EQ(known.FindToken("blue token")->tenant, "blue");
  EXPECT_TRUE(known.FindToken("blue token")->admin);
  for (const char* wrong : {"", "red", "red token ", "Red token", "green token"}) {
    EXPECT_EQ(known.FindToken(wrong), nullptr) << wrong;
  }
  EXPECT_EQ(known.FindToken(HashOf("red token")), nullptr) << "the hash is not the token";
  EXPECT_EQ(known.FindToken(std::string(kMaxTokenBytes + 1, 'r')), nullptr);
}

TEST(IdentitiesTest, AHashMayHaveLettersOfEitherCase) {
  IdentityRule rule = WithToken("red token", "red");
  for (char& letter : rule.token_sha256) letter = absl::ascii_toupper(letter);
  EXPECT_NE(Made({rule}).FindToken("red token"), nullptr);
}

TEST(IdentitiesTest, ManyTokensAreEachFound) {
  std::vector<IdentityRule> rules;
  for (int i = 0; i < 5000; ++i) {
    rules.push_back(WithToken("token " + std::to_string(i), std::to_string(i)));
  }
  const Identities known = Made(rules);
  for (int i = 0; i < 5000; ++i) {
    const Caller* const caller = known.FindToken("token " + std::to_string(i));
    ASSERT_NE(caller, nullptr);
    EXPECT_EQ(caller->tenant, std::to_string(i));
  }
}

TEST(IdentitiesTest, TheFirstConfiguredNameOfACertificateCounts) {
  const Identities known =
      Made({WithName("a.example.com", "a"), WithName("URI:spiffe://x/b", "b")});
  EXPECT_TRUE(known.has_certificates());
  EXPECT_EQ(known.FindNames({}), nullptr);
  const std::vector<std::string> other = {"c.example.com", "DNS:c.example.com"};
  EXPECT_EQ(known.FindNames(other), nullptr);
  const std::vector<std::string> both = {"spiffe://x/b", "URI:spiffe://x/b", "a.example.com"};
  ASSERT_NE(known.FindNames(both), nullptr);
  EXPECT_EQ(known.FindNames(both)->tenant, "a");
  const std::vector<std::string> second = {"spiffe://x/b", "URI:spiffe://x/b"};
  EXPECT_EQ(known.FindNames(second)->tenant, "b");
  const std::vector<std::string> wildcard = {"x.a.example.com", "A.example.com"};
  EXPECT_EQ(known.FindNames(wildcard), nullptr) << "names are compared as they are written";
}

TEST(IdentitiesTest, WithoutRulesNobodyIsKnown) {
  const Identities none = Made({});
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(none.FindToken("x"), nullptr);
}

TEST(IdentitiesTest, WrongRulesAreRefusedByTheirPlace) {
  const std::string secret = "a secret token that is no hash";
  const struct {
    IdentityRule rule;
    const char* why;
  } cases[] = {
      {{"t", false, "", ""}, "either token_sha256 or certificate_san"},
      {{"t", false, HashOf("x"), "name"}, "either token_sha256 or certificate_san"},
      {{"t", false, secret, ""}, "not 64 hexadecimal digits"},
      {{"t", false, HashOf("x").substr(1), ""}, "not 64 hexadecimal digits"},
      {{"t", false, "g" + HashOf("x").substr(1), ""}, "not 64 hexadecimal digits"},
      {WithToken("first", "t"), "token_sha256 of an earlier identity"},
      {{std::string(kMaxTenantBytes + 1, 't'), false, HashOf("x"), ""}, "at most 128"},
  };
  for (const auto& wrong : cases) {
    const absl::Status status = Identities::Make({WithToken("first", "a"), wrong.rule}).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << wrong.why;
    EXPECT_EQ(status.message().rfind("security.identities[1] ", 0), 0u) << status;
    EXPECT_NE(status.message().find(wrong.why), std::string::npos) << status;
    EXPECT_EQ(status.message().find(secret), std::string::npos) << status;
  }
  const absl::Status twice =
      Identities::Make({WithName("a", "a"), WithToken("x", "b"), WithName("a", "c")}).status();
  EXPECT_EQ(twice.message().rfind("security.identities[2] has the certificate_san", 0), 0u);
}

}  // namespace
}  // namespace tessera

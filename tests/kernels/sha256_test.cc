#include "kernels/base/sha256.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/escaping.h"

namespace tessera {
namespace {

std::string Hex(const Sha256Digest& digest) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

// FIPS 180-2, appendix B.1.
TEST(Sha256Test, IsTheStandardsAndStartsAgainAfterEachMessage) {
  Sha256 sha;
  const std::string empty = Hex(Sha256().Finish());
  for (int round = 0; round < 2; ++round) {
    sha.Add("ab", 2);
    sha.Add("c", 1);
    EXPECT_EQ(Hex(sha.Finish()),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(Hex(sha.Finish()), empty);
  }
}

TEST(Sha256Test, FieldsDoNotRunIntoEachOther) {
  const auto digest = [](const std::string& a, const std::string& b) {
    Sha256 sha;
    sha.AddField(a);
    sha.AddField(b);
    return sha.Finish();
  };
  EXPECT_EQ(digest("ab", "c"), digest("ab", "c"));
  EXPECT_NE(digest("ab", "c"), digest("a", "bc"));
  EXPECT_NE(digest("abc", ""), digest("", "abc"));
}

}  // namespace
}  // namespace tessera

// Tests of bearer tokens: how they are made, hashed and read.
#include "server/cli/token.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

#include "tests/lib/file_zoo.h"

namespace tessera::cli {
namespace {

using tessera::testing::FileZoo;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

class TokenTest : public ::testing::Test {
 protected:
  std::string File(const std::string& content, mode_t mode = 0600) {
    std::string path = zoo_.File("token", content);
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
  }
  std::string ErrorOf(const std::string& content, mode_t mode = 0600) {
    const auto token = ReadTokenFile(File(content, mode));
    EXPECT_FALSE(token.ok());
    return std::string(token.status().message());
  }

  FileZoo zoo_;
};

TEST_F(TokenTest, ANewTokenHas32RandomBytesAndAPrefix) {
  const auto first = MakeToken();
  const auto second = MakeToken();
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_THAT(*first, MatchesRegex("tsr_[A-Za-z0-9_-]{43}"));
  EXPECT_NE(*first, *second);
}

TEST_F(TokenTest, TheHashIsTheSha256OfTheBytes) {
  EXPECT_EQ(TokenHash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_F(TokenTest, OneLineBreakAtTheEndIsNoPartOfTheToken) {
  for (const char* content : {"tsr_abc", "tsr_abc\n", "tsr_abc\r\n"}) {
    const auto token = ReadTokenFile(File(content));
    ASSERT_TRUE(token.ok()) << token.status();
    EXPECT_EQ(*token, "tsr_abc");
  }
  EXPECT_THAT(ErrorOf("tsr_abc\n\n"), HasSubstr("one line of printable ASCII"));
}

TEST_F(TokenTest, ATokenIsPrintableAsciiWithoutSpaces) {
  for (const char* content : {"", "\n", "\r\n"}) {
    EXPECT_THAT(ErrorOf(content), AllOf(HasSubstr(zoo_.Path("token")), HasSubstr("is empty")));
  }
  for (const char* content :
       {"pass word", "pass\tword", "passw\xC3\xB6rd", " password", "pass\x7F"}) {
    EXPECT_THAT(ErrorOf(content),
                AllOf(HasSubstr("one line of printable ASCII"), Not(HasSubstr("pass"))));
  }
  EXPECT_THAT(ErrorOf(std::string("pass\0word", 9)), HasSubstr("printable"));
}

TEST_F(TokenTest, TheSizeOfATokenIsBounded) {
  const std::string longest(kMaxTokenBytes, 'x');
  EXPECT_EQ(*ReadTokenFile(File(longest + "\r\n")), longest);
  EXPECT_THAT(ErrorOf(longest + "x"), HasSubstr("a token has at most 4096 bytes"));
  EXPECT_THAT(ErrorOf(longest + "xxx"), HasSubstr("has 4099 bytes"));
}

TEST_F(TokenTest, AFileThatOthersMayReadIsRefused) {
  EXPECT_THAT(ErrorOf("password", 0644),
              AllOf(HasSubstr("chmod o-rwx " + zoo_.Path("token")), Not(HasSubstr("password"))));
}

}  // namespace
}  // namespace tessera::cli

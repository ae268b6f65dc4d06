// Tests of reading files that hold a secret.
#include "kernels/base/secret_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/lib/file_zoo.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using testing::FileZoo;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kMaxBytes = 1000;

class SecretFileTest : public ::testing::Test {
 protected:
  // A file that holds "password" and has this mode.
  std::string Secret(const std::string& name, mode_t mode) {
    std::string path = zoo_.File(name, "password");
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
  }

  FileZoo zoo_;
};

TEST_F(SecretFileTest, ReadsAFileOfTheOwnerAndTheGroup) {
  for (const mode_t mode : {0400, 0600, 0640, 0660, 0440}) {
    const auto content = ReadSecretFile(Secret("f", mode), kMaxBytes);
    ASSERT_TRUE(content.ok()) << content.status();
    EXPECT_EQ(*content, "password");
  }
}

TEST_F(SecretFileTest, RefusesAFileToWhichOthersHaveRights) {
  for (const mode_t mode : {0604, 0602, 0601, 0644, 0666, 0777}) {
    const std::string path = Secret("f", mode);
    const absl::Status refused = ReadSecretFile(path, kMaxBytes).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()),
                AllOf(HasSubstr(absl::StrCat("chmod o-rwx ", path)), Not(HasSubstr("password"))));
  }
  EXPECT_THAT(std::string(ReadSecretFile(Secret("f", 0644), kMaxBytes).status().message()),
              HasSubstr("mode 0644"));
}

TEST_F(SecretFileTest, TheRightsOfALinkAreThoseOfItsTarget) {
  const std::string target = Secret("target", 0600);
  const std::string path = zoo_.Link("f", target);
  EXPECT_TRUE(ReadSecretFile(path, kMaxBytes).ok());
  Secret("target", 0644);
  EXPECT_TRUE(absl::IsFailedPrecondition(ReadSecretFile(path, kMaxBytes).status()));
}

TEST_F(SecretFileTest, ErrorsOfTheFileAreThoseOfForeignFile) {
  EXPECT_TRUE(absl::IsNotFound(ReadSecretFile(zoo_.Path("none"), kMaxBytes).status()));
  for (const FileZoo::Beast& beast : FileZoo::Beasts()) {
    const absl::Status refused = ReadSecretFile((zoo_.*beast.make)("f"), kMaxBytes).status();
    EXPECT_THAT(std::string(refused.message()), HasSubstr(beast.says)) << beast.kind;
  }
  const absl::Status refused = ReadSecretFile(Secret("f", 0600), 3).status();
  EXPECT_TRUE(absl::IsInvalidArgument(refused));
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr("has 8 bytes"), Not(HasSubstr("password"))));
}

}  // namespace
}  // namespace tessera

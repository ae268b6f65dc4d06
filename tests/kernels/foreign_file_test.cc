// Tests of opening and reading files that other people made.
#include "kernels/base/foreign_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string>
#include <utility>

#include "tests/lib/file_zoo.h"

namespace tessera {
namespace {

using testing::FileZoo;
using ::testing::HasSubstr;
using ::testing::Not;

class ForeignFileTest : public ::testing::Test {
 protected:
  static std::string ErrorOf(const std::string& path, const ForeignFileOptions& options = {}) {
    const auto file = ForeignFile::Open(path, options);
    EXPECT_FALSE(file.ok()) << path;
    return std::string(file.status().message());
  }

  FileZoo zoo_;
};

TEST_F(ForeignFileTest, ReadsARegularFile) {
  const std::string content("a\0b\n", 4);
  const auto file = ForeignFile::Open(zoo_.File("f", content), {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->path(), zoo_.Path("f"));
  EXPECT_EQ(file->size(), 4);
  EXPECT_EQ(*file->ReadAll(), content);
  char two[2];
  ASSERT_TRUE(file->ReadAt(1, 2, two).ok());
  EXPECT_EQ(std::string(two, 2), content.substr(1, 2));
}

TEST_F(ForeignFileTest, AnEmptyFileIsAFile) {
  EXPECT_EQ(*ReadForeignFile(zoo_.Empty("f"), {}), "");
}

TEST_F(ForeignFileTest, ALinkToAFileIsTheFile) {
  zoo_.File("target", "x");
  EXPECT_EQ(*ReadForeignFile(zoo_.Link("f", "target"), {}), "x");
}

TEST_F(ForeignFileTest, RefusesWhatIsNoRegularFileWithoutWaiting) {
  for (const FileZoo::Beast& beast : FileZoo::Beasts()) {
    const auto file = ForeignFile::Open((zoo_.*beast.make)("f"), {});
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << beast.kind;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(beast.says)) << beast.kind;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(zoo_.Path("f"))) << beast.kind;
  }
}

TEST_F(ForeignFileTest, AWriterOfANamedPipeMeetsNoReader) {
  const std::string path = zoo_.Fifo("f");
  ErrorOf(path);
  EXPECT_EQ(open(path.c_str(), O_WRONLY | O_NONBLOCK), -1);
  EXPECT_EQ(errno, ENXIO);
}

TEST_F(ForeignFileTest, AnAbsentFileIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(ForeignFile::Open(zoo_.Path("none"), {}).status()));
  zoo_.File("f", "x");
  EXPECT_TRUE(absl::IsNotFound(ForeignFile::Open(zoo_.Path("f/below"), {}).status()));
}

TEST_F(ForeignFileTest, AnUnreadableFileSaysSo) {
  const std::string path = zoo_.Unreadable("f");
  constexpr uid_t kNobody = 65534;
  const uid_t user = geteuid();
  // Root may read every file.
  if (user == 0) {
    ASSERT_EQ(seteuid(kNobody), 0);
  }
  EXPECT_THAT(ErrorOf(path), HasSubstr("right to read"));
  EXPECT_TRUE(absl::IsFailedPrecondition(ForeignFile::Open(path, {}).status()));
  ASSERT_EQ(seteuid(user), 0);
}

TEST_F(ForeignFileTest, TooManyOpenFilesAreNotTheFilesFault) {
  const std::string path = zoo_.File("f", "x");
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none = {0, limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status refused = ForeignFile::Open(path, {}).status();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  EXPECT_TRUE(ForeignFile::Open(path, {}).ok());
}

TEST_F(ForeignFileTest, TheSizeIsBounded) {
  const ForeignFileOptions options{.max_bytes = 10, .roots = {}};
  EXPECT_TRUE(ForeignFile::Open(zoo_.File("f", "0123456789"), options).ok());
  EXPECT_THAT(ErrorOf(zoo_.File("f", "0123456789a"), options),
              ::testing::AllOf(HasSubstr("has 11 bytes"), HasSubstr("at most 10")));
  // A terabyte that takes no space on the disk is refused before any memory is allocated.
  EXPECT_THAT(ErrorOf(zoo_.Sparse("f", int64_t{1} << 40)), HasSubstr("1099511627776"));
}

TEST_F(ForeignFileTest, APathWithANulIsRefused) {
  zoo_.File("f", "secret");
  const std::string path = zoo_.Path("f") + std::string("\0.json", 6);
  EXPECT_THAT(ErrorOf(path), ::testing::AllOf(HasSubstr("NUL"), HasSubstr("f\\x00.json")));
  EXPECT_THAT(ErrorOf(""), HasSubstr("empty"));
}

TEST_F(ForeignFileTest, RootsBoundTheRealPath) {
  zoo_.Folder("root/inner");
  zoo_.Folder("other");
  const std::string inside = zoo_.File("root/inner/f", "in");
  const std::string outside = zoo_.File("other/f", "out");
  const ForeignFileOptions options{.max_bytes = 100, .roots = {zoo_.Path("root")}};
  EXPECT_EQ(*ReadForeignFile(inside, options), "in");
  EXPECT_EQ(*ReadForeignFile(zoo_.Link("other/in", inside), options), "in");
  EXPECT_THAT(ErrorOf(outside, options), ::testing::AllOf(HasSubstr("outside the allowed folders"),
                                                          HasSubstr("adapters.roots")));
  EXPECT_THAT(ErrorOf(zoo_.Path("root/../other/f"), options), HasSubstr("outside"));
  EXPECT_THAT(ErrorOf(zoo_.Link("root/link", outside), options), HasSubstr("outside"));
  // A folder whose name continues the root's name is not below the root.
  EXPECT_THAT(ErrorOf(zoo_.File("root2/f", "out"), options), HasSubstr("outside"));
  const ForeignFileOptions two{.max_bytes = 100, .roots = {zoo_.Path("root"), zoo_.Path("other")}};
  EXPECT_EQ(*ReadForeignFile(outside, two), "out");
  const ForeignFileOptions none{.max_bytes = 100, .roots = {zoo_.Path("absent")}};
  EXPECT_THAT(ErrorOf(inside, none), HasSubstr("outside"));
}

TEST_F(ForeignFileTest, ARootMayBeALink) {
  zoo_.Folder("root");
  const std::string path = zoo_.File("root/f", "in");
  const ForeignFileOptions options{.max_bytes = 100, .roots = {zoo_.Link("link", "root")}};
  EXPECT_EQ(*ReadForeignFile(path, options), "in");
  EXPECT_EQ(*ReadForeignFile(zoo_.Path("link/f"), options), "in");
}

TEST_F(ForeignFileTest, AFileThatBecomesShorterIsAnError) {
  const std::string path = zoo_.File("f", std::string(10'000, 'x'));
  const auto file = ForeignFile::Open(path, {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->CheckUnchanged().ok());
  FileZoo::Truncate(path, 9'999);
  for (const absl::Status& status : {file->ReadAll().status(), file->CheckUnchanged()}) {
    EXPECT_THAT(std::string(status.message()),
                ::testing::AllOf(HasSubstr(path), HasSubstr("became shorter")));
  }
}

TEST_F(ForeignFileTest, AFileThatGrowsIsReadToItsFormerEnd) {
  const std::string path = zoo_.File("f", "12");
  const auto file = ForeignFile::Open(path, {});
  ASSERT_TRUE(file.ok()) << file.status();
  FileZoo::Truncate(path, 100);
  EXPECT_EQ(*file->ReadAll(), "12");
  EXPECT_THAT(std::string(file->CheckUnchanged().message()), HasSubstr("changed while"));
}

TEST_F(ForeignFileTest, AFileThatIsWrittenInPlaceIsAnError) {
  const std::string path = zoo_.File("f", "12");
  const auto file = ForeignFile::Open(path, {});
  ASSERT_TRUE(file.ok()) << file.status();
  const auto later = std::filesystem::last_write_time(path) + std::chrono::seconds(1);
  std::filesystem::last_write_time(path, later);
  EXPECT_THAT(std::string(file->CheckUnchanged().message()), HasSubstr("changed while"));
}

TEST_F(ForeignFileTest, ErrorsQuoteNoContent) {
  const ForeignFileOptions options{.max_bytes = 3, .roots = {}};
  EXPECT_THAT(ErrorOf(zoo_.File("f", "password"), options), Not(HasSubstr("password")));
}

TEST_F(ForeignFileTest, OneOwnerClosesTheDescriptor) {
  auto first = ForeignFile::Open(zoo_.File("a", "1"), {});
  auto second = ForeignFile::Open(zoo_.File("b", "2"), {});
  ASSERT_TRUE(first.ok() && second.ok());
  const int fd = second->fd();
  {
    ForeignFile moved = *std::move(first);
    moved = *std::move(second);
    EXPECT_EQ(*moved.ReadAll(), "2");
    EXPECT_EQ(moved.fd(), fd);
  }
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
}

}  // namespace
}  // namespace tessera

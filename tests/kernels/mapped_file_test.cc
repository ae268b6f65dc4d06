// Tests of mapped files that other processes change while their bytes are read.
#include "kernels/base/mapped_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "tests/lib/file_zoo.h"

namespace tessera {
namespace {

using testing::FileZoo;
using ::testing::HasSubstr;

constexpr ForeignFileOptions kLarge{.max_bytes = int64_t{1} << 40, .roots = {}};

class MappedFileTest : public ::testing::Test {
 protected:
  // A file of `num_pages` memory pages of 'x'.
  std::string Pages(const std::string& name, int64_t num_pages) {
    return zoo_.File(name, std::string(static_cast<size_t>(num_pages * page_), 'x'));
  }
  static std::unique_ptr<MappedFile> Open(const std::string& path) {
    auto file = MappedFile::Open(path, kLarge);
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }
  static int64_t Count(const MappedFile& file, char byte) {
    int64_t count = 0;
    for (const char of : file.bytes()) count += of == byte ? 1 : 0;
    return count;
  }

  const int64_t page_ = sysconf(_SC_PAGESIZE);
  FileZoo zoo_;
};

TEST_F(MappedFileTest, MapsAFile) {
  const auto file = Open(zoo_.File("f", "abc"));
  EXPECT_EQ(file->bytes(), "abc");
  EXPECT_TRUE(file->CheckIntact().ok());
}

TEST_F(MappedFileTest, RefusesWhatIsNoFile) {
  for (const FileZoo::Beast& beast : FileZoo::Beasts()) {
    const auto file = MappedFile::Open((zoo_.*beast.make)("f"), kLarge);
    ASSERT_FALSE(file.ok()) << beast.kind;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(beast.says)) << beast.kind;
  }
  EXPECT_THAT(std::string(MappedFile::Open(zoo_.Empty("f"), kLarge).status().message()),
              HasSubstr("is empty"));
}

TEST_F(MappedFileTest, TruncatedInPlaceReadsZerosAndIsReported) {
  const std::string path = Pages("f", 8);
  const auto file = Open(path);
  FileZoo::Truncate(path, 3 * page_);
  EXPECT_EQ(Count(*file, 'x'), 3 * page_);
  EXPECT_EQ(Count(*file, '\0'), 5 * page_);
  EXPECT_THAT(std::string(file->CheckIntact().message()),
              ::testing::AllOf(HasSubstr(path), HasSubstr("became shorter")));
}

TEST_F(MappedFileTest, BytesThatWereLostStayReportedWhenTheFileHasItsLengthAgain) {
  const std::string path = Pages("f", 4);
  const auto file = Open(path);
  FileZoo::Truncate(path, 0);
  EXPECT_EQ(Count(*file, '\0'), 4 * page_);
  FileZoo::Truncate(path, 4 * page_);
  EXPECT_FALSE(file->CheckIntact().ok());
}

TEST_F(MappedFileTest, AChangeInPlaceIsReported) {
  const std::string path = zoo_.File("f", "abc");
  const auto file = Open(path);
  FileZoo::Truncate(path, 10);
  EXPECT_THAT(std::string(file->CheckIntact().message()), HasSubstr("changed while"));
}

TEST_F(MappedFileTest, OneFileOfManyIsLost) {
  std::vector<std::unique_ptr<MappedFile>> files;
  for (int i = 0; i < 5; ++i) files.push_back(Open(Pages("f" + std::to_string(i), 4)));
  files[1].reset();  // its range is used again
  files.push_back(Open(Pages("again", 4)));
  FileZoo::Truncate(zoo_.Path("f3"), 0);
  FileZoo::Truncate(zoo_.Path("again"), page_);
  EXPECT_EQ(Count(*files[3], 'x'), 0);
  EXPECT_EQ(Count(*files[5], 'x'), page_);
  for (const int intact : {0, 2, 4}) {
    EXPECT_EQ(Count(*files[intact], 'x'), 4 * page_);
    EXPECT_TRUE(files[intact]->CheckIntact().ok());
  }
  for (const int lost : {3, 5}) EXPECT_FALSE(files[lost]->CheckIntact().ok());
}

TEST_F(MappedFileTest, ThreadsReadWhileTheFileIsTruncated) {
  const std::string path = Pages("f", 512);
  const auto file = Open(path);
  constexpr size_t kThreads = 3;
  std::atomic<bool> stop{false};
  std::array<std::atomic<int64_t>, kThreads> passes{};
  std::vector<std::thread> threads;
  for (std::atomic<int64_t>& pass : passes) {
    threads.emplace_back([&] {
      for (; !stop; ++pass) {
        int64_t num_other = 0;
        for (const char of : file->bytes()) num_other += of == 'x' || of == '\0' ? 0 : 1;
        EXPECT_EQ(num_other, 0);
      }
    });
  }
  const auto await_passes = [&](int64_t more) {
    for (std::atomic<int64_t>& pass : passes) {
      const int64_t end = pass + more;
      while (pass < end) std::this_thread::yield();
    }
  };
  await_passes(1);
  for (int64_t pages = 448; pages >= 0; pages -= 64) FileZoo::Truncate(path, pages * page_);
  await_passes(2);  // the first of them may have begun before the last truncation
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Count(*file, '\0'), 512 * page_);
  EXPECT_FALSE(file->CheckIntact().ok());
}

TEST_F(MappedFileTest, OtherBusErrorsEndTheProcess) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto file = Open(Pages("f", 1));
  EXPECT_DEATH(std::raise(SIGBUS), "");
  const std::string path = Pages("other", 1);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const auto* const other = static_cast<const volatile char*>(
      mmap(nullptr, static_cast<size_t>(page_), PROT_READ, MAP_PRIVATE, fd, 0));
  FileZoo::Truncate(path, 0);
  EXPECT_DEATH(static_cast<void>(*other), "");
}

}  // namespace
}  // namespace tessera

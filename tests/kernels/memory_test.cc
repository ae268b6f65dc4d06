// Tests of the available memory and of the limit of threads, with folders that imitate those of the
// Linux kernel, and with real limits of child processes.
#include "kernels/base/memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "kernels/base/thread_limit.h"
#include "tests/lib/sanitizers.h"

namespace tessera {
namespace {

constexpr int64_t kMib = 1 << 20;

class MemoryTest : public ::testing::Test {
 protected:
  MemoryTest() {
    std::string name = (std::filesystem::temp_directory_path() / "tessera_memory_XXXXXX").string();
    root_ = mkdtemp(name.data());
    files_ = {{root_ + "/cgroup", root_ + "/own"}, root_ + "/meminfo", root_ + "/status"};
    Write("meminfo", "MemTotal: 9000000 kB\nMemAvailable: 1024000 kB");
  }
  ~MemoryTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) const {
    const std::filesystem::path whole = std::filesystem::path(root_) / path;
    std::filesystem::create_directories(whole.parent_path());
    std::ofstream(whole) << text << "\n";
  }
  void ExpectBound(int64_t mib, const std::string& bound) const {
    const AvailableMemory memory = FindAvailableMemory(files_);
    EXPECT_EQ(memory.bytes, mib * kMib);
    EXPECT_EQ(memory.bound, bound);
  }

  std::string root_;
  MemoryFiles files_;
};

TEST_F(MemoryTest, WithoutGroupsTheMachineBinds) { ExpectBound(1000, "the machine's free memory"); }

TEST_F(MemoryTest, TheTightestGroupOnThePathBinds) {
  Write("own", "4:memory:/elsewhere\n0::/box/task");
  Write("cgroup/elsewhere/memory.max", "1");
  Write("cgroup/elsewhere/memory.current", "0");
  Write("cgroup/box/task/memory.max", "max");
  Write("cgroup/box/task/memory.current", "104857600");
  ExpectBound(1000, "the machine's free memory");
  Write("cgroup/box/memory.max", "524288000");
  Write("cgroup/box/memory.current", "104857600");
  ExpectBound(400, "memory.max of " + root_ + "/cgroup/box");
  Write("cgroup/box/task/memory.max", "209715200");
  ExpectBound(100, "memory.max of " + root_ + "/cgroup/box/task");
  Write("cgroup/box/task/memory.high", "157286400");
  ExpectBound(50, "memory.high of " + root_ + "/cgroup/box/task");
}

TEST_F(MemoryTest, APageCacheIsFreeAndSharedMemoryIsNot) {
  Write("cgroup/memory.max", "524288000");
  Write("cgroup/memory.current", "419430400");
  ExpectBound(100, "memory.max of " + root_ + "/cgroup");
  Write("cgroup/memory.stat", "anon 104857600\nfile 314572800\nshmem 104857600");
  ExpectBound(300, "memory.max of " + root_ + "/cgroup");
}

TEST_F(MemoryTest, GroupsOfVersionOneBind) {
  Write("own", "7:cpu,cpuacct:/elsewhere\n4:hugetlb,memory:/box/task\n0::/");
  Write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
  Write("cgroup/memory/memory.usage_in_bytes", "104857600");
  Write("cgroup/memory/elsewhere/memory.limit_in_bytes", "1");
  Write("cgroup/memory/elsewhere/memory.usage_in_bytes", "0");
  ExpectBound(1000, "the machine's free memory");
  Write("cgroup/memory/box/memory.limit_in_bytes", "314572800");
  Write("cgroup/memory/box/memory.usage_in_bytes", "209715200");
  Write("cgroup/memory/box/memory.stat", "total_cache 104857600\ntotal_shmem 52428800");
  ExpectBound(150, "memory.limit_in_bytes of " + root_ + "/cgroup/memory/box");
}

// A group that uses more than its limit, as after the limit was lowered, leaves nothing.
TEST_F(MemoryTest, AnExceededLimitLeavesNothing) {
  Write("cgroup/memory.max", "104857600");
  Write("cgroup/memory.current", "209715200");
  ExpectBound(0, "memory.max of " + root_ + "/cgroup");
}

TEST_F(MemoryTest, NumbersThatCannotBeReadAreNoLimit) {
  Write("cgroup/memory.max", "nonsense");
  Write("cgroup/memory.current", "0");
  ExpectBound(1000, "the machine's free memory");
  Write("meminfo", "MemAvailable: none");
  EXPECT_EQ(FindAvailableMemory(files_).bytes, INT64_MAX);
}

// Sets a limit of this process and exits with 0 if `memory` is what the limit leaves above a
// reserve of 512 MiB.
[[noreturn]] void ExpectLimit(__rlimit_resource_t resource, const MemoryFiles& files,
                              const std::string& bound) {
  const rlimit limit = {static_cast<rlim_t>(900 * kMib), static_cast<rlim_t>(900 * kMib)};
  if (setrlimit(resource, &limit) != 0) _exit(1);
  const AvailableMemory memory = FindAvailableMemory(files);
  _exit(memory.bytes == 288 * kMib && memory.bound == bound ? 0 : 2);
}

TEST_F(MemoryTest, LimitsOfTheProcessBind) {
  if (testing::kSanitized) {
    GTEST_SKIP() << "sanitizers reserve terabytes of address space, which the limit forbids";
  }
  Write("status", "VmSize:\t 102400 kB\nVmData:\t 102400 kB");
  EXPECT_EXIT(ExpectLimit(RLIMIT_AS, files_, "the limit of address space, ulimit -v"),
              ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(ExpectLimit(RLIMIT_DATA, files_, "the limit of data, ulimit -d"),
              ::testing::ExitedWithCode(0), "");
}

TEST_F(MemoryTest, ThisProcessHasSome) { EXPECT_GT(FindAvailableMemory().bytes, kMib); }

// A limit of threads does not bind root, so root becomes another user first.
[[noreturn]] void ExpectFewThreads() {
  constexpr uid_t kNobody = 65534;
  if (getuid() == 0 && setuid(kNobody) != 0) _exit(3);
  const rlimit none = {1, 1};
  if (setrlimit(RLIMIT_NPROC, &none) != 0) _exit(4);
  const absl::Status status = CheckThreads(8);
  const bool named = status.message().find("but needs 8") != std::string::npos &&
                     status.message().find("ulimit -u") != std::string::npos;
  _exit(status.code() == absl::StatusCode::kResourceExhausted && named ? 0 : 2);
}

TEST(ThreadLimitTest, ThreadsThatTheSystemRefusesAreAnError) {
  EXPECT_TRUE(CheckThreads(0).ok());
  EXPECT_TRUE(CheckThreads(20).ok());
  EXPECT_EXIT(ExpectFewThreads(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace tessera

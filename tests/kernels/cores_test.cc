// Tests of the default number of threads, with folders that imitate those of the Linux kernel.
#include "kernels/base/cores.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace tessera {
namespace {

class CoresTest : public ::testing::Test {
 protected:
  CoresTest() {
    std::string name = (std::filesystem::temp_directory_path() / "tessera_cores_XXXXXX").string();
    root_ = mkdtemp(name.data());
    files_ = {root_ + "/cpu", {root_ + "/cgroup", root_ + "/own"}};
  }
  ~CoresTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) const {
    const std::filesystem::path whole = std::filesystem::path(root_) / path;
    std::filesystem::create_directories(whole.parent_path());
    std::ofstream(whole) << text << "\n";
  }
  void AddProcessor(int processor, const std::string& siblings,
                    const std::string& file = "core_cpus_list") const {
    Write("cpu/cpu" + std::to_string(processor) + "/topology/" + file, siblings);
  }
  // Two packages of two cores with two threads each: processors i and i + 4 share a core.
  void AddEightThreads() const {
    for (int i = 0; i < 8; ++i) {
      AddProcessor(i, std::to_string(i % 4) + "," + std::to_string(i % 4 + 4));
    }
  }

  std::string root_;
  CoreFiles files_;
};

const std::vector<int> kEight = {0, 1, 2, 3, 4, 5, 6, 7};

TEST_F(CoresTest, TwinsAreOneCore) {
  AddEightThreads();
  EXPECT_EQ(NumCores(kEight, files_), 4);
}

TEST_F(CoresTest, OnlyProcessorsOfTheMaskCount) {
  AddEightThreads();
  EXPECT_EQ(NumCores({1, 5}, files_), 1);
  EXPECT_EQ(NumCores({1, 6}, files_), 2);
}

TEST_F(CoresTest, TheOldNameOfTheFileIsReadToo) {
  AddProcessor(0, "0-1", "thread_siblings_list");
  AddProcessor(1, "0-1", "thread_siblings_list");
  EXPECT_EQ(NumCores({0, 1}, files_), 1);
}

TEST_F(CoresTest, WithoutTopologyEveryProcessorCounts) {
  EXPECT_EQ(NumCores(kEight, files_), 8);
  EXPECT_EQ(NumCores({}, files_), 1);
}

TEST_F(CoresTest, AQuotaIsRoundedUpAndNeverLiftsTheCount) {
  Write("cgroup/cpu.max", "250000 100000");
  EXPECT_EQ(NumCores(kEight, files_), 3);
  EXPECT_EQ(NumCores({0, 1}, files_), 2);
  Write("cgroup/cpu.max", "10000 100000");
  EXPECT_EQ(NumCores(kEight, files_), 1);
  Write("cgroup/cpu.max", "max 100000");
  EXPECT_EQ(NumCores(kEight, files_), 8);
  Write("cgroup/cpu.max", "nonsense");
  EXPECT_EQ(NumCores(kEight, files_), 8);
}

TEST_F(CoresTest, TheTightestGroupOnThePathBinds) {
  Write("own", "4:memory:/elsewhere\n0::/box/task");
  Write("cgroup/box/cpu.max", "200000 100000");
  Write("cgroup/box/task/cpu.max", "500000 100000");
  Write("cgroup/elsewhere/cpu.max", "100000 100000");
  EXPECT_EQ(NumCores(kEight, files_), 2);
  Write("cgroup/box/cpu.max", "max 100000");
  EXPECT_EQ(NumCores(kEight, files_), 5);
}

TEST_F(CoresTest, QuotasOfVersionOneCount) {
  Write("own", "3:cpu,cpuacct:/box/task\n4:memory:/elsewhere\n0::/");
  Write("cgroup/cpu/box/cpu.cfs_quota_us", "300000");
  Write("cgroup/cpu/box/cpu.cfs_period_us", "100000");
  Write("cgroup/cpu/box/task/cpu.cfs_quota_us", "-1");
  Write("cgroup/cpu/box/task/cpu.cfs_period_us", "100000");
  Write("cgroup/cpu/elsewhere/cpu.cfs_quota_us", "100000");
  Write("cgroup/cpu/elsewhere/cpu.cfs_period_us", "100000");
  EXPECT_EQ(NumCores(kEight, files_), 3);
}

TEST_F(CoresTest, ThisProcessHasSomeAndNoMoreThanItsMask) {
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  EXPECT_GE(NumUsableCores(), 1);
  EXPECT_LE(NumUsableCores(), CPU_COUNT(&set));
}

}  // namespace
}  // namespace tessera

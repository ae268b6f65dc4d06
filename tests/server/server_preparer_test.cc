// Tests of the preparer of large requests: the order of jobs, dropped jobs, and the size limit.
#include "server/call/preparer.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "kernels/base/clock.h"

namespace tessera {
namespace {

// Keeps the preparer's thread busy until the gate is opened.
class Gate {
 public:
  std::function<void()> Job() {
    return [this] {
      std::unique_lock<std::mutex> lock(mutex_);
      reached_ = true;
      changed_.notify_all();
      changed_.wait(lock, [this] { return open_; });
    };
  }
  void WaitUntilReached() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return reached_; });
  }
  void Open() {
    std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reached_ = false;
  bool open_ = false;
};

class PreparerTest : public ::testing::Test {
 protected:
  void Start(int64_t max_bytes) {
    preparer_ = std::make_unique<Preparer>(max_bytes, &clock_);
    preparer_->Submit(1, gate_.Job());
    gate_.WaitUntilReached();
  }
  std::optional<Preparer::Ticket> Submit(int64_t bytes, int name) {
    return preparer_->Submit(bytes, [this, name] {
      std::lock_guard<std::mutex> lock(mutex_);
      order_.push_back(name);
      changed_.notify_all();
    });
  }
  std::vector<int> OrderOf(size_t count) {
    gate_.Open();
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return order_.size() >= count; });
    return order_;
  }

  ManualClock clock_;
  Gate gate_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int> order_;
  std::unique_ptr<Preparer> preparer_;
};

TEST_F(PreparerTest, SmallRequestsGoFirst) {
  Start(int64_t{1} << 30);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Submit(2 << 20, i));
  EXPECT_TRUE(Submit(17 << 10, 100));
  EXPECT_TRUE(Submit(18 << 10, 101));
  EXPECT_TRUE(Submit(17 << 10, 102));
  EXPECT_EQ(OrderOf(8), (std::vector<int>{100, 102, 101, 0, 1, 2, 3, 4}));
}

TEST_F(PreparerTest, ALargeRequestHasItsTurnToo) {
  Start(int64_t{1} << 30);
  EXPECT_TRUE(Submit(1 << 20, 0));
  clock_.Advance(5'000'000);
  EXPECT_TRUE(Submit(17 << 10, 1));  // overtakes job 0
  clock_.Advance(10'000'000);
  EXPECT_TRUE(Submit(17 << 10, 2));  // 15 s later than job 0, too late to overtake it
  EXPECT_EQ(OrderOf(3), (std::vector<int>{1, 0, 2}));
}

TEST_F(PreparerTest, WhatIsOverIsDroppedAndMakesRoom) {
  Start(100);
  const auto first = Submit(60, 0);
  ASSERT_TRUE(first);
  EXPECT_FALSE(Submit(60, 1));
  EXPECT_TRUE(preparer_->Cancel(*first));
  EXPECT_FALSE(preparer_->Cancel(*first));
  const auto second = Submit(60, 2);
  ASSERT_TRUE(second);
  EXPECT_EQ(OrderOf(1), (std::vector<int>{2}));
  EXPECT_FALSE(preparer_->Cancel(*second));
}

TEST_F(PreparerTest, OneRequestAlwaysFits) {
  preparer_ = std::make_unique<Preparer>(100, &clock_);
  EXPECT_TRUE(Submit(1000, 0));
  EXPECT_EQ(OrderOf(1), (std::vector<int>{0}));
}

TEST_F(PreparerTest, TheEndWaitsForTheRunningJobOnly) {
  Start(int64_t{1} << 30);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Submit(100, i));
  Preparer* const lane = preparer_.get();
  std::thread closer([this] { preparer_.reset(); });
  // The preparer accepts no job after its destructor has started.
  std::optional<Preparer::Ticket> ticket;
  while ((ticket = lane->Submit(100, [] { ADD_FAILURE() << "ran after the end"; }))) {
    lane->Cancel(*ticket);
  }
  gate_.Open();
  closer.join();
  EXPECT_TRUE(order_.empty());
}

}  // namespace
}  // namespace tessera

// Tests of the bound on unary replies that clients have not read.
#include "server/call/unread_replies.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace tessera {
namespace {

class UnreadRepliesTest : public ::testing::Test {
 protected:
  std::shared_ptr<UnreadReplies::Reply> Add(const std::string& client, int64_t bytes) {
    clock_.Advance(10);  // so that the replies before are old enough
    return unread_.Add(client, bytes, [this, client] { cancelled_.push_back(client); });
  }

  std::vector<std::string> dropped_;
  std::vector<std::string> cancelled_;
  ManualClock clock_;
  UnreadReplies unread_{
      {.max_bytes = 100, .patience_us = 10}, &clock_, [this](const UnreadReplies::Drop& drop) {
        dropped_.push_back(drop.client + " " + std::to_string(drop.bytes));
      }};
};

TEST_F(UnreadRepliesTest, RepliesThatFitStay) {
  const auto first = Add("a", 60);
  const auto second = Add("b", 40);
  EXPECT_EQ(unread_.bytes(), 100);
  unread_.Remove(first);
  const auto third = Add("b", 60);
  EXPECT_EQ(unread_.bytes(), 100);
  unread_.Remove(second);
  unread_.Remove(third);
  EXPECT_EQ(unread_.bytes(), 0);
  EXPECT_TRUE(cancelled_.empty());
}

TEST_F(UnreadRepliesTest, TheClientWithTheMostBytesLosesItsOldest) {
  const auto old_of_b = Add("b", 25);
  const auto first = Add("a", 21);
  const auto second = Add("a", 22);
  const auto third = Add("a", 23);
  const auto newest = Add("b", 30);
  EXPECT_EQ(dropped_, (std::vector<std::string>{"a 21"}));
  EXPECT_EQ(cancelled_, (std::vector<std::string>{"a"}));
  EXPECT_EQ(unread_.bytes(), 100);
  unread_.Remove(first);  // it is not discounted twice
  EXPECT_EQ(unread_.bytes(), 100);
  for (const auto& each : {old_of_b, second, third, newest}) unread_.Remove(each);
  EXPECT_EQ(unread_.bytes(), 0);
}

TEST_F(UnreadRepliesTest, WhatIsBeingReadStaysUnlessThereIsFarTooMuch) {
  const auto young = [this](const std::string& client, int64_t bytes) {
    return unread_.Add(client, bytes, [this, client] { cancelled_.push_back(client); });
  };
  const auto small = young("b", 30);
  clock_.Advance(9);
  const auto first = young("a", 90);
  const auto second = young("a", 270);
  EXPECT_EQ(unread_.bytes(), 390);
  EXPECT_TRUE(dropped_.empty());
  clock_.Advance(1);
  const auto third = young("a", 1);
  EXPECT_EQ(dropped_, std::vector<std::string>{"b 30"}) << "the only one that has waited for long";
  const auto fourth = young("a", 40);
  EXPECT_EQ(dropped_, (std::vector<std::string>{"b 30", "a 90"})) << "more than four times 100";
  EXPECT_EQ(unread_.bytes(), 311);
}

TEST_F(UnreadRepliesTest, SeveralMakeRoomForALargeOne) {
  std::vector<std::shared_ptr<UnreadReplies::Reply>> replies;
  for (int i = 0; i < 10; ++i) replies.push_back(Add("a", 10));
  replies.push_back(Add("b", 35));
  EXPECT_EQ(dropped_, (std::vector<std::string>{"a 10", "a 10", "a 10", "a 10"}));
  EXPECT_EQ(unread_.bytes(), 95);
}

TEST_F(UnreadRepliesTest, TheNewestIsSentEvenIfItIsLargerThanTheBound) {
  const auto small = Add("b", 10);
  const auto large = Add("a", 1000);
  EXPECT_TRUE(cancelled_.empty());
  const auto next = Add("b", 1);
  EXPECT_EQ(dropped_, (std::vector<std::string>{"a 1000"}));
  EXPECT_EQ(unread_.bytes(), 11);
}

TEST_F(UnreadRepliesTest, ACancelMayRemoveItsReply) {
  std::shared_ptr<UnreadReplies::Reply> first;
  first = unread_.Add("a", 90, [&] { unread_.Remove(first); });
  const auto second = Add("b", 20);
  EXPECT_EQ(unread_.bytes(), 20);
}

TEST_F(UnreadRepliesTest, ARemovedReplyIsNeverCancelled) {
  UnreadReplies unread({.max_bytes = 5'000, .patience_us = 0}, &clock_,
                       [](const UnreadReplies::Drop&) {});
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&unread, client] {
      for (int i = 0; i < 3'000; ++i) {
        auto is_open = std::make_unique<int>(1);
        const auto reply = unread.Add(std::to_string(client), 1'000 + i % 700,
                                      [open = is_open.get()] { ++*open; });
        if (i % 3 == 0) std::this_thread::yield();
        unread.Remove(reply);
        is_open.reset();  // a later cancel would be a use after free
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(unread.bytes(), 0);
}

}  // namespace
}  // namespace tessera

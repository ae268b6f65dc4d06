// The way into a thread: order, waking, and what a patient receiver waits for.
#include "kernels/base/mailbox.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace tessera {
namespace {

using Ints = std::vector<int>;
constexpr int64_t kForeverUs = 600'000'000;

TEST(MailboxTest, TakesAllInOrder) {
  Mailbox<int> box;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(box.Send(i));
  Ints out;
  EXPECT_TRUE(box.Drain(&out, -1));
  EXPECT_EQ(out, Ints({0, 1, 2}));
  EXPECT_TRUE(box.Drain(&out, 0));
  EXPECT_TRUE(out.empty());
  box.Send(3);
  box.Close();
  EXPECT_FALSE(box.Send(4));
  EXPECT_TRUE(box.Drain(&out, -1));
  EXPECT_EQ(out, Ints({3}));
  EXPECT_FALSE(box.Drain(&out, -1));
}

TEST(MailboxTest, AnUrgentMessageEndsPatience) {
  Mailbox<int> box;
  Ints out;
  std::thread receiver([&] { box.Drain(&out, -1, kForeverUs); });
  box.Send(1);
  box.Send(2);
  box.Send(3, /*urgent=*/true);
  receiver.join();
  EXPECT_EQ(out, Ints({1, 2, 3}));  // however late the receiver came
}

TEST(MailboxTest, AnUrgentMessageThatIsThereIsNotWaitedFor) {
  Mailbox<int> box;
  box.Send(1, /*urgent=*/true);
  Ints out;
  EXPECT_TRUE(box.Drain(&out, -1, kForeverUs));
  EXPECT_EQ(out, Ints({1}));
}

TEST(MailboxTest, OrdinaryMessagesComeWhenPatienceEnds) {
  Mailbox<int> box;
  box.Send(1);
  Ints out;
  EXPECT_TRUE(box.Drain(&out, -1, /*patience_us=*/1000));
  EXPECT_EQ(out, Ints({1}));
  // Urgency does not outlive its message.
  box.Send(2, /*urgent=*/true);
  EXPECT_TRUE(box.Drain(&out, 0));
  EXPECT_TRUE(box.Drain(&out, /*timeout_us=*/500, /*patience_us=*/1000));
  EXPECT_TRUE(out.empty());
}

TEST(MailboxTest, CloseEndsPatience) {
  Mailbox<int> box;
  Ints out;
  bool open = true;
  std::thread receiver([&] { open = box.Drain(&out, -1, kForeverUs); });
  box.Close();
  receiver.join();
  EXPECT_FALSE(open);
}

}  // namespace
}  // namespace tessera

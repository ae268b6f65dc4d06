// Tests of one connection without a door: the test holds the other ends of both sockets and tells
// the time.
#include "server/door/connection.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "tests/lib/hostile_http2.h"

namespace tessera::testing {
namespace {

// A connection with one request that has arrived in part.
class ConnectionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    constexpr int kType = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    ASSERT_EQ(socketpair(AF_UNIX, kType, 0, client_.data()), 0);
    ASSERT_EQ(socketpair(AF_UNIX, kType, 0, server_.data()), 0);
    connection_ = std::make_unique<Connection>(client_[1], server_[1], PeerAddress{}, GuardLimits{},
                                               kBeginUs);
    const std::string call = Http2Hello() + Frame(FrameType::kHeaders, kFlagEndHeaders, 1, "block");
    SendFromClient(call);
    ASSERT_EQ(ReceiveAtServer(), call);
  }
  void TearDown() override {
    close(client_[0]);
    close(server_[0]);
  }
  // The client sends, and the connection reads.
  void SendFromClient(const std::string& bytes) {
    ASSERT_EQ(send(client_[0], bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
    EXPECT_EQ(connection_->OnClient(EPOLLIN, kChunkBytes, scratch_.data(), kBeginUs),
              Connection::Result::kOpen);
  }
  // Returns what the server receives at once.
  std::string ReceiveAtServer() {
    std::string bytes(kChunkBytes, '\0');
    const ssize_t received = recv(server_[0], bytes.data(), bytes.size(), 0);
    bytes.resize(received > 0 ? static_cast<size_t>(received) : 0);
    return bytes;
  }
  bool ReadsClient() const { return (connection_->client_events() & EPOLLIN) != 0; }
  // The client may take kRequestTimeUs, and `unread_us` in which the connection did not read it.
  void ExpectDeferredBy(int64_t unread_us) {
    ASSERT_TRUE(ReadsClient());
    EXPECT_EQ(connection_->OnTime(kBeginUs + unread_us + kRequestTimeUs),
              Connection::Result::kOpen);
    EXPECT_EQ(connection_->OnTime(kBeginUs + unread_us + kRequestTimeUs + 1),
              Connection::Result::kGuarded);
    EXPECT_EQ(connection_->close_reason(), CloseReason::kRequestTime);
  }

  static constexpr int64_t kBeginUs = 1'000'000'000;
  static constexpr int64_t kUnreadUs = 200'000'000;
  // The test's end and the connection's end of each pair.
  std::array<int, 2> client_ = {-1, -1};
  std::array<int, 2> server_ = {-1, -1};
  std::unique_ptr<Connection> connection_;
  std::string scratch_ = std::string(kChunkBytes, '\0');
};

TEST_F(ConnectionTest, APauseIsNotTheClientsTime) {
  connection_->SetPaused(true, kBeginUs);
  EXPECT_FALSE(ReadsClient());
  EXPECT_EQ(connection_->OnTime(kBeginUs + kUnreadUs / 2), Connection::Result::kOpen);
  connection_->SetPaused(false, kBeginUs + kUnreadUs);
  ExpectDeferredBy(kUnreadUs);
}

TEST_F(ConnectionTest, TheTimeOfAServerThatDoesNotReadIsNotTheClients) {
  const std::string data = Frame(FrameType::kData, 0, 1, std::string(16'000, 'd'));
  for (int i = 0; ReadsClient(); ++i) {
    ASSERT_LT(i, 1000);
    SendFromClient(data);
  }
  EXPECT_EQ(connection_->OnTime(kBeginUs + kUnreadUs / 2), Connection::Result::kOpen);
  while (!ReadsClient()) {
    ASSERT_FALSE(ReceiveAtServer().empty());
    EXPECT_EQ(connection_->OnServer(EPOLLOUT, scratch_.data(), kBeginUs + kUnreadUs),
              Connection::Result::kOpen);
  }
  ExpectDeferredBy(kUnreadUs);
}

TEST_F(ConnectionTest, AFloodIsJudgedAlsoAfterTheServerHasEnded) {
  shutdown(server_[0], SHUT_RDWR);
  EXPECT_EQ(connection_->OnServer(EPOLLIN, scratch_.data(), kBeginUs), Connection::Result::kOpen);
  ASSERT_EQ(connection_->server_fd(), -1);
  const std::string ping = Frame(FrameType::kPing, 0, 0, "01234567");
  auto result = Connection::Result::kOpen;
  for (int i = 0; result == Connection::Result::kOpen; ++i) {
    ASSERT_LT(i, 1000);
    ASSERT_GT(send(client_[0], ping.data(), ping.size(), MSG_NOSIGNAL), 0);
    result = connection_->OnClient(EPOLLIN, kChunkBytes, scratch_.data(), kBeginUs);
  }
  EXPECT_EQ(result, Connection::Result::kGuarded);
  EXPECT_EQ(connection_->close_reason(), CloseReason::kPings);
}

}  // namespace
}  // namespace tessera::testing

// Tests of one connection without a door: the test holds the other ends of both sockets and tells
// the time. Most tests run without TLS and with it.
#include "server/door/connection.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/lib/hostile_http2.h"
#include "tests/lib/tls_client.h"

namespace tessera::testing {
namespace {

constexpr int64_t kBeginUs = 1'000'000'000;
constexpr int64_t kUnreadUs = 200'000'000;

class ConnectionFixture : public ::testing::Test {
 protected:
  // `encrypted`: the connection has TLS, whose handshake has not begun.
  explicit ConnectionFixture(bool encrypted) {
    if (encrypted) tls_ = std::make_unique<TlsPair>();
  }
  void SetUp() override {
    constexpr int kType = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    ASSERT_EQ(socketpair(AF_UNIX, kType, 0, client_.data()), 0);
    ASSERT_EQ(socketpair(AF_UNIX, kType, 0, server_.data()), 0);
    std::unique_ptr<TlsStream> stream;
    if (tls_ != nullptr) {
      stream = std::make_unique<TlsStream>(tls_->server, kBeginUs);
      tls_client_ = std::make_unique<TlsClient>(tls_->client);
    }
    connection_ = std::make_unique<Connection>(client_[1], server_[1], PeerAddress{}, GuardLimits{},
                                               &scratch_, std::move(stream), kBeginUs);
  }
  void TearDown() override {
    connection_.reset();
    for (const int fd : {client_[0], server_[0]}) {
      if (fd >= 0) close(fd);
    }
  }

  // The client sends these bytes as they are, and the connection reads.
  Connection::Result SendWire(const std::string& bytes, int64_t now_us = kBeginUs) {
    EXPECT_EQ(send(client_[0], bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
    return connection_->OnClient(EPOLLIN, kChunkBytes, now_us);
  }
  // The same, encrypted if the connection has TLS.
  Connection::Result Send(const std::string& bytes, int64_t now_us = kBeginUs) {
    if (tls_client_ == nullptr) return SendWire(bytes, now_us);
    tls_client_->Send(bytes);
    return SendWire(tls_client_->TakeWire(), now_us);
  }
  // What an end of a pair receives at once.
  static std::string ReceiveAt(int fd) {
    std::string bytes(4 * kChunkBytes, '\0');
    const ssize_t received = recv(fd, bytes.data(), bytes.size(), 0);
    bytes.resize(received > 0 ? static_cast<size_t>(received) : 0);
    return bytes;
  }
  std::string ReceiveAtServer() const { return ReceiveAt(server_[0]); }
  // Decrypted if the connection has TLS.
  std::string ReceiveAtClient() const {
    const std::string wire = ReceiveAt(client_[0]);
    return tls_client_ == nullptr ? wire : tls_client_->Receive(wire);
  }
  // The client's part of the handshake, until it has nothing more to send.
  void Handshake(int64_t now_us = kBeginUs) {
    for (std::string wire = tls_client_->TakeWire(); !wire.empty();
         wire = tls_client_->TakeWire()) {
      ASSERT_EQ(SendWire(wire, now_us), Connection::Result::kOpen);
      EXPECT_EQ(ReceiveAtClient(), "");
    }
    ASSERT_FALSE(connection_->in_handshake());
  }
  bool ReadsClient() const { return (connection_->client_events() & EPOLLIN) != 0; }
  void ExpectGuarded(Connection::Result result, CloseReason reason) const {
    EXPECT_EQ(result, Connection::Result::kGuarded);
    EXPECT_EQ(CloseReasonName(connection_->close_reason()), CloseReasonName(reason))
        << connection_->close_detail();
  }

  std::unique_ptr<TlsPair> tls_;  // null: without TLS
  std::unique_ptr<TlsClient> tls_client_;
  // The test's end and the connection's end of each pair.
  std::array<int, 2> client_ = {-1, -1};
  std::array<int, 2> server_ = {-1, -1};
  ConnectionScratch scratch_;
  std::unique_ptr<Connection> connection_;
};

// A connection with one request that has arrived in part.
class ConnectionTest : public ConnectionFixture, public ::testing::WithParamInterface<bool> {
 protected:
  ConnectionTest() : ConnectionFixture(GetParam()) {}
  void SetUp() override {
    ConnectionFixture::SetUp();
    if (tls_ != nullptr) Handshake();
    const std::string call = Http2Hello() + Frame(FrameType::kHeaders, kFlagEndHeaders, 1, "block");
    SendFromClient(call);
    ASSERT_EQ(ReceiveAtServer(), call);
  }
  // The client sends, and the connection reads.
  void SendFromClient(const std::string& bytes) {
    EXPECT_EQ(Send(bytes), Connection::Result::kOpen);
  }
  // The client may take kRequestTimeUs, and `unread_us` in which the connection did not read it.
  void ExpectDeferredBy(int64_t unread_us) {
    ASSERT_TRUE(ReadsClient());
    EXPECT_EQ(connection_->OnTime(kBeginUs + unread_us + kRequestTimeUs),
              Connection::Result::kOpen);
    ExpectGuarded(connection_->OnTime(kBeginUs + unread_us + kRequestTimeUs + 1),
                  CloseReason::kRequestTime);
  }
};

INSTANTIATE_TEST_SUITE_P(Port, ConnectionTest, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Tls" : "Plain"; });

TEST_P(ConnectionTest, APauseIsNotTheClientsTime) {
  connection_->SetPaused(true, kBeginUs);
  EXPECT_FALSE(ReadsClient());
  EXPECT_EQ(connection_->OnTime(kBeginUs + kUnreadUs / 2), Connection::Result::kOpen);
  connection_->SetPaused(false, kBeginUs + kUnreadUs);
  ExpectDeferredBy(kUnreadUs);
}

TEST_P(ConnectionTest, TheTimeOfAServerThatDoesNotReadIsNotTheClients) {
  const std::string data = Frame(FrameType::kData, 0, 1, std::string(16'000, 'd'));
  for (int i = 0; ReadsClient(); ++i) {
    ASSERT_LT(i, 1000);
    SendFromClient(data);
  }
  EXPECT_EQ(connection_->OnTime(kBeginUs + kUnreadUs / 2), Connection::Result::kOpen);
  while (!ReadsClient()) {
    ASSERT_FALSE(ReceiveAtServer().empty());
    EXPECT_EQ(connection_->OnServer(EPOLLOUT, kBeginUs + kUnreadUs), Connection::Result::kOpen);
  }
  ExpectDeferredBy(kUnreadUs);
}

TEST_P(ConnectionTest, AFloodIsJudgedAlsoAfterTheServerHasEnded) {
  shutdown(server_[0], SHUT_RDWR);
  EXPECT_EQ(connection_->OnServer(EPOLLIN, kBeginUs), Connection::Result::kOpen);
  ASSERT_EQ(connection_->server_fd(), -1);
  const std::string ping = Frame(FrameType::kPing, 0, 0, "01234567");
  auto result = Connection::Result::kOpen;
  for (int i = 0; result == Connection::Result::kOpen; ++i) {
    ASSERT_LT(i, 1000);
    result = Send(ping);
  }
  ExpectGuarded(result, CloseReason::kPings);
}

TEST_P(ConnectionTest, WhatAClientThatDoesNotReadHasNotTakenIsKeptInOrder) {
  const std::string chunk(kChunkBytes, 'c');
  std::string sent;
  while (connection_->server_events() == EPOLLIN) {
    ASSERT_LT(sent.size(), 16 << 20);
    ASSERT_EQ(send(server_[0], chunk.data(), chunk.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(chunk.size()));
    sent += chunk;
    EXPECT_EQ(connection_->OnServer(EPOLLIN, kBeginUs), Connection::Result::kOpen);
  }
  EXPECT_NE(connection_->client_events() & EPOLLOUT, 0U);
  std::string received;
  while (received.size() < sent.size()) {
    const std::string bytes = ReceiveAtClient();
    received += bytes;
    if (connection_->client_events() & EPOLLOUT) {
      EXPECT_EQ(connection_->OnClient(EPOLLOUT, kChunkBytes, kBeginUs), Connection::Result::kOpen);
    }
    if (connection_->server_events() & EPOLLIN) {
      EXPECT_EQ(connection_->OnServer(EPOLLIN, kBeginUs), Connection::Result::kOpen);
    }
    ASSERT_FALSE(bytes.empty());
  }
  EXPECT_EQ(received, sent);
}

TEST_P(ConnectionTest, AClientThatHasEndedStillReads) {
  if (tls_ != nullptr) {
    // What follows the message that the client sends no more is not read.
    tls_client_->End();
    EXPECT_EQ(SendWire(tls_client_->TakeWire() + "anything"), Connection::Result::kOpen);
  } else {
    shutdown(client_[0], SHUT_WR);
    EXPECT_EQ(connection_->OnClient(EPOLLIN, kChunkBytes, kBeginUs), Connection::Result::kOpen);
  }
  EXPECT_FALSE(ReadsClient());
  EXPECT_EQ(ReceiveAtServer(), "");  // the end
  const std::string answer = Frame(FrameType::kData, 0, 1, "answer");
  ASSERT_GT(send(server_[0], answer.data(), answer.size(), MSG_NOSIGNAL), 0);
  EXPECT_EQ(connection_->OnServer(EPOLLIN, kBeginUs), Connection::Result::kOpen);
  EXPECT_EQ(ReceiveAtClient(), answer);
  shutdown(server_[0], SHUT_RDWR);
  EXPECT_EQ(connection_->OnServer(EPOLLIN, kBeginUs), Connection::Result::kGone);
}

// A connection with TLS whose handshake has not begun.
class TlsConnectionTest : public ConnectionFixture {
 protected:
  TlsConnectionTest() : ConnectionFixture(true) {}

  // The client's messages: ClientHello, and what it sends next.
  std::string Hello() { return tls_client_->TakeWire(); }
  std::string Finished() {
    EXPECT_EQ(ReceiveAtClient(), "");
    return tls_client_->TakeWire();
  }
};

TEST_F(TlsConnectionTest, NothingReachesTheServerBeforeTheHandshakeIsOver) {
  std::string wire = Hello();
  for (int flight = 0; flight < 2; ++flight) {
    for (size_t i = 0; i < wire.size(); ++i) {
      EXPECT_TRUE(connection_->in_handshake());
      EXPECT_TRUE(ReadsClient());
      ASSERT_EQ(SendWire(wire.substr(i, 1)), Connection::Result::kOpen) << flight << " " << i;
      EXPECT_EQ(ReceiveAtServer(), "");
    }
    if (flight == 0) wire = Finished();
  }
  EXPECT_FALSE(connection_->in_handshake());
  EXPECT_EQ(Send(Http2Hello()), Connection::Result::kOpen);
  EXPECT_EQ(ReceiveAtServer(), Http2Hello());
  const std::vector<std::string> names = {"client.example.com", "DNS:client.example.com",
                                          "spiffe://cluster/client", "URI:spiffe://cluster/client"};
  EXPECT_EQ(connection_->ClientCertificateNames(), names);
}

TEST_F(TlsConnectionTest, BytesInTheSamePieceAsTheEndOfTheHandshakePass) {
  ASSERT_EQ(SendWire(Hello()), Connection::Result::kOpen);
  std::string wire = Finished();
  tls_client_->Send(Http2Hello());
  wire += tls_client_->TakeWire();
  EXPECT_EQ(SendWire(wire), Connection::Result::kOpen);
  EXPECT_FALSE(connection_->in_handshake());
  EXPECT_EQ(ReceiveAtServer(), Http2Hello());
}

TEST_F(TlsConnectionTest, TheHandshakeHasATimeOfItsOwn) {
  ASSERT_EQ(SendWire(Hello()), Connection::Result::kOpen);
  EXPECT_EQ(connection_->OnTime(kBeginUs + kHandshakeTimeUs), Connection::Result::kOpen);
  ExpectGuarded(connection_->OnTime(kBeginUs + kHandshakeTimeUs + 1), CloseReason::kHandshakeTime);
}

TEST_F(TlsConnectionTest, TheTimeOfTheHandshakeIsNotThatOfThePreface) {
  constexpr int64_t kOpenUs = kBeginUs + kHandshakeTimeUs - 1;
  ASSERT_EQ(SendWire(Hello()), Connection::Result::kOpen);
  ASSERT_EQ(SendWire(Finished(), kOpenUs), Connection::Result::kOpen);
  EXPECT_EQ(connection_->OnTime(kOpenUs + kPrefaceTimeUs), Connection::Result::kOpen);
  ExpectGuarded(connection_->OnTime(kOpenUs + kPrefaceTimeUs + 1), CloseReason::kPrefaceTime);
}

TEST_F(TlsConnectionTest, AClientThatGoesInItsHandshakeIsGone) {
  ASSERT_EQ(SendWire(Hello()), Connection::Result::kOpen);
  shutdown(client_[0], SHUT_WR);
  EXPECT_EQ(connection_->OnClient(EPOLLIN, kChunkBytes, kBeginUs), Connection::Result::kGone);
}

TEST_F(TlsConnectionTest, AFailedHandshakeIsAReasonAndTheClientIsTold) {
  const TlsClientContext old(TlsClientOptions{.ca = tls_->authority.pem(), .only_tls12 = true});
  tls_client_ = std::make_unique<TlsClient>(old);
  ExpectGuarded(SendWire(Hello()), CloseReason::kHandshake);
  EXPECT_EQ(connection_->close_detail(), "unsupported protocol");
  connection_->SendGoAway(CloseReason::kHandshake);
  EXPECT_EQ(ReceiveAtClient(), "");
  EXPECT_EQ(tls_client_->error(), "tlsv1 alert protocol version");
}

TEST_F(TlsConnectionTest, AClientWithoutTlsIsClosed) {
  ExpectGuarded(SendWire(Http2Hello()), CloseReason::kHandshake);
  EXPECT_EQ(connection_->close_detail(), "wrong version number");
  EXPECT_EQ(ReceiveAtServer(), "");
}

TEST_F(TlsConnectionTest, ADamagedRecordEndsTheConnection) {
  Handshake();
  ASSERT_EQ(Send(Http2Hello()), Connection::Result::kOpen);
  tls_client_->Send("damaged");
  std::string wire = tls_client_->TakeWire();
  wire.back() ^= 1;
  ExpectGuarded(SendWire(wire), CloseReason::kTls);
  EXPECT_EQ(ReceiveAtServer(), Http2Hello());  // nothing of the damaged record
  EXPECT_EQ(ReceiveAtClient(), "");
  EXPECT_NE(tls_client_->error(), "");
}

TEST_F(TlsConnectionTest, AServerThatEndsTellsTheClientThatNothingIsMissing) {
  Handshake();
  const std::string last = Frame(FrameType::kGoAway, 0, 0, "01234567");
  ASSERT_GT(send(server_[0], last.data(), last.size(), MSG_NOSIGNAL), 0);
  shutdown(server_[0], SHUT_RDWR);
  EXPECT_EQ(connection_->OnServer(EPOLLIN, kBeginUs), Connection::Result::kOpen);
  EXPECT_EQ(connection_->OnServer(EPOLLIN, kBeginUs), Connection::Result::kOpen);
  EXPECT_EQ(ReceiveAtClient(), last);
  EXPECT_TRUE(tls_client_->ended());
}

TEST_F(TlsConnectionTest, AGoAwayIsEncrypted) {
  Handshake();
  ASSERT_EQ(Send(Http2Hello()), Connection::Result::kOpen);
  connection_->SendGoAway(CloseReason::kIdle);
  const std::string bytes = ReceiveAtClient();
  ASSERT_GT(bytes.size(), 9U);
  EXPECT_EQ(static_cast<FrameType>(bytes[3]), FrameType::kGoAway);
}

// Each change of keys is answered. A client that does not read makes the answers wait here.
TEST_F(TlsConnectionTest, ChangesOfKeysWithoutAnEndAreBounded) {
  Handshake();
  auto result = Connection::Result::kOpen;
  for (int i = 0; result == Connection::Result::kOpen; ++i) {
    ASSERT_LT(i, 100);
    tls_client_->ChangeKeys();
    result = SendWire(tls_client_->TakeWire());
  }
  ExpectGuarded(result, CloseReason::kTls);
}

}  // namespace
}  // namespace tessera::testing

// Tests of the door's TLS: who is in the handshake for how long, when gRPC gets a connection, and
// what changes while the door is open. door_test.cc runs its tests with TLS too.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/clock.h"
#include "server/door/client_names.h"
#include "server/door/connection.h"
#include "server/door/door.h"
#include "server/door/peer.h"
#include "tests/server/door_fixture.h"

namespace tessera::testing {
namespace {

class TlsDoorTest : public DoorFixture {
 protected:
  TlsDoorTest() : DoorFixture(true) {}

  // A client that sends these bytes without TLS.
  std::unique_ptr<HostileHttp2> ConnectRaw(const std::string& bytes) const {
    auto client = Connect(nullptr);
    EXPECT_TRUE(client->Send(bytes));
    return client;
  }
  // The bytes with which a client begins.
  std::string Hello() const { return TlsClient(tls_->client).TakeWire(); }
  std::string HalfHello() const {
    const std::string hello = Hello();
    return hello.substr(0, hello.size() / 2);
  }
  // Passes bytes of a new client with TLS to the server and back.
  void ExpectServed() {
    const auto [client, server] = ConnectBusy();
    const std::string answer = Data(1, 1000);
    ASSERT_EQ(server->SendSome(answer), static_cast<int64_t>(answer.size()));
    EXPECT_EQ(client->Read(answer.size()), answer);
  }
};

TEST_F(TlsDoorTest, SilentClientsAreClosedAndOthersAreServedMeanwhile) {
  constexpr int kNumSilent = 200;  // fewer than the door permits
  ManualClock clock;
  Start({}, "127.0.0.1", &clock);
  std::vector<std::unique_ptr<HostileHttp2>> silent;
  for (int i = 0; i < kNumSilent; ++i) {
    silent.push_back(ConnectRaw(i % 3 == 0 ? "" : i % 3 == 1 ? HalfHello() : Hello()));
  }
  WaitFor("all to be accepted", [this] { return stats_.accepted.value() == kNumSilent; });
  ExpectServed();
  clock.Advance(kHandshakeTimeUs - 1'000'000);
  ExpectServed();
  EXPECT_EQ(Closed(CloseReason::kHandshakeTime), 0);
  clock.Advance(2'500'000);
  WaitFor("all to be closed", [this] { return Closed(CloseReason::kHandshakeTime) == kNumSilent; });
  for (const auto& client : silent) EXPECT_TRUE(client->WaitClosed());
  ExpectServed();
  EXPECT_EQ(num_delivered(), 0U) << "gRPC gets no client in its handshake";
  WaitFor("the end", [this] { return stats_.open.value() == 0; });
  door_.reset();  // it uses the clock
}

// A client at another address, which sends nothing.
int ConnectFrom(const char* own, const std::string& address) {
  const absl::StatusOr<HostPort> server = ParseHostPort(address);
  EXPECT_TRUE(server.ok()) << server.status();
  const auto to_sockaddr = [](const char* host, int port) {
    sockaddr_in found = {};
    found.sin_family = AF_INET;
    found.sin_port = htons(static_cast<uint16_t>(port));
    EXPECT_EQ(inet_pton(AF_INET, host, &found.sin_addr), 1);
    return found;
  };
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in from = to_sockaddr(own, 0);
  const sockaddr_in to = to_sockaddr(server->host.c_str(), server->port);
  EXPECT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&from), sizeof(from)), 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
  return fd;
}

TEST_F(TlsDoorTest, OneAddressDoesNotCloseTheHandshakesOfAnother) {
  constexpr int kMaxHandshakes = 256;  // see door.cc
  constexpr int kMore = 40;
  Start();
  const int other = ConnectFrom("127.0.0.2", door_->address());  // the oldest of all
  WaitFor("it to be accepted", [this] { return stats_.accepted.value() == 1; });
  std::vector<std::unique_ptr<HostileHttp2>> crowd;
  for (int i = 0; i < kMaxHandshakes + kMore - 1; ++i) crowd.push_back(ConnectRaw(""));
  WaitFor("its own to be closed", [this] { return Closed(CloseReason::kHandshakes) == kMore; });
  for (int i = 0; i < kMore; ++i) EXPECT_TRUE(crowd[static_cast<size_t>(i)]->WaitClosed()) << i;
  char byte = 0;
  EXPECT_EQ(recv(other, &byte, 1, MSG_DONTWAIT), -1);
  EXPECT_EQ(errno, EAGAIN) << "the other address is still in its handshake";
  close(other);
}

TEST_F(TlsDoorTest, NothingIsDeliveredBeforeTheHandshakeIsOver) {
  Start();
  TlsClient tls(tls_->client);
  HostileHttp2 client(door_->address());
  ASSERT_TRUE(client.Send(tls.TakeWire()));
  // The server's answer: what the client needs for the rest of its handshake.
  while (!tls.open()) {
    const std::string piece = client.Read(1);
    ASSERT_FALSE(piece.empty());
    tls.Receive(piece);
    ASSERT_EQ(tls.error(), "");
  }
  ExpectServed();  // the door has handled all events of the first client
  EXPECT_EQ(num_delivered(), 0U);
  ASSERT_TRUE(client.Send(tls.TakeWire()));
  const auto server = Next();
  ASSERT_NE(server, nullptr);
  tls.Send(Http2Hello());
  ASSERT_TRUE(client.Send(tls.TakeWire()));
  EXPECT_EQ(server->Read(Http2Hello().size()), Http2Hello());
}

TEST_F(TlsDoorTest, FailedHandshakesAreNotDelivered) {
  Start();
  const TestAuthority other("another authority");
  const TlsClientContext stranger(
      TlsClientOptions{.ca = tls_->authority.pem(), .certificate = other.Sign("DNS:a")});
  EXPECT_TRUE(Connect(&stranger)->WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kHandshake), 1);
  EXPECT_TRUE(ConnectRaw(Http2Hello())->WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kHandshake), 2);
  EXPECT_EQ(num_delivered(), 0U);
  WaitFor("the end", [this] { return stats_.open.value() == 0; });
}

// Load balancers check ports so.
TEST_F(TlsDoorTest, AClientThatGoesInItsHandshakeLeavesNothing) {
  Start();
  for (int i = 0; i < 100; ++i) {
    const auto client = ConnectRaw(i % 2 == 0 ? "" : HalfHello());
    if (i % 3 == 0) client->HalfClose();
    if (i % 3 == 1) client->Reset();
  }
  WaitFor("all to be accepted", [this] { return stats_.accepted.value() == 100; });
  WaitFor("all to be gone", [this] { return stats_.open.value() == 0; });
  for (const auto& closed : stats_.closed) EXPECT_EQ(closed.value(), 0);
}

TEST_F(TlsDoorTest, ANewCertificateIsForNewConnections) {
  Start();
  auto [old_client, old_server] = ConnectBusy();
  const CertifiedKey next = tls_->authority.Sign("DNS:next");
  const TestAuthority next_authority("next authority");
  door_->SetTls(tls_->folder.Load(next, next_authority.pem()));
  // The old client's authority is not known any more; a new client sees the new certificate.
  const TlsClientContext new_client(
      TlsClientOptions{.ca = tls_->authority.pem(), .certificate = next_authority.Sign("DNS:a")});
  const auto client = Connect(&new_client);
  ASSERT_TRUE(client->is_open());
  EXPECT_EQ(client->server_certificate(), next.certificate);
  EXPECT_NE(Next(), nullptr);
  EXPECT_TRUE(Connect()->WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kHandshake), 1);
  // The old connection lives on.
  EXPECT_EQ(old_client->server_certificate(), tls_->server_key.certificate);
  const std::string data = Data(1, 50'000);
  ASSERT_TRUE(old_client->Send(data));
  EXPECT_EQ(old_server->Read(data.size()), data);
  ASSERT_EQ(old_server->SendSome(data), static_cast<int64_t>(data.size()));
  EXPECT_EQ(old_client->Read(data.size()), data);
}

TEST_F(TlsDoorTest, TheNamesOfAClientAreKnownWhileItIsConnected) {
  ClientNames names;
  DoorOptions options;
  options.client_names = &names;
  Start(options);
  auto client = Connect();
  const auto server = Next();
  const uint64_t id = ConnectionOf(server->PeerName());
  const ClientNames::Names found = names.Find(id);
  ASSERT_NE(found, nullptr);
  EXPECT_THAT(*found,
              ::testing::ElementsAre("client.example.com", "DNS:client.example.com",
                                     "spiffe://cluster/client", "URI:spiffe://cluster/client"));
  // Another client has a number and names of its own.
  const CertifiedKey other_key = tls_->authority.Sign("DNS:other");
  const TlsClientContext other_context(
      TlsClientOptions{.ca = tls_->authority.pem(), .certificate = other_key});
  const auto other = Connect(&other_context);
  const auto other_server = Next();
  const uint64_t other_id = ConnectionOf(other_server->PeerName());
  EXPECT_NE(other_id, id);
  EXPECT_THAT(*names.Find(other_id), ::testing::ElementsAre("other", "DNS:other"));
  client->Reset();
  WaitFor("the names to be gone", [&] { return names.Find(id) == nullptr; });
  EXPECT_NE(names.Find(other_id), nullptr);
  EXPECT_EQ(found->size(), 4U);  // who has found them keeps them
  door_->Stop(0);
  EXPECT_EQ(names.Find(other_id), nullptr);
  door_.reset();  // it uses the names
}

TEST_F(TlsDoorTest, AClientWithoutNamesHasNone) {
  ClientNames names;
  DoorOptions options;
  options.client_names = &names;
  TlsFiles files = tls_->folder.Write(tls_->server_key, tls_->authority.pem());
  files.certificate_is_optional = true;
  auto loaded = TlsContext::Load(files);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  options.tls = *std::move(loaded);
  Start(options);
  const TlsClientContext anonymous(TlsClientOptions{.ca = tls_->authority.pem()});
  const auto client = Connect(&anonymous);
  const auto server = Next();
  EXPECT_EQ(names.Find(ConnectionOf(server->PeerName())), nullptr);
  door_.reset();  // it uses the names
}

// gRPC takes no connections any more when the port is closed.
TEST_F(TlsDoorTest, AClosedPortEndsHandshakesAndKeepsOpenConnections) {
  Start();
  auto [client, server] = ConnectBusy();
  TlsClient tls(tls_->client);
  HostileHttp2 late(door_->address());
  ASSERT_TRUE(late.Send(tls.TakeWire()));
  ASSERT_FALSE(late.Read(1).empty());
  door_->StopAccepting();
  EXPECT_TRUE(late.WaitClosed());
  EXPECT_EQ(num_delivered(), 0U);
  const std::string data = Data(1, 1000);
  ASSERT_TRUE(client->Send(data));
  EXPECT_EQ(server->Read(data.size()), data);
  EXPECT_EQ(stats_.open.value(), 1);
}

TEST_F(TlsDoorTest, ClientsInTheirHandshakeCountAndMakeRoom) {
  DoorOptions options;
  options.max_connections = 4;
  options.max_connections_per_address = 4;
  Start(options);
  std::vector<std::unique_ptr<HostileHttp2>> silent;
  for (int i = 0; i < 4; ++i) silent.push_back(ConnectRaw(HalfHello()));
  WaitFor("all to be accepted", [this] { return stats_.accepted.value() == 4; });
  auto [client, server] = ConnectBusy();
  EXPECT_TRUE(silent[0]->WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kIdle), 1);
  EXPECT_EQ(stats_.open.value(), 4);
  ExpectServed();
  EXPECT_TRUE(silent[1]->WaitClosed());
}

TEST_F(TlsDoorTest, RandomBytesAfterTheHandshakeEndTheConnection) {
  Start();
  auto [client, server] = ConnectBusy();
  ASSERT_TRUE(client->SendWire("no record of TLS"));
  EXPECT_TRUE(client->WaitClosed());
  EXPECT_EQ(server->Read(1), "");
  EXPECT_EQ(Closed(CloseReason::kTls), 1);
}

TEST_F(TlsDoorTest, ChangesOfKeysWithoutAnEndEndTheConnection) {
  Start();
  auto [client, server] = ConnectBusy();
  for (int i = 0; client->ChangeKeys(); ++i) ASSERT_LT(i, 100'000);
  EXPECT_TRUE(client->WaitClosed());
  EXPECT_EQ(server->Read(1), "");
  EXPECT_EQ(Closed(CloseReason::kTls), 1);
}

// TCP may end without TLS having said so: what has arrived is passed on, then the end.
TEST_F(TlsDoorTest, AnEndOfTcpOnlyIsAnEnd) {
  Start();
  auto [client, server] = ConnectBusy();
  const std::string data = Data(1, 1000);
  ASSERT_TRUE(client->Send(data));
  shutdown(client->fd(), SHUT_WR);
  EXPECT_EQ(server->Read(data.size() + 1), data);
  server.reset();
  EXPECT_TRUE(client->WaitClosed());
  WaitFor("the end", [this] { return stats_.open.value() == 0; });
}

}  // namespace
}  // namespace tessera::testing

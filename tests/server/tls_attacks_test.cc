// Attacks on TLS itself: on the handshake, on records and on keys. attacks_test.cc has the attacks
// that need no TLS.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/attacks_fixture.h"

namespace tessera::testing {
namespace {

constexpr std::chrono::seconds kDuration(2);
// Connections that the door permits in their handshake, and that attackers open.
constexpr int kMaxHandshakes = 256;
constexpr int kManyHandshakes = 300;

class TlsAttacksTest : public AttacksFixture {
 protected:
  using Clock = std::chrono::steady_clock;
  using Clients = std::vector<std::unique_ptr<HostileHttp2>>;

  TlsAttacksTest() : AttacksFixture(true) {}

  // The bytes with which a client begins.
  std::string Hello() const { return TlsClient(tls_->client).TakeWire(); }
  // A client that sends these bytes without TLS.
  std::unique_ptr<HostileHttp2> ConnectRaw(const std::string& bytes) const {
    auto client = std::make_unique<HostileHttp2>(server_->address());
    client->Send(bytes);
    return client;
  }
  // Like ExpectHarmless. Besides, new clients connect one after the other.
  void ExpectHarmlessForNewClients(const std::function<void()>& attack) {
    std::atomic<bool> ended{false};
    num_new_clients_ = 0;
    std::thread newcomer([&] {
      Clock::duration longest{};
      do {
        const auto begin = Clock::now();
        v1::TokenizeRequest request;
        request.set_text("hello");
        v1::TokenizeResponse response;
        const auto stub = v1::Inference::NewStub(NewChannel());
        const auto context = NewContext();
        context->set_wait_for_ready(true);  // a handshake may have to make room, and is repeated
        const grpc::Status status = stub->Tokenize(context.get(), request, &response);
        EXPECT_TRUE(status.ok()) << status.error_message();
        longest = std::max(longest, Clock::now() - begin);
        ++num_new_clients_;
      } while (!ended.load());
      std::cout << num_new_clients_ << " new clients: all within "
                << std::chrono::duration_cast<std::chrono::microseconds>(longest).count()
                << " us\n";
      EXPECT_LE(longest, kMaxLatency);
    });
    ExpectHarmless(attack);
    ended.store(true);
    newcomer.join();
  }
  // Waits until so many more new clients have been served.
  void AwaitNewClients(int64_t count) {
    const int64_t end = num_new_clients_ + count;
    WaitFor("new clients to be served", [&] { return num_new_clients_ >= end; });
  }
  // Opens more connections than may be in their handshake. `connect` sends what one of them sends.
  void ExpectTheOldestToMakeRoom(const std::function<std::unique_ptr<HostileHttp2>()>& connect) {
    rlimit limit = {};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < 8 * kManyHandshakes) GTEST_SKIP() << "too few descriptors (ulimit -n)";
    Restart({});  // the door permits what the limit of descriptors permits
    Clients clients;
    ExpectHarmlessForNewClients([&] {
      for (int i = 0; i < kManyHandshakes; ++i) clients.push_back(connect());
      WaitFor("the oldest to be closed", [this] {
        return Closed(CloseReason::kHandshakes) >= kManyHandshakes - kMaxHandshakes;
      });
      AwaitNewClients(3);  // the door still reads what was sent
    });
    EXPECT_TRUE(clients.front()->WaitClosed());
    EXPECT_FALSE(clients.back()->WaitClosed(100));
  }

  std::atomic<int64_t> num_new_clients_{0};
};

TEST_F(TlsAttacksTest, ClientsThatSendNothing) {
  Clients clients;
  const std::string hello = Hello();
  ExpectHarmlessForNewClients([&] {
    for (int i = 0; i < kMaxHandshakes - 20; ++i) {
      clients.push_back(ConnectRaw(hello.substr(0, i % 2 == 0 ? 0 : hello.size() / 2)));
    }
    AwaitNewClients(3);
  });
  for (const CloseReason reason : {CloseReason::kHandshake, CloseReason::kHandshakes}) {
    EXPECT_EQ(Closed(reason), 0) << CloseReasonName(reason);
  }
}

TEST_F(TlsAttacksTest, ManyHalfHellos) {
  const std::string hello = Hello();
  ExpectTheOldestToMakeRoom([&] { return ConnectRaw(hello.substr(0, hello.size() / 2)); });
}

TEST_F(TlsAttacksTest, ManyHellosWithoutAnAnswer) {
  const std::string hello = Hello();
  ExpectTheOldestToMakeRoom([&] { return ConnectRaw(hello); });
}

// Nine bytes announce a ClientHello of 128 KiB.
TEST_F(TlsAttacksTest, ManyLargeHellos) {
  const std::string hello("\x16\x03\x01\0\x04\x01\x01\xff\xff", 9);
  ExpectTheOldestToMakeRoom([&] { return ConnectRaw(hello); });
}

// A client sends nearly all of its handshake, with the longest chain that is permitted.
TEST_F(TlsAttacksTest, ManyLargeCertificates) {
  CertifiedKey certificate = tls_->client_key;
  const std::string one = tls_->client_key.certificate;
  while (certificate.certificate.size() < 13'000) certificate.certificate += one;
  const TlsClientContext context(
      TlsClientOptions{.ca = tls_->authority.pem(), .certificate = certificate});
  ExpectTheOldestToMakeRoom([&] {
    TlsClient tls(context);
    auto client = ConnectRaw(tls.TakeWire());
    while (!tls.open() && tls.error().empty()) {
      const std::string answer = client->Read(1);
      if (answer.empty()) break;
      tls.Receive(answer + client->Read(1 << 16, 0));
    }
    std::string wire = tls.TakeWire();
    wire.resize(wire.size() - std::min<size_t>(wire.size(), 10));
    client->Send(wire);
    return client;
  });
}

TEST_F(TlsAttacksTest, FloodOfHandshakes) {
  std::atomic<int64_t> num_open{0};
  ExpectHarmlessForNewClients([&] {
    const auto end = Clock::now() + kDuration;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        while (Clock::now() < end) num_open += Attacker()->is_open() ? 1 : 0;
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  std::cout << num_open.load() << " handshakes\n";
  EXPECT_GT(num_open.load(), 0);
}

// Handshakes that fail at their last step: the server has computed all of it, and has read as many
// certificates as it permits.
TEST_F(TlsAttacksTest, FloodOfStrangers) {
  CertifiedKey certificate = TestAuthority("another authority").Sign("DNS:a");
  const std::string one = certificate.certificate;
  while (certificate.certificate.size() < 12'000) certificate.certificate += one;
  const TlsClientContext stranger(
      TlsClientOptions{.ca = tls_->authority.pem(), .certificate = certificate});
  ExpectHarmlessForNewClients([&] {
    const auto end = Clock::now() + kDuration;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        while (Clock::now() < end) HostileHttp2(server_->address(), &stranger).WaitClosed();
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  EXPECT_GT(Closed(CloseReason::kHandshake), 0);
}

// Clients that send the longest message that is permitted byte by byte: there is always another
// byte for the door to read.
TEST_F(TlsAttacksTest, HandshakesByteByByte) {
  ExpectHarmlessForNewClients([&] {
    const auto end = Clock::now() + kDuration;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        const std::string begin("\x16\x03\x01\x40\0\x01\x01\xff\xff", 9);
        while (Clock::now() < end) {
          const auto client = ConnectRaw(begin);
          const int on = 1;
          setsockopt(client->fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
          for (int j = 0; j < 16'000 && Clock::now() < end; ++j) {
            if (!client->Send("x")) break;
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
}

TEST_F(TlsAttacksTest, ChangesOfKeysWithoutAnEnd) {
  constexpr int kNumClients = 50;
  ExpectHarmless([&] {
    for (int i = 0; i < kNumClients; ++i) {
      const auto client = Attacker();
      client->Send(Http2Hello());
      // The answers are read only if the server takes no more.
      int64_t num_changes = 0;
      while (client->ChangeKeys()) ASSERT_LT(++num_changes, 100'000) << "nobody bounds the changes";
      EXPECT_TRUE(client->WaitClosed(60'000));
    }
  });
  EXPECT_EQ(Closed(CloseReason::kTls), kNumClients);
}

// A record has 16 KiB at most. The smallest one has a byte, and 22 more on the wire.
TEST_F(TlsAttacksTest, RecordsOfOneByte) {
  constexpr int kNumClients = 40;
  std::string request = Http2Hello() + NewCall(1);
  request += Frame(FrameType::kData, 0, 1, GrpcMessage(60 << 20, std::string(15'000, 'x')));
  ExpectHarmlessForNewClients([&] {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        Clients clients;
        for (int j = 0; j < kNumClients / 4; ++j) {
          clients.push_back(Attacker());
          EXPECT_TRUE(clients.back()->SendRecords(request, 1));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
}

TEST_F(TlsAttacksTest, RandomBytes) {
  constexpr int kNumClients = 100;
  std::mt19937 random(1);
  std::string noise(20'000, '\0');
  ExpectHarmless([&] {
    for (int i = 0; i < kNumClients; ++i) {
      for (char& byte : noise) byte = static_cast<char>(random());
      EXPECT_TRUE(ConnectRaw(noise)->WaitClosed(60'000));
      // The same in the place of the client's last message, and after the handshake.
      const auto half = ConnectRaw(Hello());
      half->Read(100);
      half->SendWire(noise);
      EXPECT_TRUE(half->WaitClosed(60'000));
      const auto open = Attacker();
      open->Send(Http2Hello());
      open->SendWire(noise);
      EXPECT_TRUE(open->WaitClosed(60'000));
    }
  });
  EXPECT_EQ(Closed(CloseReason::kHandshake), 2 * kNumClients);
  EXPECT_EQ(Closed(CloseReason::kTls), kNumClients);
}

TEST_F(TlsAttacksTest, AClientWithoutTlsIsClosed) {
  HostileHttp2 client(server_->address());
  client.Send(Http2Hello() + NewCall(1));
  EXPECT_TRUE(client.WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kHandshake), 1);
  const auto stub = v1::Inference::NewStub(
      grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  v1::TokenizeResponse response;
  const grpc::Status status = stub->Tokenize(NewContext(2000).get(), {}, &response);
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(context_->live.num_open(), 0);
}

}  // namespace
}  // namespace tessera::testing

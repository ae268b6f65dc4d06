// Tests of the door, each without TLS and with it; tls_door_test.cc has the tests of TLS itself.
#include "server/door/door.h"

#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/config/net.h"
#include "server/door/descriptors.h"
#include "server/door/port_watch.h"
#include "tests/lib/hostile_http2.h"
#include "tests/server/door_fixture.h"

namespace tessera::testing {
namespace {

class DoorTest : public DoorFixture, public ::testing::WithParamInterface<bool> {
 protected:
  DoorTest() : DoorFixture(GetParam()) {}
};

INSTANTIATE_TEST_SUITE_P(Port, DoorTest, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Tls" : "Plain"; });

TEST_P(DoorTest, BytesPassUnchangedBothWays) {
  Start();
  auto [client, server] = ConnectBusy();
  std::string sent;
  for (size_t i = 0; i < 40; ++i) sent += Data(1, 1000 * i);
  ASSERT_TRUE(client->Send(sent));
  EXPECT_EQ(server->Read(sent.size()), sent);
  ASSERT_EQ(server->SendSome(sent.substr(0, 20'000)), 20'000);
  EXPECT_EQ(client->Read(20'000), sent.substr(0, 20'000));
  EXPECT_EQ(stats_.open.value(), 1);
  EXPECT_EQ(stats_.accepted.value(), 1);
}

TEST_P(DoorTest, TheServerSeesTheClientsAddress) {
  Start();
  std::set<std::string> names;
  for (int i = 0; i < 3; ++i) {
    const auto client = Connect();
    sockaddr_storage address = {};
    socklen_t size = sizeof(address);
    ASSERT_EQ(getsockname(client->fd(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    const std::string name = Next()->PeerName();
    EXPECT_EQ(ClientOf(name), absl::StrCat("ipv4:127.0.0.1:", PeerFrom(address).port)) << name;
    EXPECT_TRUE(names.insert(name).second) << name;
  }
}

TEST_P(DoorTest, IPv6AndLocalhost) {
  Start({}, "::1");
  auto client = Connect();
  EXPECT_TRUE(absl::StartsWith(ClientOf(Next()->PeerName()), "ipv6:[::1]:"));
  Start({}, "localhost");
  EXPECT_TRUE(absl::StartsWith(door_->address(), "localhost:")) << door_->address();
  client = Connect();
  EXPECT_NE(Next(), nullptr);
  for (const char* any : {"0.0.0.0", "::"}) {
    Start({}, any);
    EXPECT_EQ(door_->local_address().host, "127.0.0.1");
    HostileHttp2 local(FormatHostPort(door_->local_address()), client_tls());
    const std::string name = Next()->PeerName();
    EXPECT_TRUE(absl::StartsWith(ClientOf(name), "ipv4:127.0.0.1:")) << any << " " << name;
  }
}

TEST_P(DoorTest, SlowClientsAreClosed) {
  ManualClock clock;
  Start({}, "127.0.0.1", &clock);
  std::vector<std::unique_ptr<ServerEnd>> servers;
  // Connects and sends bytes, which the guard has seen when they arrive at the server.
  const auto connect = [&](const std::string& bytes) {
    auto client = Connect();
    servers.push_back(Next());
    EXPECT_TRUE(client->Send(bytes));
    EXPECT_EQ(servers.back()->Read(bytes.size()), bytes);
    return client;
  };
  const auto silent = connect("");
  const auto no_end = connect(Http2Hello() + Frame(FrameType::kHeaders, 0, 1, "a block"));
  const auto in_part = connect(
      Http2Hello() + Frame(FrameType::kHeaders, kFlagEndHeaders, 1, "a block") + Data(1, 10));
  clock.Advance(10'500'000);
  EXPECT_TRUE(no_end->WaitClosed());
  EXPECT_TRUE(silent->WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kHeaderTime), 1);
  EXPECT_EQ(Closed(CloseReason::kPrefaceTime), 1);
  EXPECT_FALSE(in_part->WaitClosed(300));
  clock.Advance(50'000'000);
  EXPECT_TRUE(in_part->WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kRequestTime), 1);
  door_.reset();  // it uses the clock
}

// An address of IPv6 that is valid on one interface only, as fe80::1%eth0; empty if there is none.
std::string LinkLocalAddress() {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return "";
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(all, freeifaddrs);
  for (const ifaddrs* each = all; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || each->ifa_addr->sa_family != AF_INET6) continue;
    char host[NI_MAXHOST];
    if (getnameinfo(each->ifa_addr, sizeof(sockaddr_in6), host, sizeof(host), nullptr, 0,
                    NI_NUMERICHOST) == 0 &&
        absl::StrContains(host, '%')) {
      return host;
    }
  }
  return "";
}

TEST_P(DoorTest, AnAddressOfOneInterfaceIsReached) {
  const std::string host = LinkLocalAddress();
  if (host.empty()) GTEST_SKIP() << "this machine has no address such as fe80::1%eth0";
  Start({}, host);
  EXPECT_EQ(door_->local_address().host, host);
  PortWatchOptions watch_options;
  watch_options.address = door_->local_address();
  watch_options.interval_us = 10'000;
  watch_options.announce = [this](const PeerAddress& probe) { door_->ExpectProbe(probe); };
  watch_options.report = [](bool) { ADD_FAILURE() << "the port answers all the time"; };
  const auto watch = WatchPort(std::move(watch_options));
  for (int i = 0; i < 2; ++i) {
    const auto probe = Next();
    ASSERT_NE(probe, nullptr);
    EXPECT_EQ(probe->Read(33), Http2Hello());
    ASSERT_EQ(probe->SendSome(Frame(FrameType::kSettings, 0, 0)), 9);
  }
  EXPECT_EQ(stats_.accepted.value(), 0);  // the door recognises its own probes
}

TEST_P(DoorTest, AnAddressInUseIsAnError) {
  Start();
  DoorOptions options;
  options.listen = *ParseHostPort(door_->address());
  const auto second = OpenDoor(options, &clock_, &stats_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().message(),
            absl::StrCat("--listen ", door_->address(),
                         ": Address already in use; give another address, or port 0 for a free "
                         "one"));
}

TEST_P(DoorTest, AServerThatDoesNotReadStopsTheClient) {
  Start();
  auto [client, server] = ConnectBusy();
  const std::string data = Data(1, 16'000);
  std::string sent;
  std::string rest;
  // The client sends until nothing moves for a while; then little is kept on the way.
  int idle_rounds = 0;
  while (idle_rounds < 200 && sent.size() < (30 << 20)) {
    if (rest.empty()) rest = data;
    const int64_t count = client->SendSome(rest);
    ASSERT_GE(count, 0);
    sent += rest.substr(0, static_cast<size_t>(count));
    rest.erase(0, static_cast<size_t>(count));
    idle_rounds = count > 0 ? 0 : idle_rounds + 1;
    if (count == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_LT(sent.size(), 16 << 20);  // the rest are the buffers of TCP
  HostileHttp2& sender = *client;
  std::thread rest_sender([&sender] { EXPECT_TRUE(sender.Send("")); });
  EXPECT_EQ(server->Read(sent.size()), sent);
  rest_sender.join();
}

TEST_P(DoorTest, AClientThatDoesNotReadStopsTheServer) {
  Start();
  auto [client, server] = ConnectBusy();
  const std::string data = Data(1, 16'000);
  std::string sent;
  std::string rest;
  int idle_rounds = 0;
  while (idle_rounds < 200 && sent.size() < (30 << 20)) {
    if (rest.empty()) rest = data;
    const int64_t count = server->SendSome(rest);
    ASSERT_GE(count, 0);
    sent += rest.substr(0, static_cast<size_t>(count));
    rest.erase(0, static_cast<size_t>(count));
    idle_rounds = count > 0 ? 0 : idle_rounds + 1;
    if (count == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_LT(sent.size(), 16 << 20);
  // What the server sent before it ends reaches the client, in order, and then the end.
  server->Close();
  EXPECT_EQ(client->Read(sent.size()), sent);
  EXPECT_TRUE(client->WaitClosed());
  client.reset();
  WaitFor("the end", [this] { return stats_.open.value() == 0; });
}

TEST_P(DoorTest, AClientThatSendsNoMoreStillReads) {
  Start();
  auto [client, server] = ConnectBusy();
  client->HalfClose();
  EXPECT_EQ(server->Read(1), "");  // the end
  const std::string answer = Data(1, 100);
  ASSERT_EQ(server->SendSome(answer), static_cast<int64_t>(answer.size()));
  EXPECT_EQ(client->Read(answer.size()), answer);
  server->Close();
  EXPECT_TRUE(client->WaitClosed());
  WaitFor("the end", [this] { return stats_.open.value() == 0; });
}

TEST_P(DoorTest, AResetReachesTheServer) {
  Start();
  auto [client, server] = ConnectBusy();
  client->Reset();
  EXPECT_EQ(server->Read(1), "");
  WaitFor("the end", [this] { return stats_.open.value() == 0; });
}

TEST_P(DoorTest, AServerThatEndsClosesTheClient) {
  Start();
  auto [client, server] = ConnectBusy();
  server.reset();
  EXPECT_TRUE(client->WaitClosed());
}

TEST_P(DoorTest, AClientThatPassesABoundIsToldAndClosed) {
  DoorOptions options;
  options.guard.max_streams = 1;
  Start(options);
  auto [client, server] = ConnectBusy();
  ASSERT_TRUE(client->Send(Frame(FrameType::kHeaders, 0x5, 3, "block")));
  EXPECT_EQ(server->Read(1), "");  // the frame that passes the bound never arrives
  EXPECT_TRUE(client->WaitClosed());
  EXPECT_TRUE(absl::StrContains(client->go_away(), "max_streams_per_connection"))
      << client->go_away();
  EXPECT_EQ(Closed(CloseReason::kStreams), 1);
}

TEST_P(DoorTest, TheOldestIdleConnectionMakesRoom) {
  DoorOptions options;
  options.max_connections = 2;
  options.max_connections_per_address = 100;
  Start(options);
  auto [busy, busy_server] = ConnectBusy();
  const auto idle = Connect();
  const auto idle_server = Next();
  const auto third = Connect();
  const auto third_server = Next();
  EXPECT_TRUE(idle->WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kIdle), 1);
  EXPECT_EQ(stats_.open.value(), 2);
  // Both are busy: the next one is refused.
  const std::string call = Http2Hello() + Frame(FrameType::kHeaders, 0x5, 1, "block");
  ASSERT_TRUE(third->Send(call));
  ASSERT_EQ(third_server->Read(call.size()), call);
  EXPECT_TRUE(Connect()->WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kTooManyConnections), 1);
  // A call that ends makes its connection idle again.
  const std::string end = Frame(FrameType::kHeaders, 0x5, 1, "trailers");
  ASSERT_EQ(third_server->SendSome(end), static_cast<int64_t>(end.size()));
  EXPECT_EQ(third->Read(end.size()), end);
  const auto fourth = Connect();
  EXPECT_NE(Next(), nullptr);
  EXPECT_TRUE(third->WaitClosed());
}

TEST_P(DoorTest, AnAddressHasItsOwnLimitAndProbesHaveNone) {
  DoorOptions options;
  options.max_connections_per_address = 1;
  Start(options);
  const auto idle = Connect();
  const auto idle_server = Next();
  auto [busy, busy_server] = ConnectBusy();
  EXPECT_TRUE(idle->WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kIdle), 1);
  EXPECT_TRUE(Connect()->WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kTooManyOfAddress), 1);
  // The watch of the port comes from the same address. The server answers it with SETTINGS.
  PortWatchOptions watch_options;
  watch_options.address = door_->local_address();
  watch_options.interval_us = 10'000;
  watch_options.announce = [this](const PeerAddress& probe) { door_->ExpectProbe(probe); };
  watch_options.report = [](bool) { ADD_FAILURE() << "the port answers all the time"; };
  const auto watch = WatchPort(std::move(watch_options));
  for (int i = 0; i < 5; ++i) {
    const auto probe = Next();
    ASSERT_NE(probe, nullptr);
    EXPECT_EQ(probe->Read(33), Http2Hello());
    ASSERT_EQ(probe->SendSome(Frame(FrameType::kSettings, 0, 0)), 9);
    EXPECT_EQ(probe->Read(1), "");
  }
  EXPECT_EQ(stats_.open.value(), 1);
  EXPECT_EQ(Closed(CloseReason::kTooManyOfAddress), 1);
  const auto last = Next();  // the check that may be running
  last->SendSome(Frame(FrameType::kSettings, 0, 0));
}

TEST_P(DoorTest, UnfinishedRequestsOfAllConnectionsAreBounded) {
  DoorOptions options;
  options.max_incoming_bytes = 1 << 20;
  Start(options);
  auto [small, small_server] = ConnectBusy();
  auto large = Connect();
  const auto large_server = Next();
  ASSERT_TRUE(large->Send(Http2Hello() + Frame(FrameType::kHeaders, 0x4, 1, "block")));
  std::thread reader([&large_server] { large_server->Read(4 << 20); });
  while (large->Send(Data(1, 16'000))) {
  }
  reader.join();
  EXPECT_EQ(Closed(CloseReason::kIncomingBytes), 1);
  const std::string more = Data(1, 10);
  ASSERT_TRUE(small->Send(more));
  EXPECT_EQ(small_server->Read(more.size()), more);
}

// A client that abandons many streams is read at a limited rate; others are not.
TEST_P(DoorTest, AbandonedStreamsPauseTheirConnection) {
  DoorOptions options;
  options.guard.max_resets_per_second = 100'000;
  Start(options);
  auto [other, other_server] = ConnectBusy();
  auto hostile = Connect();
  const auto hostile_server = Next();
  std::string flood = Http2Hello();
  for (uint32_t stream = 1; stream < 2 * 8000; stream += 2) {
    absl::StrAppend(&flood, Frame(FrameType::kHeaders, 0x5, stream, "block"),
                    Frame(FrameType::kReset, 0, stream, "0000"));
  }
  std::thread sender([&] { EXPECT_TRUE(hostile->Send(flood)); });
  const auto begin = clock_.NowUs();
  std::thread reader([&] { EXPECT_EQ(hostile_server->Read(flood.size()), flood); });
  for (int i = 0; i < 100; ++i) {
    const std::string more = Data(1, 10);
    ASSERT_TRUE(other->Send(more));
    EXPECT_EQ(other_server->Read(more.size()), more);
  }
  sender.join();
  reader.join();
  // 1,024 streams at once, 1,000 per second afterwards, and what one chunk contains.
  EXPECT_GE(clock_.NowUs() - begin, 3'000'000);
}

// Two clients send the headers of many requests before their data. Together they exceed the
// requests that may have arrived in part, and what completes these requests must still be read.
TEST_P(DoorTest, RequestsInPartContinueUnderTheirOwnPressure) {
  constexpr uint32_t kNumStreams = 600;
  Start();
  std::string headers = Http2Hello();
  std::string data;
  for (uint32_t stream = 1; stream < 2 * kNumStreams; stream += 2) {
    absl::StrAppend(&headers, Frame(FrameType::kHeaders, kFlagEndHeaders, stream, "block"));
    absl::StrAppend(&data, Frame(FrameType::kData, kFlagEndStream, stream, "request"));
  }
  std::vector<std::unique_ptr<HostileHttp2>> clients;
  std::vector<std::unique_ptr<ServerEnd>> servers;
  for (int i = 0; i < 2; ++i) {
    clients.push_back(Connect());
    servers.push_back(Next());
    ASSERT_TRUE(clients.back()->Send(headers));
  }
  for (const auto& server : servers) EXPECT_EQ(server->Read(headers.size()), headers);
  for (const auto& client : clients) ASSERT_TRUE(client->Send(data));
  for (const auto& server : servers) EXPECT_EQ(server->Read(data.size()), data);
}

// Without free descriptors, clients are refused at once, and accepted again when there are some.
TEST_P(DoorTest, NoDescriptorsRefuseClientsAndEnd) {
  Start();
  auto [client, server] = ConnectBusy();
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  // The sockets of the clients exist before the limit is lowered; they connect afterwards.
  std::vector<int> sockets;
  for (int i = 0; i < 8; ++i) sockets.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int lowest_free = dup(0);
  close(lowest_free);
  rlimit low = before;
  low.rlim_cur = static_cast<rlim_t>(lowest_free);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  ASSERT_EQ(getpeername(client->fd(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  for (const int fd : sockets) {
    ASSERT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), size), 0);
  }
  for (const int fd : sockets) {
    pollfd closed = {fd, POLLIN, 0};
    EXPECT_EQ(poll(&closed, 1, 10'000), 1) << "a client waits for ever";
  }
  EXPECT_EQ(Closed(CloseReason::kNoDescriptors), 8);
  const std::string more = Data(1, 10);  // connections that exist go on
  EXPECT_TRUE(client->Send(more));
  EXPECT_EQ(server->Read(more.size()), more);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  for (const int fd : sockets) close(fd);
  const auto next = Connect();
  EXPECT_NE(Next(), nullptr);
}

TEST_P(DoorTest, StopClosesThePortAndThenTheConnections) {
  Start();
  auto [client, server] = ConnectBusy();
  const std::string address = door_->address();
  door_->StopAccepting();
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_storage peer = {};
  socklen_t size = sizeof(peer);
  ASSERT_EQ(getpeername(client->fd(), reinterpret_cast<sockaddr*>(&peer), &size), 0);
  EXPECT_NE(connect(fd, reinterpret_cast<const sockaddr*>(&peer), size), 0);
  close(fd);
  const std::string more = Data(1, 10);
  ASSERT_TRUE(client->Send(more));
  EXPECT_EQ(server->Read(more.size()), more);
  door_->Stop(0);
  EXPECT_TRUE(client->WaitClosed());
  EXPECT_EQ(server->Read(1), "");
  EXPECT_EQ(stats_.open.value(), 0);
}

TEST(DescriptorsTest, AReserveIsKept) {
  EXPECT_EQ(ConnectionsWithin(64, 24), 8);
  EXPECT_EQ(ConnectionsWithin(1024, 24), 290);
  EXPECT_EQ(ConnectionsWithin(1 << 20, 24), 349'474);
  EXPECT_EQ(ConnectionsWithin(32, 30), 0);
  EXPECT_GE(NumOpenDescriptors(), 3);
}

TEST(PeerTest, Addresses) {
  EXPECT_EQ(ClientOf("unix-abstract:tessera/a/7/ipv4/10.0.0.1/5"), "ipv4:10.0.0.1:5");
  EXPECT_EQ(ClientOf("unix-abstract:tessera/a/7/ipv6/2001:db8::1/5"), "ipv6:[2001:db8::1]:5");
  for (const char* other : {"unix:/tessera/a/7/ipv4/127.0.0.1/5", "ipv4:127.0.0.1:5", "",
                            "unix:", "unix-abstract:other/a/7/ipv4/127.0.0.1/5",
                            "unix-abstract:tessera/a/7/ipv4/127.0.0.1"}) {
    EXPECT_EQ(ClientOf(other), "") << other;
  }
}

// A port that accepts connections and never answers, as a server that hangs.
TEST(PortWatchTest, NoticesAPortThatDoesNotAnswer) {
  SteadyClock clock;
  DoorStats stats;
  DoorOptions options;
  options.listen = {"127.0.0.1", 0};
  auto door = OpenDoor(options, &clock, &stats);
  ASSERT_TRUE(door.ok()) << door.status();
  std::atomic<int> changes{0};
  std::atomic<bool> answers{true};
  PortWatchOptions watch_options;
  watch_options.address = (*door)->local_address();
  watch_options.interval_us = 1'000;
  watch_options.timeout_us = 200'000;
  watch_options.announce = [](const PeerAddress&) {};
  watch_options.report = [&](bool now) {
    ++changes;
    answers.store(now);
  };
  const auto watch = WatchPort(std::move(watch_options));
  WaitFor("a report", [&] { return !answers.load(); });
  EXPECT_EQ(changes.load(), 1);
  std::mutex mutex;
  std::vector<std::unique_ptr<ServerEnd>> ends;
  (*door)->Start([&](int fd) {
    std::lock_guard<std::mutex> lock(mutex);
    ends.push_back(std::make_unique<ServerEnd>(fd));
    ends.back()->SendSome(Frame(FrameType::kSettings, 0, 0));
  });
  WaitFor("a report", [&] { return answers.load(); });
  EXPECT_GE(changes.load(), 2);  // more if the machine is busy for longer than the timeout
  (*door)->Stop(0);
}

}  // namespace
}  // namespace tessera::testing

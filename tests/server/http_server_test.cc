// Tests of the HTTP server over real sockets: whatever other connections do, a probe is answered.
#include "server/http/http_server.h"

#include <gtest/gtest.h>
#include <netdb.h>
#include <sys/socket.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/config/net.h"
#include "tests/lib/http_client.h"

namespace tessera {
namespace {

using testing::HasIpv6;
using testing::Http;
using testing::HttpGet;
using testing::TcpClient;
using Clock = std::chrono::steady_clock;

// A probe gives up after a second. The server answers in less than a millisecond; the rest is for
// machines that run many tests at once.
constexpr auto kProbeLimit = std::chrono::seconds(1);
constexpr size_t kLargeBytes = 8 << 20;  // more than the buffers of a socket hold

std::unique_ptr<HttpServer> Start(HttpOptions options = {}) {
  options.flag = "--port";
  if (options.listen.empty()) options.listen = "127.0.0.1:0";
  auto server =
      StartHttpServer(options, {{"/healthz",
                                 [] {
                                   return HttpResponse{200, "a/b", "ok"};
                                 }},
                                {"/large", [] {
                                   return HttpResponse{200, "a/b", std::string(kLargeBytes, 'x')};
                                 }}});
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

void ExpectQuickProbe(const std::string& address) {
  const auto begin = Clock::now();
  EXPECT_TRUE(absl::StartsWith(HttpGet(address, "/healthz"), "HTTP/1.1 200"));
  EXPECT_LT(Clock::now() - begin, kProbeLimit);
}

TEST(HttpServerTest, AnswersItsPathsOnly) {
  const auto server = Start();
  const std::string& address = server->address();
  const std::string answer = HttpGet(address, "/healthz?verbose=1");
  EXPECT_TRUE(absl::StartsWith(answer, "HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_TRUE(absl::StrContains(answer, "Content-Type: a/b\r\n")) << answer;
  EXPECT_TRUE(absl::StrContains(answer, "Content-Length: 2\r\n")) << answer;
  EXPECT_TRUE(absl::EndsWith(answer, "\r\n\r\nok")) << answer;
  EXPECT_TRUE(absl::StartsWith(HttpGet(address, "/"), "HTTP/1.1 404"));
  EXPECT_TRUE(absl::StartsWith(HttpGet(address, "/healthz/x"), "HTTP/1.1 404"));
  const std::string head =
      Http(address, "HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(absl::StartsWith(head, "HTTP/1.1 200")) << head;
  EXPECT_TRUE(absl::EndsWith(head, "\r\n\r\n")) << head;
  const std::string post =
      Http(address,
           "POST /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1");
  EXPECT_TRUE(absl::StartsWith(post, "HTTP/1.1 405")) << post;
  EXPECT_TRUE(absl::StrContains(post, "Allow: GET, HEAD\r\n")) << post;
}

TEST(HttpServerTest, TargetsInAbsoluteFormAreTheirPaths) {
  const auto server = Start();
  const std::string& address = server->address();
  for (const char* target :
       {"http://host/healthz", "http://host:80/healthz", "HTTP://[::1]/healthz"}) {
    EXPECT_TRUE(absl::StartsWith(HttpGet(address, target), "HTTP/1.1 200")) << target;
  }
  for (const char* target : {"http://host", "http://host/", "http://healthz", "x/healthz", "*"}) {
    EXPECT_TRUE(absl::StartsWith(HttpGet(address, target), "HTTP/1.1 404")) << target;
  }
}

TEST(HttpServerTest, AConnectionServesSeveralRequests) {
  const auto server = Start();
  const TcpClient client(server->address());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.Send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"));
    EXPECT_TRUE(absl::EndsWith(client.Read("\r\n\r\nok"), "\r\n\r\nok"));
  }
}

TEST(HttpServerTest, SilentConnectionsDelayNobody) {
  for (const int num_silent : {2, 8, 500}) {
    const auto server = Start();
    std::vector<TcpClient> silent;
    for (int i = 0; i < num_silent; ++i) {
      silent.emplace_back(server->address());
      ASSERT_TRUE(silent.back().connected());
    }
    ExpectQuickProbe(server->address());
  }
}

TEST(HttpServerTest, UnfinishedRequestsAndUnreadAnswersDelayNobody) {
  const auto server = Start();
  std::vector<TcpClient> slow;
  for (int i = 0; i < 3; ++i) {
    slow.emplace_back(server->address());
    ASSERT_TRUE(slow.back().Send("GET /healthz HTTP/1.1\r\nHost:"));
    slow.emplace_back(server->address());
    ASSERT_TRUE(slow.back().Send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n"));
  }
  ExpectQuickProbe(server->address());
}

TEST(HttpServerTest, AboveTheLimitTheConnectionThatHasWaitedLongestIsClosed) {
  HttpOptions options;
  options.max_connections = 3;
  const auto server = Start(options);
  const TcpClient answered(server->address());
  const TcpClient silent(server->address());
  const TcpClient other(server->address());
  ASSERT_TRUE(answered.Send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(absl::EndsWith(answered.Read("\r\n\r\nok"), "\r\n\r\nok"));
  ExpectQuickProbe(server->address());
  EXPECT_TRUE(silent.AwaitClose());
  for (const TcpClient* kept : {&answered, &other}) {
    ASSERT_TRUE(kept->Send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"));
    EXPECT_TRUE(absl::EndsWith(kept->Read("\r\n\r\nok"), "\r\n\r\nok"));
  }
}

// Connections that do not read their answers are closed, too, so they cannot hold all places.
TEST(HttpServerTest, UnreadAnswersHoldNoPlace) {
  HttpOptions options;
  options.max_connections = 3;
  options.idle_seconds = 60;  // longer than a client waits
  const auto server = Start(options);
  std::vector<TcpClient> slow;
  for (int i = 0; i < 80; ++i) {
    slow.emplace_back(server->address());
    ASSERT_TRUE(slow.back().Send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n"));
  }
  EXPECT_TRUE(absl::StartsWith(HttpGet(server->address(), "/healthz"), "HTTP/1.1 200"));
}

TEST(HttpServerTest, ABodyOfAGetIsIgnored) {
  const auto server = Start();
  const TcpClient client(server->address());
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(client.Send("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"));
    EXPECT_TRUE(absl::EndsWith(client.Read("\r\n\r\nok"), "\r\n\r\nok"));
  }
}

TEST(HttpServerTest, IdleConnectionsAreClosed) {
  HttpOptions options;
  options.idle_seconds = 1;
  const auto server = Start(options);
  EXPECT_TRUE(TcpClient(server->address()).AwaitClose());
}

TEST(HttpServerTest, ItEndsWithConnectionsOpen) {
  auto server = Start();
  const TcpClient silent(server->address());
  const TcpClient slow(server->address());
  ASSERT_TRUE(slow.Send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n"));
  ExpectQuickProbe(server->address());
  const std::string address = server->address();
  const auto begin = Clock::now();
  server.reset();
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(5));
  EXPECT_TRUE(silent.AwaitClose());
  EXPECT_FALSE(TcpClient(address).connected());
}

TEST(HttpServerTest, ListensOnIpv6) {
  if (!HasIpv6()) GTEST_SKIP() << "this machine has no IPv6";
  HttpOptions options;
  options.listen = "[::1]:0";
  const auto loopback = Start(options);
  ASSERT_NE(loopback, nullptr);
  EXPECT_TRUE(absl::StartsWith(loopback->address(), "[::1]:")) << loopback->address();
  ExpectQuickProbe(loopback->address());
  options.listen = "[::]:0";
  const auto every = Start(options);
  ASSERT_NE(every, nullptr);
  const std::string port = every->address().substr(every->address().rfind(':'));
  ExpectQuickProbe("[::1]" + port);
  ExpectQuickProbe("127.0.0.1" + port);
}

TEST(HttpServerTest, ListensOnAllAddressesOfAHost) {
  if (!HasIpv6()) GTEST_SKIP() << "this machine has no IPv6";
  HttpOptions options;
  options.listen = "localhost:0";
  const auto server = Start(options);
  ASSERT_NE(server, nullptr);
  const std::string port = server->address().substr(server->address().rfind(':'));
  std::string why;
  const AddressList found = LookUp({"localhost", 0}, &why);
  ASSERT_NE(found, nullptr) << why;
  if (found->ai_next == nullptr) GTEST_SKIP() << "localhost has one address on this machine";
  for (const addrinfo* each = found.get(); each != nullptr; each = each->ai_next) {
    ExpectQuickProbe((each->ai_family == AF_INET6 ? "[::1]" : "127.0.0.1") + port);
  }
}

TEST(HttpServerTest, AddressesThatCannotBe) {
  const auto server = Start();
  const auto error_of = [](const std::string& listen) {
    HttpOptions options;
    options.flag = "--port";
    options.listen = listen;
    return StartHttpServer(options, {}).status();
  };
  EXPECT_EQ(error_of(server->address()).message(),
            absl::StrCat("--port ", server->address(),
                         ": Address already in use; give another address, or port 0 for a free "
                         "one"));
  EXPECT_TRUE(absl::StartsWith(error_of("nowhere").message(), "--port is 'nowhere'; give HOST"));
  EXPECT_TRUE(absl::StartsWith(error_of("no.such.host.invalid:0").message(), "--port no.such."));
  HttpOptions options;
  options.listen = "localhost:0";
  EXPECT_NE(Start(options), nullptr);
}

}  // namespace
}  // namespace tessera

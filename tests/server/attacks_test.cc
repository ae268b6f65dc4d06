// Attacks on the gRPC port of a real server, each without TLS and with it.
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/resource.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/server/attacks_fixture.h"

namespace tessera::testing {
namespace {

class PlainAttacksTest : public AttacksFixture {
 protected:
  PlainAttacksTest() : AttacksFixture(false) {}
};

class AttacksTest : public AttacksFixture, public ::testing::WithParamInterface<bool> {
 protected:
  AttacksTest() : AttacksFixture(GetParam()) {}
};

INSTANTIATE_TEST_SUITE_P(Port, AttacksTest, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Tls" : "Plain"; });

TEST_P(AttacksTest, HeaderBlocksWithoutAnEnd) {
  const std::string flood = Frame(FrameType::kContinuation, 0, 1, std::string(16'000, '\0'));
  ExpectHarmless([&] {
    for (int i = 0; i < 200; ++i) {
      HostileHttp2 client(server_->address(), client_tls());
      client.Send(Http2Hello() + NewCall(1, 0));
      int64_t num_frames = 0;
      while (client.Send(flood)) ASSERT_LT(++num_frames, 1000) << "nobody ends the block";
    }
  });
  EXPECT_EQ(Closed(CloseReason::kHeaderBlock), 200);
}

// Sends `bytes_of(stream)` on many connections for some seconds, as fast as the server takes it.
// The connections stay open.
void SendStreams(const std::function<std::unique_ptr<HostileHttp2>()>& connect,
                 uint32_t streams_per_connection, int64_t num_streams,
                 const std::function<std::string(uint32_t)>& bytes_of) {
  constexpr size_t kMaxClients = 200;
  constexpr std::chrono::seconds kDuration(3);
  const auto end = std::chrono::steady_clock::now() + kDuration;
  std::vector<std::unique_ptr<HostileHttp2>> clients;
  for (uint32_t i = streams_per_connection; num_streams > 0; ++i) {
    if (i == streams_per_connection) {
      if (clients.size() == kMaxClients) break;
      clients.push_back(connect());
      clients.back()->Send(Http2Hello());
      i = 0;
    }
    const std::string bytes = bytes_of(2 * i + 1);
    const bool sent = clients.back()->SendSome(bytes) == static_cast<int64_t>(bytes.size());
    if (!sent) i = streams_per_connection - 1;  // go on with a new connection
    --num_streams;
  }
  std::this_thread::sleep_until(end);  // the server still reads what it has taken
}

TEST_P(AttacksTest, RapidResets) {
  const std::string code("\0\0\0\x08", 4);
  ExpectHarmless([&] {
    SendStreams([this] { return Attacker(); }, 1000, 60'000,
                [&](uint32_t stream) {
                  return NewCall(stream) + Frame(FrameType::kReset, 0, stream, code);
                });
  });
}

TEST_P(AttacksTest, RapidResetsOnOneConnection) {
  HostileHttp2 client(server_->address(), client_tls());
  client.Send(Http2Hello());
  const std::string code("\0\0\0\x08", 4);
  for (uint32_t stream = 1; stream < 20'000; stream += 2) {
    if (!client.Send(NewCall(stream) + Frame(FrameType::kReset, 0, stream, code))) break;
  }
  EXPECT_TRUE(client.WaitClosed(60'000));
  EXPECT_EQ(Closed(CloseReason::kResets), 1);
}

TEST_P(AttacksTest, StreamsWithHeadersOnly) {
  ExpectHarmless([&] {
    SendStreams([this] { return Attacker(); }, 1000, 200'000,
                [](uint32_t stream) { return NewCall(stream); });
  });
}

TEST_P(AttacksTest, TooManyStreamsOnOneConnection) {
  HostileHttp2 client(server_->address(), client_tls());
  client.Send(Http2Hello());
  for (uint32_t stream = 1; stream < 2 * 1100; stream += 2) client.Send(NewCall(stream));
  EXPECT_TRUE(client.WaitClosed(60'000));
  EXPECT_EQ(Closed(CloseReason::kStreams), 1);
}

TEST_P(AttacksTest, MessagesWithoutAnEnd) {
  constexpr uint32_t kMessageBytes = 60 << 20;
  constexpr uint32_t kNumStreams = 100;
  const std::string piece(16'000, 'x');
  ExpectHarmless([&] {
    HostileHttp2 client(server_->address(), client_tls());
    client.Send(Http2Hello());
    for (uint32_t i = 0; i < kNumStreams; ++i) {
      client.Send(NewCall(2 * i + 1) +
                  Frame(FrameType::kData, 0, 2 * i + 1, GrpcMessage(kMessageBytes, "")));
    }
    int64_t num_bytes = 0;
    for (uint32_t i = 0;; i = (i + 1) % kNumStreams) {
      const int64_t sent = client.SendData(2 * i + 1, piece);
      if (sent <= 0) break;
      num_bytes += sent;
      ASSERT_LT(num_bytes, int64_t{200} << 20) << "nobody bounds the messages";
    }
  });
  EXPECT_EQ(Closed(CloseReason::kIncomingBytes), 1);
}

TEST_P(AttacksTest, RepliesThatNobodyReads) {
  ServerOptions options;
  options.unread = {.max_bytes = 16 << 20, .patience_us = 0};
  Restart(options);
  v1::TokenizeRequest request;
  request.set_text(std::string(200'000, 'a'));  // a token is a byte
  v1::TokenizeResponse read;
  const grpc::Status status = stub_->Tokenize(NewContext().get(), request, &read);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_GT(read.ByteSizeLong(), 200'000u);
  const std::string bytes = request.SerializeAsString();
  const std::string message = GrpcMessage(static_cast<uint32_t>(bytes.size()), bytes);
  // All replies together have 120 MB.
  constexpr size_t kPiece = 16'000;
  constexpr uint32_t kNumCalls = 300;
  // The client's window of each stream is 0, so that no DATA may be sent.
  const std::string no_window = Frame(FrameType::kSettings, 0, 0, std::string("\0\4\0\0\0\0", 6));
  const auto attack = [&] {
    HostileHttp2 client(server_->address(), client_tls());
    client.Send(Http2Hello() + no_window);
    for (uint32_t i = 0; i < kNumCalls; ++i) {
      const uint32_t stream = 2 * i + 1;
      client.Send(Frame(FrameType::kHeaders, kFlagEndHeaders, stream, CallHeaders(kTokenize)));
      for (size_t at = 0; at < message.size(); at += kPiece) {
        ASSERT_GT(client.SendData(stream, absl::string_view(message).substr(at, kPiece)), 0);
      }
      client.Send(Frame(FrameType::kData, kFlagEndStream, stream, ""));
      // At most 64 replies and requests are in memory. Requests that wait have a bound of their
      // own.
      WaitFor("the server", [&] { return context_->live.num_open() <= 64; });
    }
    WaitFor("replies to be dropped",
            [&] { return context_->stats.replies_dropped.value() >= kNumCalls - 90; });
  };
  ExpectHarmless(attack);
}

TEST_P(AttacksTest, PingsAndSettings) {
  const std::vector<std::pair<CloseReason, std::string>> floods = {
      {CloseReason::kPings, Frame(FrameType::kPing, 0, 0, "01234567")},
      {CloseReason::kSettings, Frame(FrameType::kSettings, 0, 0, std::string("\0\4\0\1\0\0", 6))},
      {CloseReason::kFrames, Frame(FrameType::kWindowUpdate, 0, 0, std::string("\0\0\0\1", 4))},
  };
  for (const auto& [reason, frame] : floods) {
    ExpectHarmless([&, &bytes = frame] {
      HostileHttp2 client(server_->address(), client_tls());
      client.Send(Http2Hello());
      int64_t num_frames = 0;
      while (client.Send(bytes)) ASSERT_LT(++num_frames, 1'000'000) << "nobody bounds the frames";
      EXPECT_TRUE(client.WaitClosed(60'000));
    });
    EXPECT_EQ(Closed(reason), 1) << CloseReasonName(reason);
  }
}

TEST_P(AttacksTest, HalfOpenConnectionsMakeRoom) {
  ServerOptions options;
  options.door.max_connections = 20;
  options.door.max_connections_per_address = 1000;
  Restart(options);
  ExpectHarmless([&] {
    std::vector<std::unique_ptr<HostileHttp2>> clients;
    for (int i = 0; i < 400; ++i) {
      clients.push_back(Attacker());
      clients.back()->SendSome("PRI * HT");
    }
  });
  WaitFor("the oldest to be closed", [&] { return Closed(CloseReason::kIdle) >= 380; });
}

// The numeric address of a network interface other than loopback; empty if there is none.
std::string OwnAddress() {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return "";
  std::string found;
  for (const ifaddrs* each = all; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || each->ifa_addr->sa_family != AF_INET) continue;
    if ((each->ifa_flags & IFF_LOOPBACK) != 0 || (each->ifa_flags & IFF_UP) == 0) continue;
    char host[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(each->ifa_addr)->sin_addr, host,
              sizeof(host));
    found = host;
  }
  freeifaddrs(all);
  return found;
}

TEST_P(AttacksTest, ControlAnswersLoopbackOnlyThroughTheDoor) {
  const std::string own = OwnAddress();
  if (own.empty()) GTEST_SKIP() << "this machine has no network interface besides loopback";
  ServerOptions options;
  options.listen = "0.0.0.0:0";
  Restart(options);
  const std::vector<std::string> parts = absl::StrSplit(server_->address(), ':');
  const auto channel = ClientChannel(absl::StrCat(own, ":", parts.back()));
  v1::GetLoadResponse response;
  const grpc::Status status =
      v1::Control::NewStub(channel)->GetLoad(NewContext().get(), {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED) << status.error_message();
  EXPECT_EQ(FactsOf(status).reason, "CONTROL_IS_LOCAL");
  v1::TokenizeRequest request;
  request.set_text("hello");
  v1::TokenizeResponse tokens;
  EXPECT_TRUE(v1::Inference::NewStub(channel)->Tokenize(NewContext().get(), request, &tokens).ok());
  EXPECT_TRUE(control_->GetLoad(NewContext().get(), {}, &response).ok());
}

TEST_F(PlainAttacksTest, AClientWithTlsOnAPortWithoutIsClosed) {
  const TlsPair pair;
  HostileHttp2 client(server_->address(), &pair.client);
  EXPECT_FALSE(client.is_open());
  EXPECT_TRUE(client.WaitClosed());
  EXPECT_EQ(Closed(CloseReason::kProtocol), 1);
}

TEST_F(PlainAttacksTest, ControlCanBeTurnedOff) {
  context_->control = ControlAccess::kOff;
  v1::GetLoadResponse response;
  const grpc::Status status = control_->GetLoad(NewContext().get(), {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(FactsOf(status).reason, "CONTROL_IS_OFF");
}

TEST_P(AttacksTest, ConnectionsHaveTheServersMaximumAge) {
  ServerOptions options;
  options.max_connection_age_seconds = 1;
  Restart(options);
  const int64_t begin_us = clock_.NowUs();
  HostileHttp2 client(server_->address(), client_tls());
  ASSERT_TRUE(client.Send(Http2Hello()));
  EXPECT_TRUE(client.WaitGoAway(60'000));
  EXPECT_GE(clock_.NowUs() - begin_us, 500'000);
  EXPECT_LT(clock_.NowUs() - begin_us, 15'000'000);
}

TEST_P(AttacksTest, APortThatDoesNotAnswerTurnsHealthUntilItAnswersAgain) {
  ServerOptions options;
  options.port_check_us = 10'000;
  Restart(options);
  const auto health = grpc::health::v1::Health::NewStub(NewChannel());
  const auto serving = [&] {
    grpc::health::v1::HealthCheckResponse response;
    EXPECT_TRUE(health->Check(NewContext().get(), {}, &response).ok());
    return response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
  };
  ASSERT_TRUE(serving());
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 3;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  WaitFor("NOT_SERVING", [&] { return !serving(); });
  EXPECT_FALSE(context_->port_answers.load());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  WaitFor("SERVING", serving);
  EXPECT_TRUE(context_->port_answers.load());
}

}  // namespace
}  // namespace tessera::testing

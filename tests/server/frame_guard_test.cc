// Tests of the guard on bytes, without sockets: each bound, and that the verdict does not depend on
// how the bytes are cut.
#include "server/door/frame_guard.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/door/token_bucket.h"
#include "tests/lib/hostile_http2.h"

namespace tessera::testing {
namespace {

constexpr int64_t kNow = 1'000'000'000;

std::string Repeat(int times, const std::string& bytes) {
  std::string out;
  for (int i = 0; i < times; ++i) out += bytes;
  return out;
}

std::string Headers(uint32_t stream, uint8_t flags = kFlagEndHeaders) {
  return Frame(FrameType::kHeaders, flags, stream, "block");
}

std::string Streams(int count, const std::string& after_each = "") {
  std::string out;
  for (int i = 0; i < count; ++i) out += Headers(static_cast<uint32_t>(2 * i + 1)) + after_each;
  return out;
}

GuardLimits SmallLimits() {
  GuardLimits limits;
  limits.max_streams = 4;
  limits.max_header_block_bytes = 100;
  limits.max_resets_per_second = 3;
  return limits;
}

CloseReason Verdict(const std::vector<std::string>& pieces,
                    const GuardLimits& limits = SmallLimits()) {
  FrameGuard guard(limits, kNow);
  for (const std::string& piece : pieces) {
    const CloseReason reason = guard.FromClient(piece, kNow);
    if (reason != CloseReason::kNone) return reason;
  }
  return CloseReason::kNone;
}

struct Case {
  const char* what;
  std::string bytes;  // after the preface and SETTINGS
  CloseReason reason;
};

std::vector<Case> Cases() {
  const std::string reset = Frame(FrameType::kReset, 0, 1, "0000");
  const std::string ping = Frame(FrameType::kPing, 0, 0, "01234567");
  const std::string block = std::string(40, 'h');
  return {
      {"an ordinary call",
       Headers(1) + Frame(FrameType::kData, kFlagEndStream, 1, "request") + ping,
       CloseReason::kNone},
      {"a block in pieces",
       Headers(1, 0) + Frame(FrameType::kContinuation, 0, 1, block) +
           Frame(FrameType::kContinuation, kFlagEndHeaders, 1, "h") + ping,
       CloseReason::kNone},
      {"a block that does not end",
       Headers(1, 0) + Repeat(3, Frame(FrameType::kContinuation, 0, 1, block)),
       CloseReason::kHeaderBlock},
      {"empty CONTINUATION frames",
       Headers(1, 0) + Repeat(10, Frame(FrameType::kContinuation, 0, 1)),
       CloseReason::kHeaderBlock},
      {"one large HEADERS frame",
       Frame(FrameType::kHeaders, kFlagEndHeaders, 1, std::string(101, 'h')),
       CloseReason::kHeaderBlock},
      {"another frame inside a block", Headers(1, 0) + ping, CloseReason::kProtocol},
      {"another stream inside a block", Headers(1, 0) + Frame(FrameType::kContinuation, 0, 3, "h"),
       CloseReason::kProtocol},
      {"CONTINUATION without HEADERS", Frame(FrameType::kContinuation, 0, 1, "h"),
       CloseReason::kProtocol},
      {"a stream of the server", Headers(2), CloseReason::kProtocol},
      {"stream 0", Headers(0), CloseReason::kProtocol},
      {"as many streams as allowed", Streams(4), CloseReason::kNone},
      {"one stream more", Streams(5), CloseReason::kStreams},
      {"as many resets as allowed", Headers(1) + Repeat(6, reset), CloseReason::kNone},
      {"one reset more", Headers(1) + Repeat(7, reset), CloseReason::kResets},
      {"pings", Repeat(200, ping), CloseReason::kNone},
      {"too many pings", Repeat(201, ping), CloseReason::kPings},
      {"a long ping", Frame(FrameType::kPing, 0, 0, "012345678"), CloseReason::kProtocol},
      {"too many SETTINGS", Repeat(100, Frame(FrameType::kSettings, 0, 0)), CloseReason::kSettings},
      {"large SETTINGS", Frame(FrameType::kSettings, 0, 0, std::string(606, 's')),
       CloseReason::kSettings},
      {"a large unknown frame",
       Frame(static_cast<FrameType>(99), 0, 0, std::string((1 << 14) + 1, 'x')),
       CloseReason::kProtocol},
      {"DATA on stream 0", Frame(FrameType::kData, 0, 0, "x"), CloseReason::kProtocol},
  };
}

TEST(FrameGuardTest, EachCutGivesTheSameVerdict) {
  for (const Case& each : Cases()) {
    const std::string bytes = Http2Hello() + each.bytes;
    EXPECT_EQ(Verdict({bytes}), each.reason) << each.what;
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      ASSERT_EQ(Verdict({bytes.substr(0, cut), bytes.substr(cut)}), each.reason)
          << each.what << ", cut at " << cut;
    }
    std::vector<std::string> single;
    for (const char byte : bytes) single.emplace_back(1, byte);
    EXPECT_EQ(Verdict(single), each.reason) << each.what << ", byte by byte";
  }
}

TEST(FrameGuardTest, OtherProtocolsAreRefusedAtTheirFirstWrongByte) {
  EXPECT_EQ(Verdict({"GET / HTTP/1.1\r\n"}), CloseReason::kProtocol);
  EXPECT_EQ(Verdict({"\x16\x03\x01"}), CloseReason::kProtocol);
  EXPECT_EQ(Verdict({"PRI", " * HTTP/2.1"}), CloseReason::kProtocol);
  EXPECT_EQ(Verdict({"PRI * HTTP/2.0\r\n\r\nSM\r\n"}), CloseReason::kNone);
}

TEST(FrameGuardTest, FloodsOfSmallFramesEnd) {
  for (const std::string& frame :
       {Frame(FrameType::kWindowUpdate, 0, 0, "0001"), Frame(FrameType::kPriority, 0, 1, "00000"),
        Frame(FrameType::kSettings, kFlagAck, 0), Frame(FrameType::kPing, kFlagAck, 0, "01234567"),
        Frame(FrameType::kData, 0, 1), Frame(static_cast<FrameType>(77), 0, 0)}) {
    EXPECT_EQ(Verdict({Http2Hello(), Repeat(20'000, frame)}), CloseReason::kNone);
    EXPECT_EQ(Verdict({Http2Hello(), Repeat(20'001, frame)}), CloseReason::kFrames);
  }
}

TEST(FrameGuardTest, FramesOfTheServerPermitFramesOfTheClient) {
  FrameGuard guard(SmallLimits(), kNow);
  const std::string ping = Frame(FrameType::kPing, 0, 0, "01234567");
  ASSERT_EQ(guard.FromClient(Http2Hello() + Headers(1, 0x5), kNow), CloseReason::kNone);
  ASSERT_EQ(guard.FromClient(Repeat(200, ping), kNow), CloseReason::kNone);
  guard.FromServer(Repeat(50, Frame(FrameType::kData, 0, 1, "token")));
  EXPECT_EQ(guard.FromClient(Repeat(50, ping), kNow), CloseReason::kNone);
  EXPECT_EQ(guard.FromClient(ping, kNow), CloseReason::kPings);
}

TEST(FrameGuardTest, RatesRefillWithTime) {
  FrameGuard guard(SmallLimits(), kNow);
  const std::string resets = Repeat(3, Frame(FrameType::kReset, 0, 1, "0000"));
  ASSERT_EQ(guard.FromClient(Http2Hello() + resets + resets, kNow), CloseReason::kNone);
  for (int second = 1; second < 10; ++second) {
    ASSERT_EQ(guard.FromClient(resets, kNow + second * 1'000'000), CloseReason::kNone);
  }
  EXPECT_EQ(guard.FromClient(resets, kNow + 9'500'000), CloseReason::kResets);
}

TEST(FrameGuardTest, StreamsEndByEitherSide) {
  FrameGuard guard(SmallLimits(), kNow);
  ASSERT_EQ(guard.FromClient(Http2Hello() + Streams(4), kNow), CloseReason::kNone);
  EXPECT_EQ(guard.open_streams(), 4U);
  const std::string from_server = Frame(FrameType::kHeaders, 0x5, 1, "trailers") +
                                  Frame(FrameType::kData, kFlagEndStream, 3, "x") +
                                  Frame(FrameType::kReset, 0, 5, "0000") +
                                  Frame(FrameType::kData, 0, 7, "goes on");
  for (const char byte : from_server) guard.FromServer({&byte, 1});
  EXPECT_EQ(guard.open_streams(), 1U);
  EXPECT_EQ(guard.num_incoming(), 1);
  EXPECT_EQ(guard.incoming_bytes(), kStreamBytes);
  ASSERT_EQ(guard.FromClient(Frame(FrameType::kReset, 0, 7, "0000"), kNow), CloseReason::kNone);
  EXPECT_EQ(guard.open_streams(), 0U);
  EXPECT_EQ(guard.incoming_bytes(), 0);
}

TEST(FrameGuardTest, StreamsWithoutAnAnswerAreCounted) {
  FrameGuard guard(SmallLimits(), kNow);
  ASSERT_EQ(guard.FromClient(Http2Hello() + Streams(3), kNow), CloseReason::kNone);
  EXPECT_EQ(guard.num_unanswered(), 3);
  guard.FromServer(Frame(FrameType::kHeaders, kFlagEndHeaders, 1, "h") +
                   Frame(FrameType::kData, 0, 1, "x"));
  EXPECT_EQ(guard.num_unanswered(), 2);
  const std::string reset_answered = Frame(FrameType::kReset, 0, 1, "0000");
  ASSERT_EQ(guard.FromClient(reset_answered, kNow), CloseReason::kNone);
  EXPECT_EQ(guard.num_abandoned(), 0);
  const std::string reset_unanswered = Frame(FrameType::kReset, 0, 3, "0000");
  ASSERT_EQ(guard.FromClient(reset_unanswered + reset_unanswered, kNow), CloseReason::kNone);
  EXPECT_EQ(guard.num_abandoned(), 1);
  EXPECT_EQ(guard.num_unanswered(), 1);
}

TEST(FrameGuardTest, AbandonedStreamsAreForgotten) {
  GuardLimits limits;
  FrameGuard guard(limits, kNow);
  const std::string reset("\0\0\0\x08", 4);
  std::string abandoned;
  for (uint32_t stream = 1; stream < 2 * 100; stream += 2) {
    abandoned += Headers(stream, 0x5) + Frame(FrameType::kReset, 0, stream, reset);
  }
  const size_t bytes_each = abandoned.size() / 100;
  ASSERT_EQ(guard.FromClient(Http2Hello() + abandoned.substr(0, 8 * bytes_each), kNow),
            CloseReason::kNone);
  EXPECT_FALSE(guard.abandons_often(kNow));
  ASSERT_EQ(guard.FromClient(abandoned.substr(8 * bytes_each), kNow), CloseReason::kNone);
  EXPECT_TRUE(guard.abandons_often(kNow + 7'000'000));
  EXPECT_FALSE(guard.abandons_often(kNow + 9'000'000));
  EXPECT_EQ(guard.num_abandoned(), 100);
  // A stream that was answered is not abandoned.
  const int64_t later_us = kNow + 9'000'000;
  for (uint32_t stream = 201; stream < 2 * 200; stream += 2) {
    ASSERT_EQ(guard.FromClient(Headers(stream, 0x5), later_us), CloseReason::kNone);
    guard.FromServer(Frame(FrameType::kHeaders, kFlagEndHeaders, stream, "h"));
    ASSERT_EQ(guard.FromClient(Frame(FrameType::kReset, 0, stream, reset), later_us),
              CloseReason::kNone);
  }
  EXPECT_FALSE(guard.abandons_often(later_us));
}

TEST(FrameGuardTest, RequestsCountUntilTheirLastByte) {
  FrameGuard guard(SmallLimits(), kNow);
  const std::string data = Frame(FrameType::kData, kFlagEndStream, 1, std::string(1000, 'x'));
  ASSERT_EQ(guard.FromClient(Http2Hello() + Headers(1) + data.substr(0, data.size() - 1), kNow),
            CloseReason::kNone);
  EXPECT_GT(guard.incoming_bytes(), kStreamBytes + 1000);
  ASSERT_EQ(guard.FromClient("x", kNow), CloseReason::kNone);
  EXPECT_EQ(guard.incoming_bytes(), 0);
  EXPECT_EQ(guard.open_streams(), 1U);
}

// Sends DATA frames of one MiB to the streams in turn; returns the MiB that pass.
int MibUntilClosed(FrameGuard* guard, int num_streams) {
  const std::string data(1 << 20, 'x');
  for (int i = 0;; ++i) {
    const auto stream = static_cast<uint32_t>(2 * (i % num_streams) + 1);
    const CloseReason reason = guard->FromClient(Frame(FrameType::kData, 0, stream, data), kNow);
    if (reason == CloseReason::kNone) continue;
    EXPECT_EQ(reason, CloseReason::kIncomingBytes);
    return i;
  }
}

TEST(FrameGuardTest, UnfinishedRequestsAreBounded) {
  FrameGuard one(SmallLimits(), kNow);
  ASSERT_EQ(one.FromClient(Http2Hello() + Streams(1), kNow), CloseReason::kNone);
  EXPECT_EQ(MibUntilClosed(&one, 1), 79);  // one largest message of 64 MiB passes
  FrameGuard several(SmallLimits(), kNow);
  ASSERT_EQ(several.FromClient(Http2Hello() + Streams(4), kNow), CloseReason::kNone);
  EXPECT_EQ(MibUntilClosed(&several, 4), 42);  // all but one have 31.5 MiB
}

// As many requests as the limit permits may arrive in part, and their ends may follow later.
TEST(FrameGuardTest, TheBoundsOfUnfinishedRequestsFollowTheStreams) {
  for (const int32_t num_streams : {1024, 1100, 5000}) {
    GuardLimits limits;
    limits.max_streams = num_streams;
    FrameGuard guard(limits, kNow);
    ASSERT_EQ(guard.FromClient(Http2Hello() + Streams(num_streams), kNow), CloseReason::kNone)
        << num_streams;
    for (uint32_t i = 0; i < static_cast<uint32_t>(num_streams); ++i) {
      const std::string data = Frame(FrameType::kData, kFlagEndStream, 2 * i + 1, "request");
      ASSERT_EQ(guard.FromClient(data, kNow), CloseReason::kNone) << num_streams << " " << i;
    }
    EXPECT_EQ(guard.incoming_bytes(), 0);
  }
  GuardLimits limits;
  limits.max_streams = 1024 + 32;  // one MiB more
  FrameGuard one(limits, kNow);
  ASSERT_EQ(one.FromClient(Http2Hello() + Streams(1), kNow), CloseReason::kNone);
  EXPECT_EQ(MibUntilClosed(&one, 1), 80);
}

TEST(FrameGuardTest, SlowClientsAreNoticed) {
  FrameGuard silent(SmallLimits(), kNow);
  EXPECT_EQ(silent.CheckTime(kNow + kPrefaceTimeUs), CloseReason::kNone);
  EXPECT_EQ(silent.CheckTime(kNow + kPrefaceTimeUs + 1), CloseReason::kPrefaceTime);
  FrameGuard guard(SmallLimits(), kNow);
  ASSERT_EQ(guard.FromClient(Http2Hello(), kNow), CloseReason::kNone);
  EXPECT_EQ(guard.CheckTime(kNow + kFirstRequestTimeUs), CloseReason::kNone);
  EXPECT_EQ(guard.CheckTime(kNow + kFirstRequestTimeUs + 1), CloseReason::kFirstRequestTime);
  ASSERT_EQ(guard.FromClient(Headers(1, 0), kNow), CloseReason::kNone);
  EXPECT_EQ(guard.CheckTime(kNow + kHeaderTimeUs + 1), CloseReason::kHeaderTime);
  ASSERT_EQ(guard.FromClient(Frame(FrameType::kContinuation, kFlagEndHeaders, 1), kNow),
            CloseReason::kNone);
  EXPECT_EQ(guard.CheckTime(kNow + kRequestTimeUs), CloseReason::kNone);
  EXPECT_EQ(guard.CheckTime(kNow + kRequestTimeUs + 1), CloseReason::kRequestTime);
  // A stream that the server answers, such as one of reflection, may stay open.
  guard.FromServer(Frame(FrameType::kHeaders, kFlagEndHeaders, 1, "answer"));
  EXPECT_EQ(guard.CheckTime(kNow + 100 * kRequestTimeUs), CloseReason::kNone);
}

TEST(FrameGuardTest, TimeThatIsNotReadIsNotTheClients) {
  constexpr int64_t kUnreadUs = 200'000'000;
  FrameGuard silent(SmallLimits(), kNow);
  silent.Defer(kUnreadUs);
  EXPECT_EQ(silent.CheckTime(kNow + kUnreadUs + kPrefaceTimeUs), CloseReason::kNone);
  EXPECT_EQ(silent.CheckTime(kNow + kUnreadUs + kPrefaceTimeUs + 1), CloseReason::kPrefaceTime);
  FrameGuard guard(SmallLimits(), kNow);
  guard.Defer(kUnreadUs);  // what was not read before a request is no time of the request
  ASSERT_EQ(guard.FromClient(Http2Hello() + Headers(1, 0), kNow), CloseReason::kNone);
  EXPECT_EQ(guard.CheckTime(kNow + kHeaderTimeUs + 1), CloseReason::kHeaderTime);
  guard.Defer(kUnreadUs);
  EXPECT_EQ(guard.CheckTime(kNow + kUnreadUs + kHeaderTimeUs), CloseReason::kNone);
  ASSERT_EQ(guard.FromClient(Frame(FrameType::kContinuation, kFlagEndHeaders, 1), kNow),
            CloseReason::kNone);
  EXPECT_EQ(guard.CheckTime(kNow + kUnreadUs + kRequestTimeUs), CloseReason::kNone);
  EXPECT_EQ(guard.CheckTime(kNow + kUnreadUs + kRequestTimeUs + 1), CloseReason::kRequestTime);
  // A request does not last for ever, even if it is never read.
  guard.Defer(kLongestRequestTimeUs);
  EXPECT_EQ(guard.CheckTime(kNow + kLongestRequestTimeUs), CloseReason::kNone);
  EXPECT_EQ(guard.CheckTime(kNow + kLongestRequestTimeUs + 1), CloseReason::kRequestTime);
}

TEST(FrameGuardTest, GoAwayIsSentBetweenFramesOnly) {
  FrameGuard guard(SmallLimits(), kNow);
  EXPECT_EQ(guard.GoAway(CloseReason::kResets), "");  // no preface
  ASSERT_EQ(guard.FromClient(Http2Hello() + Headers(1), kNow), CloseReason::kNone);
  const std::string expected = Frame(
      FrameType::kGoAway, 0, 0,
      absl::StrCat(std::string("\0\0\0\1\0\0\0\x0b", 8), CloseReasonText(CloseReason::kResets)));
  EXPECT_EQ(guard.GoAway(CloseReason::kResets), expected);
  guard.FromServer(Frame(FrameType::kData, 0, 1, "half").substr(0, 10));
  EXPECT_EQ(guard.GoAway(CloseReason::kResets), "");
}

TEST(TokenBucketTest, ADebtIsBounded) {
  TokenBucket bucket(10, 20, kNow);  // two seconds fill it
  bucket.Force(20, kNow);
  EXPECT_FALSE(bucket.InDebt(kNow));
  bucket.Force(1e9, kNow);
  EXPECT_TRUE(bucket.InDebt(kNow + 1'900'000));
  EXPECT_FALSE(bucket.InDebt(kNow + 2'100'000));
  // What is forced later does not lengthen the debt that had ended before.
  bucket.Force(5, kNow + 3'000'000);
  EXPECT_FALSE(bucket.InDebt(kNow + 3'000'000));
}

TEST(FrameGuardTest, EachReasonHasANameAndAText) {
  std::set<std::string> names;
  for (size_t i = 0; i < kNumCloseReasons; ++i) {
    const auto reason = static_cast<CloseReason>(i);
    EXPECT_TRUE(names.insert(CloseReasonName(reason)).second) << i;
    EXPECT_EQ(std::string(CloseReasonText(reason)).empty(), reason == CloseReason::kNone) << i;
  }
}

}  // namespace
}  // namespace tessera::testing

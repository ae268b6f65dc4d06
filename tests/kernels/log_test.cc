// Tests of the log: each message is one line of bounded length, and a flood of events of one kind
// is a few lines and a summary.
#include "kernels/base/log.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/base/log_limiter.h"
#include "tests/lib/log_capture.h"

namespace tessera {
namespace {

TEST(LogTest, ControlCharactersAndInvalidBytesAreEscaped) {
  EXPECT_EQ(LogText("plain \"text\" \\"), "plain \"text\" \\");
  EXPECT_EQ(LogText("a\nb\rc\td"), "a\\nb\\rc\\td");
  EXPECT_EQ(LogText(std::string("\0\x1b[31m\x7f", 7)), "\\x00\\x1b[31m\\x7f");
  EXPECT_EQ(LogText("gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x98\x80"),
            "gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x98\x80");
  EXPECT_EQ(LogText("\xC2\x9B"), "\\xc2\\x9b");           // a control character of two bytes
  EXPECT_EQ(LogText("\xE2\x80\xA8"), "\\xe2\\x80\\xa8");  // U+2028, a line separator
  EXPECT_EQ(LogText("\xFF\xC3"), "\\xff\\xc3");           // no UTF-8, a cut code point
  EXPECT_EQ(LogText("\xC0\xAF"), "\\xc0\\xaf");           // longer than need be
  EXPECT_EQ(LogText("\xED\xA0\x80"), "\\xed\\xa0\\x80");  // a surrogate
  EXPECT_EQ(LogText("\xF4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // above U+10FFFF
  EXPECT_EQ(LogQuoted("a \"b\" \\ \n", 100), "\"a \\\"b\\\" \\\\ \\n\"");
}

TEST(LogTest, TextsAreCutAtACodePoint) {
  EXPECT_EQ(LogText("0123456789", 10), "0123456789");
  EXPECT_EQ(LogText("0123456789X", 10), "0123456...");
  EXPECT_EQ(LogText("01234\xE2\x82\xAC"
                    "89X",
                    10),
            "01234...");
  EXPECT_EQ(LogText("012345\n\n\n\n", 10), "012345...");
  EXPECT_EQ(LogQuoted("0123456789X", 10), "\"0123456...\"");
}

TEST(LogTest, AMessageIsOneBoundedLine) {
  testing::LogCapture log;
  TLOG_INFO("{}", "first\nsecond\x1b[2J");
  TLOG_WARN("{}", std::string(1'000'000, 'x'));
  const std::string text = log.text();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_EQ(text.rfind("[info] first\\nsecond\\x1b[2J\n[warning] xxx", 0), 0u) << text;
  EXPECT_LT(text.size(), kMaxLogBytes + 100);
  EXPECT_EQ(text.substr(text.size() - 4), "...\n");
}

TEST(LogLimiterTest, ABurstThenASummary) {
  LogLimiter limiter({.burst = 3, .period_us = 1000});
  int num_admitted = 0;
  for (int64_t now_us = 0; now_us < 10; ++now_us) num_admitted += limiter.Admit("x", now_us);
  EXPECT_EQ(num_admitted, 3);
  EXPECT_TRUE(limiter.Admit("y", 10));  // a kind does not limit another kind
  EXPECT_TRUE(limiter.has_summaries());
  EXPECT_TRUE(limiter.TakeSummaries(1002).empty());  // the first counted event was at 3
  const auto due = limiter.TakeSummaries(1003);
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].kind, "x");
  EXPECT_EQ(due[0].count, 7);
  EXPECT_EQ(due[0].span_us, 1000);
  EXPECT_FALSE(limiter.has_summaries());
  EXPECT_TRUE(limiter.TakeSummaries(5000).empty());
  // The next period has a burst of its own.
  EXPECT_TRUE(limiter.Admit("x", 1003));
  EXPECT_TRUE(limiter.Admit("x", 1004));
  EXPECT_TRUE(limiter.Admit("x", 1005));
  EXPECT_FALSE(limiter.Admit("x", 1006));
}

TEST(LogLimiterTest, AFloodIsToldEachPeriodAndAtTheEnd) {
  LogLimiter limiter({.burst = 1, .period_us = 1000});
  int64_t num_admitted = 0;
  int64_t num_told = 0;
  int num_summaries = 0;
  for (int64_t now_us = 0; now_us < 10'500; ++now_us) {
    num_admitted += limiter.Admit("flood", now_us);
    for (const LogLimiter::Summary& summary : limiter.TakeSummaries(now_us)) {
      num_told += summary.count;
      ++num_summaries;
    }
  }
  EXPECT_EQ(num_admitted, 11);
  EXPECT_GE(num_summaries, 9);
  EXPECT_LE(num_summaries, 11);
  for (const LogLimiter::Summary& summary : limiter.TakeSummaries(10'500, /*all=*/true)) {
    num_told += summary.count;
  }
  EXPECT_EQ(num_admitted + num_told, 10'500);
  EXPECT_FALSE(limiter.has_summaries());
}

}  // namespace
}  // namespace tessera

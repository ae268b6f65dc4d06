// Tests of the four Unicode normalization forms: the result equals utf8proc_map's, and the time is
// linear in the length of the text for any order of combining marks.
#include "server/text/tokenizer/normalizer.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <cstdlib>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace tessera {
namespace {

using Form = Normalizer::Form;

std::string Normalized(Form form, std::string text) {
  Normalizer normalizer;
  normalizer.AddForm(form);
  normalizer.Apply(&text);
  return text;
}

// Normalizes with utf8proc_map, which takes quadratic time.
std::string ByLibrary(Form form, const std::string& text) {
  int options = UTF8PROC_STABLE;
  options |= form == Form::kNfc || form == Form::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == Form::kNfkc || form == Form::kNfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* raw = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &raw,
                                             static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(raw, &std::free);
  if (size < 0) {
    ADD_FAILURE() << utf8proc_errmsg(size) << ": " << text;
    return "";
  }
  return std::string(reinterpret_cast<const char*>(raw), static_cast<size_t>(size));
}

std::string Encoded(utf8proc_int32_t code_point) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t size = utf8proc_encode_char(code_point, bytes);
  return std::string(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
}

constexpr Form kForms[] = {Form::kNfc, Form::kNfd, Form::kNfkc, Form::kNfkd};

TEST(Normalizer, KnownTexts) {
  EXPECT_EQ(Normalized(Form::kNfc, "e\u0301"), "\u00e9");
  EXPECT_EQ(Normalized(Form::kNfd, "\u00e9"), "e\u0301");
  EXPECT_EQ(Normalized(Form::kNfc, "a\u0301\u0323"),
            "\u1ea1\u0301");  // the mark below composes first
  EXPECT_EQ(Normalized(Form::kNfkc, "\ufb01"), "fi");
  EXPECT_EQ(Normalized(Form::kNfc, "\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(Normalized(Form::kNfc, "\u0958"), "\u0915\u093c");  // excluded from composition
  EXPECT_EQ(Normalized(Form::kNfkd, "\ufdfa"), ByLibrary(Form::kNfkd, "\ufdfa"));
}

TEST(Normalizer, EveryCodePointAsTheLibrary) {
  for (utf8proc_int32_t c = 0x80; c < 0x30000; ++c) {
    if (!utf8proc_codepoint_valid(c)) continue;
    const std::string text = "a" + Encoded(c);
    for (const Form form : kForms) {
      ASSERT_EQ(Normalized(form, text), ByLibrary(form, text)) << std::hex << c;
    }
  }
}

// The random texts are mostly combining marks of few or many classes, between letters that compose
// with them.
TEST(Normalizer, RandomTextsAsTheLibrary) {
  std::mt19937 random(5);
  const auto pick = [&random](utf8proc_int32_t first, utf8proc_int32_t last) {
    return std::uniform_int_distribution<utf8proc_int32_t>(first, last)(random);
  };
  for (int repeat = 0; repeat < 4000; ++repeat) {
    std::string text;
    const int length = pick(1, 24);
    for (int i = 0; i < length; ++i) {
      const int kind = pick(0, 9);
      if (kind < 5) {
        text += Encoded(pick(0x300, 0x36f));
      } else if (kind < 7) {
        text += Encoded(pick('a', 'z'));
      } else if (kind < 8) {
        text += Encoded(pick(0xc0, 0x24f));
      } else if (kind < 9) {
        text += Encoded(pick(0x591, 0x5c7));  // Hebrew points, each with its own class
      } else {
        text += Encoded(pick(0x1100, 0x11ff));
      }
    }
    for (const Form form : kForms) ASSERT_EQ(Normalized(form, text), ByLibrary(form, text)) << text;
  }
}

// The marks of a 2 MiB prompt are in the wrong order. utf8proc_map would take tens of minutes.
TEST(Normalizer, MarksInTheWrongOrderTakeLinearTime) {
  constexpr int kMarks = 500'000;
  std::string text = "q";
  std::string ordered = "q";
  for (int i = 0; i < kMarks; ++i) text += "\u0301";
  for (int i = 0; i < kMarks; ++i) text += "\u0323";
  for (int i = 0; i < kMarks; ++i) ordered += "\u0323";
  for (int i = 0; i < kMarks; ++i) ordered += "\u0301";
  for (const Form form : kForms) {
    const std::clock_t start = std::clock();  // CPU time, because the machine may be busy
    EXPECT_TRUE(Normalized(form, text) == ordered);
    EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 10.0);
  }
}

TEST(Normalizer, TextThatIsNotUtf8StaysAsItIs) {
  for (const Form form : kForms) EXPECT_EQ(Normalized(form, "e\u0301\xff"), "e\u0301\xff");
}

}  // namespace
}  // namespace tessera

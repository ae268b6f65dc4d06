#include "server/text/template/unicode.h"

#include <string.h>
#include <utf8proc.h>

#include <algorithm>
#include <iterator>

namespace tessera::jinja {
namespace {

constexpr char32_t kSigma = 0x3A3;
constexpr char32_t kSmallSigma = 0x3C3;
constexpr char32_t kFinalSigma = 0x3C2;

int Category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

bool IsAsciiUpper(char32_t c) { return c >= 'A' && c <= 'Z'; }
bool IsAsciiLower(char32_t c) { return c >= 'a' && c <= 'z'; }

bool IsLineEnd(char32_t c) {
  return (c >= '\n' && c <= '\r') || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

struct SpecialCase {
  char32_t code_point;
  const char* upper;
  const char* title;
  const char* lower;
};

struct PointRange {
  char32_t first;
  char32_t last;
};

// The code points whose upper, title or lower case is more than one code point (kSpecialCases); the
// cased code points and those that are skipped in the search for one, both for the lower case of a
// sigma (kCased, kCaseIgnored); and the lower and upper case code points that are no letters.
// clang-format off
#include "server/text/template/case_tables.inc"
// clang-format on

template <size_t kSize>
bool IsIn(const PointRange (&ranges)[kSize], char32_t c) {
  const auto* const found =
      std::upper_bound(std::begin(ranges), std::end(ranges), c,
                       [](char32_t point, const PointRange& range) { return point < range.first; });
  return found != std::begin(ranges) && c <= std::prev(found)->last;
}

// Returns null if all cases of the code point are one code point.
const SpecialCase* FindSpecialCase(char32_t c) {
  const auto* const found = std::lower_bound(
      std::begin(kSpecialCases), std::end(kSpecialCases), c,
      [](const SpecialCase& entry, char32_t point) { return entry.code_point < point; });
  return found != std::end(kSpecialCases) && found->code_point == c ? found : nullptr;
}

void AppendUpper(char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(IsAsciiLower(c) ? c - 32 : c));
  } else if (const SpecialCase* special = FindSpecialCase(c)) {
    out->append(special->upper);
  } else {
    AppendCodePoint(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))), out);
  }
}

void AppendTitle(char32_t c, std::string* out) {
  if (c < 0x80) {
    AppendUpper(c, out);
  } else if (const SpecialCase* special = FindSpecialCase(c)) {
    out->append(special->title);
  } else {
    AppendCodePoint(static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))), out);
  }
}

bool IsCased(char32_t c) { return IsUpper(c) || IsLower(c) || Category(c) == UTF8PROC_CATEGORY_LT; }

// The offset of the code point that ends at `end`. REQUIRES: end > 0.
size_t PreviousOffset(absl::string_view text, size_t end) {
  size_t offset = end - 1;
  while (offset > 0 && (static_cast<uint8_t>(text[offset]) & 0xC0) == 0x80) --offset;
  return offset;
}

char32_t CodePointAt(absl::string_view text, size_t offset) { return NextCodePoint(text, &offset); }

// Returns true if the sigma at [begin, end) is the last letter of a word.
bool IsFinalSigma(absl::string_view text, size_t begin, size_t end) {
  bool after_letter = false;
  while (begin > 0 && !after_letter) {
    begin = PreviousOffset(text, begin);
    const char32_t c = CodePointAt(text, begin);
    after_letter = IsIn(kCased, c);
    if (!after_letter && !IsIn(kCaseIgnored, c)) return false;
  }
  while (after_letter && end < text.size()) {
    const char32_t c = NextCodePoint(text, &end);
    if (IsIn(kCased, c)) return false;
    if (!IsIn(kCaseIgnored, c)) return true;
  }
  return after_letter;
}

// Appends the lower case of the code point `c` at [begin, end) of the text.
void AppendLower(absl::string_view text, size_t begin, size_t end, char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(IsAsciiUpper(c) ? c + 32 : c));
  } else if (c == kSigma) {
    AppendCodePoint(IsFinalSigma(text, begin, end) ? kFinalSigma : kSmallSigma, out);
  } else if (const SpecialCase* special = FindSpecialCase(c)) {
    out->append(special->lower);
  } else {
    AppendCodePoint(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
  }
}

// Appends the lower case of the text from byte `position` on.
void AppendLowerFrom(absl::string_view text, size_t position, std::string* out) {
  while (position < text.size()) {
    const size_t begin = position;
    const char32_t c = NextCodePoint(text, &position);
    AppendLower(text, begin, position, c, out);
  }
}

}  // namespace

bool IsValidUtf8(absl::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    if (static_cast<uint8_t>(text[position]) < 0x80) {
      ++position;
      continue;
    }
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t length =
        utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + position,
                         static_cast<utf8proc_ssize_t>(text.size() - position), &code_point);
    if (length <= 0) return false;
    position += static_cast<size_t>(length);
  }
  return true;
}

char32_t NextCodePoint(absl::string_view text, size_t* position) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(text[i])); };
  const size_t at = *position;
  const char32_t first = byte(at);
  const size_t left = text.size() - at;
  if (first < 0xC0 || left < 2) {
    *position += 1;
    return first;
  }
  if (first < 0xE0 || left < 3) {
    *position += 2;
    return ((first & 0x1F) << 6) | (byte(at + 1) & 0x3F);
  }
  if (first < 0xF0 || left < 4) {
    *position += 3;
    return ((first & 0x0F) << 12) | ((byte(at + 1) & 0x3F) << 6) | (byte(at + 2) & 0x3F);
  }
  *position += 4;
  return ((first & 0x07) << 18) | ((byte(at + 1) & 0x3F) << 12) | ((byte(at + 2) & 0x3F) << 6) |
         (byte(at + 3) & 0x3F);
}

void AppendCodePoint(char32_t code_point, std::string* out) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t length =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  out->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
}

std::string CodePointText(char32_t code_point) {
  std::string text;
  AppendCodePoint(code_point, &text);
  return text;
}

size_t CountCodePoints(absl::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

size_t ByteOffset(absl::string_view text, size_t index, size_t from) {
  size_t position = from;
  while (position < text.size() && index > 0) {
    NextCodePoint(text, &position);
    --index;
  }
  return position;
}

std::vector<absl::string_view> SplitCodePoints(absl::string_view text) {
  std::vector<absl::string_view> parts;
  size_t position = 0;
  while (position < text.size()) {
    const size_t begin = position;
    NextCodePoint(text, &position);
    parts.push_back(text.substr(begin, position - begin));
  }
  return parts;
}

bool IsSpace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1C && c <= 0x1F);
  return c == 0x85 || c == 0x2028 || c == 0x2029 || Category(c) == UTF8PROC_CATEGORY_ZS;
}

bool IsAlpha(char32_t c) {
  if (c < 0x80) return IsAsciiUpper(c) || IsAsciiLower(c);
  const int category = Category(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsDecimal(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return Category(c) == UTF8PROC_CATEGORY_ND;
}

bool IsNumeric(char32_t c) {
  const int category = Category(c);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsUpper(char32_t c) {
  if (c < 0x80) return IsAsciiUpper(c);
  return Category(c) == UTF8PROC_CATEGORY_LU || IsIn(kOtherUpper, c);
}

bool IsLower(char32_t c) {
  if (c < 0x80) return IsAsciiLower(c);
  return Category(c) == UTF8PROC_CATEGORY_LL || IsIn(kOtherLower, c);
}

bool IsPrintable(char32_t c) {
  if (c < 0x80) return c >= ' ' && c < 0x7F;
  const int category = Category(c);
  return category != UTF8PROC_CATEGORY_CN && category < UTF8PROC_CATEGORY_ZS;
}

bool IsIdentifierStart(char32_t c) {
  return c == '_' || IsAlpha(c) || Category(c) == UTF8PROC_CATEGORY_NL;
}

bool IsIdentifierPart(char32_t c) {
  if (IsIdentifierStart(c) || IsDecimal(c)) return true;
  const int category = Category(c);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
         category == UTF8PROC_CATEGORY_PC;
}

std::string Upper(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    AppendUpper(NextCodePoint(text, &position), &out);
  }
  return out;
}

std::string Lower(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  AppendLowerFrom(text, 0, &out);
  return out;
}

std::string Capitalize(absl::string_view text) {
  if (text.empty()) return "";
  std::string out;
  size_t position = 0;
  AppendTitle(NextCodePoint(text, &position), &out);
  AppendLowerFrom(text, position, &out);
  return out;
}

std::string Title(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool after_letter = false;
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    const char32_t c = NextCodePoint(text, &position);
    if (after_letter) {
      AppendLower(text, begin, position, c, &out);
    } else {
      AppendTitle(c, &out);
    }
    after_letter = IsCased(c);
  }
  return out;
}

std::string SwapCase(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    const char32_t c = NextCodePoint(text, &position);
    if (IsUpper(c)) {
      AppendLower(text, begin, position, c, &out);
    } else {
      AppendUpper(c, &out);
    }
  }
  return out;
}

absl::string_view Strip(absl::string_view text, Side side, const absl::string_view* chars) {
  std::vector<char32_t> set;
  for (size_t position = 0; chars != nullptr && position < chars->size();) {
    set.push_back(NextCodePoint(*chars, &position));
  }
  std::sort(set.begin(), set.end());
  const auto is_stripped = [&](char32_t c) {
    return chars == nullptr ? IsSpace(c) : std::binary_search(set.begin(), set.end(), c);
  };
  size_t begin = 0;
  size_t end = text.size();
  while (side != Side::kRight && begin < end) {
    size_t next = begin;
    if (!is_stripped(NextCodePoint(text, &next))) break;
    begin = next;
  }
  while (side != Side::kLeft && end > begin) {
    const size_t previous = PreviousOffset(text, end);
    if (!is_stripped(CodePointAt(text, previous))) break;
    end = previous;
  }
  return text.substr(begin, end - begin);
}

std::vector<absl::string_view> SplitLines(absl::string_view text, bool keep_ends) {
  std::vector<absl::string_view> lines;
  size_t begin = 0;
  for (size_t position = 0; position < text.size();) {
    const size_t line_end = position;
    const char32_t c = NextCodePoint(text, &position);
    if (!IsLineEnd(c)) continue;
    if (c == '\r' && position < text.size() && text[position] == '\n') ++position;
    lines.push_back(text.substr(begin, (keep_ends ? position : line_end) - begin));
    begin = position;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::vector<absl::string_view> SplitWhitespace(absl::string_view text, int64_t max_splits) {
  std::vector<absl::string_view> words;
  text = Strip(text, Side::kLeft);
  while (!text.empty()) {
    if (max_splits >= 0 && static_cast<int64_t>(words.size()) == max_splits) {
      words.push_back(text);
      return words;
    }
    size_t end = 0;
    for (size_t next = 0; end < text.size(); end = next) {
      if (IsSpace(NextCodePoint(text, &next))) break;
    }
    words.push_back(text.substr(0, end));
    text = Strip(text.substr(end), Side::kLeft);
  }
  return words;
}

std::vector<absl::string_view> SplitWhitespaceFromRight(absl::string_view text,
                                                        int64_t max_splits) {
  std::vector<absl::string_view> words;
  text = Strip(text, Side::kRight);
  while (!text.empty()) {
    if (max_splits >= 0 && static_cast<int64_t>(words.size()) == max_splits) {
      words.push_back(text);
      break;
    }
    size_t begin = text.size();
    while (begin > 0) {
      const size_t previous = PreviousOffset(text, begin);
      if (IsSpace(CodePointAt(text, previous))) break;
      begin = previous;
    }
    words.push_back(text.substr(begin));
    text = Strip(text.substr(0, begin), Side::kRight);
  }
  std::reverse(words.begin(), words.end());
  return words;
}

size_t FindText(absl::string_view text, absl::string_view needle, size_t begin) {
  if (begin > text.size()) return absl::string_view::npos;
  if (needle.empty()) return begin;
  const void* found =
      memmem(text.data() + begin, text.size() - begin, needle.data(), needle.size());
  if (found == nullptr) return absl::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

size_t FindLastText(absl::string_view text, absl::string_view needle) {
  if (needle.empty()) return text.size();
  const std::string reversed_text(text.rbegin(), text.rend());
  const std::string reversed_needle(needle.rbegin(), needle.rend());
  const size_t found = FindText(reversed_text, reversed_needle);
  if (found == absl::string_view::npos) return found;
  return text.size() - found - needle.size();
}

}  // namespace tessera::jinja

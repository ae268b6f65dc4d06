#include "server/text/template/lexer.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/status.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

constexpr size_t kMaxTokens = size_t{1} << 20;
constexpr size_t kNone = absl::string_view::npos;

// Converts all line ends to \n and drops one line end at the end of the source.
std::string NormalizeNewlines(absl::string_view source) {
  std::string text = absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}});
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// The length of the text without the white space at its end.
size_t TrimmedEnd(absl::string_view text) { return Strip(text, Side::kRight).size(); }

class Lexer final {
 public:
  explicit Lexer(absl::string_view source) : source_(source) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (position_ < source_.size()) {
      RETURN_IF_ERROR(ReadData());
      if (tokens_.size() > kMaxTokens)
        return ErrorAtLine(line_, "the template has too many tokens");
    }
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void Add(TokenKind kind, absl::string_view text) {
    Token token;
    token.kind = kind;
    token.line = line_;
    token.text = std::string(text);
    tokens_.push_back(std::move(token));
  }

  absl::Status Fail(absl::string_view why) const { return ErrorAtLine(line_, why); }

  bool At(absl::string_view text) const { return source_.substr(position_, text.size()) == text; }

  // Moves past `count` bytes and counts their lines.
  void Skip(size_t count) {
    const absl::string_view skipped = source_.substr(position_, count);
    line_ += static_cast<int>(std::count(skipped.begin(), skipped.end(), '\n'));
    position_ += skipped.size();
    line_starting_ = !skipped.empty() && skipped.back() == '\n';
  }

  void SkipSpace() {
    const absl::string_view rest = source_.substr(position_);
    Skip(rest.size() - Strip(rest, Side::kLeft).size());
  }

  // The position after the white space that starts at `at`.
  size_t SpaceEnd(size_t at) const {
    return source_.size() - Strip(source_.substr(at), Side::kLeft).size();
  }

  // The position of the next {{, {% or {#.
  size_t FindTag(size_t from) const {
    for (size_t at = source_.find('{', from); at != kNone; at = source_.find('{', at + 1)) {
      const char next = at + 1 < source_.size() ? source_[at + 1] : 0;
      if (next == '{' || next == '%' || next == '#') return at;
    }
    return kNone;
  }

  char SignAt(size_t at) const {
    const char sign = at < source_.size() ? source_[at] : 0;
    return sign == '-' || sign == '+' ? sign : 0;
  }

  // Removes the white space that a tag trims from the text before it. `sign` is the tag's mark; a
  // variable without a mark keeps the indentation before it.
  absl::string_view StripBefore(absl::string_view text, char sign, bool is_variable) const {
    if (sign == '-') return text.substr(0, TrimmedEnd(text));
    if (sign == '+' || is_variable) return text;
    const size_t newline = text.rfind('\n');
    const size_t line_begin = newline == kNone ? 0 : newline + 1;
    if (line_begin == 0 && !line_starting_) return text;
    const bool is_blank = TrimmedEnd(text.substr(line_begin)) == 0;
    return is_blank ? text.substr(0, line_begin) : text;
  }

  absl::Status ReadData() {
    const size_t tag = FindTag(position_);
    if (tag == kNone) {
      Add(TokenKind::kData, source_.substr(position_));
      Skip(source_.size() - position_);
      return absl::OkStatus();
    }
    const absl::string_view text = source_.substr(position_, tag - position_);
    const char kind = source_[tag + 1];
    const char sign = SignAt(tag + 2);
    const absl::string_view kept = StripBefore(text, sign, kind == '{');
    if (!kept.empty()) Add(TokenKind::kData, kept);
    Skip(text.size());
    size_t raw_end = 0;
    if (kind == '%' && MatchRawTag(tag, "raw", &raw_end)) {
      Skip(raw_end - position_);
      return ReadRaw();
    }
    Skip(sign == 0 ? 2 : 3);
    if (kind == '#') return ReadComment();
    const bool is_block = kind == '%';
    Add(is_block ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, "");
    return ReadTag(is_block);
  }

  // Matches `{%[-+]? name [-+]?%}` at `at`. *end is set to the position after the tag and after the
  // white space that it trims.
  bool MatchRawTag(size_t at, absl::string_view name, size_t* end) const {
    size_t next = at + 2;
    if (SignAt(next) != 0) ++next;
    next = SpaceEnd(next);
    if (source_.substr(next, name.size()) != name) return false;
    next = SpaceEnd(next + name.size());
    const bool is_end = name == "endraw";
    if (source_.substr(next, 3) == "-%}") {
      *end = SpaceEnd(next + 3);
    } else if (is_end && source_.substr(next, 3) == "+%}") {
      *end = next + 3;
    } else if (source_.substr(next, 2) == "%}") {
      *end = next + 2;
      if (is_end && source_.substr(*end, 1) == "\n") ++*end;
    } else {
      return false;
    }
    return true;
  }

  // Reads the text after a {% raw %} tag. As in jinja2, a raw tag at the end of the source needs no
  // {% endraw %}.
  absl::Status ReadRaw() {
    if (position_ >= source_.size()) return absl::OkStatus();
    size_t end = 0;
    size_t tag = source_.find("{%", position_);
    while (tag != kNone && !MatchRawTag(tag, "endraw", &end)) tag = source_.find("{%", tag + 1);
    if (tag == kNone) return Fail("Missing end of raw directive");
    const absl::string_view text = source_.substr(position_, tag - position_);
    const absl::string_view kept = StripBefore(text, SignAt(tag + 2), false);
    if (!kept.empty()) Add(TokenKind::kData, kept);
    Skip(end - position_);
    return absl::OkStatus();
  }

  absl::Status ReadComment() {
    if (position_ >= source_.size()) return absl::OkStatus();
    const size_t end = source_.find("#}", position_);
    if (end == kNone) return Fail("Missing end of comment tag");
    const char sign = end > position_ ? SignAt(end - 1) : 0;
    Skip(end + 2 - position_);
    if (sign == '-') SkipSpace();
    if (sign == 0 && At("\n")) Skip(1);
    return absl::OkStatus();
  }

  // Reads the end of the tag if it is at the current position and no bracket is open.
  bool ReadTagEnd(bool is_block) {
    if (!brackets_.empty()) return false;
    const absl::string_view close = is_block ? "%}" : "}}";
    const bool minus = At(is_block ? "-%}" : "-}}");
    const bool plus = is_block && At("+%}");
    if (!minus && !plus && !At(close)) return false;
    Add(is_block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
    Skip(minus || plus ? 3 : 2);
    if (minus) SkipSpace();
    if (is_block && !minus && !plus && At("\n")) Skip(1);
    return true;
  }

  absl::Status ReadTag(bool is_block) {
    while (position_ < source_.size()) {
      if (tokens_.size() > kMaxTokens) return Fail("the template has too many tokens");
      if (ReadTagEnd(is_block)) return absl::OkStatus();
      const size_t before = position_;
      SkipSpace();
      if (position_ != before) continue;
      RETURN_IF_ERROR(ReadExpressionToken());
    }
    brackets_.clear();
    return absl::OkStatus();  // the parser reports the missing end
  }

  absl::Status ReadExpressionToken() {
    const char c = source_[position_];
    if (absl::ascii_isdigit(static_cast<unsigned char>(c))) return ReadNumber();
    if (c == '\'' || c == '"') return ReadString();
    size_t next = position_;
    if (IsIdentifierStart(NextCodePoint(source_, &next))) {
      while (next < source_.size()) {
        size_t after = next;
        if (!IsIdentifierPart(NextCodePoint(source_, &after))) break;
        next = after;
      }
      Add(TokenKind::kName, source_.substr(position_, next - position_));
      Skip(next - position_);
      return absl::OkStatus();
    }
    return ReadOperator();
  }

  // The position after (\d+_)*\d+ at `at`; `at` itself if there are no digits.
  template <typename IsDigit>
  size_t DigitsEnd(size_t at, IsDigit is_digit) const {
    const auto digit_at = [&](size_t i) { return i < source_.size() && is_digit(source_[i]); };
    if (!digit_at(at)) return at;
    while (digit_at(at) || (source_.substr(at, 1) == "_" && digit_at(at + 1))) ++at;
    return at;
  }

  absl::Status ReadNumber() {
    const auto decimal = [](char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); };
    const bool after_dot = position_ > 0 && source_[position_ - 1] == '.';
    const size_t whole_end = DigitsEnd(position_, decimal);
    size_t end = whole_end;
    if (!after_dot) {
      if (source_.substr(end, 1) == ".") {
        const size_t fraction_end = DigitsEnd(end + 1, decimal);
        if (fraction_end > end + 1) end = fraction_end;
      }
      if (end < source_.size() && (source_[end] | 0x20) == 'e') {
        const size_t digits = end + 1 + (SignAt(end + 1) != 0 ? 1 : 0);
        const size_t exponent_end = DigitsEnd(digits, decimal);
        if (exponent_end > digits) end = exponent_end;
      }
    }
    if (end != whole_end) return AddFloat(end);
    return ReadInteger(whole_end);
  }

  absl::Status AddFloat(size_t end) {
    const std::string digits =
        absl::StrReplaceAll(source_.substr(position_, end - position_), {{"_", ""}});
    Add(TokenKind::kFloat, "");
    if (!absl::SimpleAtod(digits, &tokens_.back().real)) return Fail("not a number");
    Skip(end - position_);
    return absl::OkStatus();
  }

  absl::Status ReadInteger(size_t decimal_end) {
    int base = 10;
    size_t digits = position_;
    size_t end = decimal_end;
    const char letter = source_.size() > position_ + 1 ? source_[position_ + 1] | 0x20 : 0;
    const std::pair<char, int> prefixes[] = {{'x', 16}, {'o', 8}, {'b', 2}};
    for (const auto& [prefix, prefix_base] : prefixes) {
      if (source_[position_] != '0' || letter != prefix) continue;
      const auto is_digit = [radix = prefix_base](char c) {
        const int value = absl::ascii_isdigit(static_cast<unsigned char>(c)) ? c - '0'
                          : absl::ascii_isxdigit(static_cast<unsigned char>(c))
                              ? (c | 0x20) - 'a' + 10
                              : 99;
        return value < radix;
      };
      const size_t first = position_ + 2 + (source_.substr(position_ + 2, 1) == "_" ? 1 : 0);
      const size_t prefixed_end = DigitsEnd(first, is_digit);
      if (prefixed_end == first) continue;
      base = prefix_base;
      digits = position_ + 2;
      end = prefixed_end;
    }
    // A decimal number that starts with 0 consists of zeros only.
    if (base == 10 && source_[position_] == '0') {
      end = DigitsEnd(position_, [](char c) { return c == '0'; });
    }
    const std::string text = absl::StrReplaceAll(source_.substr(digits, end - digits), {{"_", ""}});
    Add(TokenKind::kInteger, "");
    const auto parsed =
        std::from_chars(text.data(), text.data() + text.size(), tokens_.back().integer, base);
    if (parsed.ec != std::errc()) return Fail("an integer exceeds 64 bits");
    Skip(end - position_);
    return absl::OkStatus();
  }

  absl::Status ReadString() {
    const char quote = source_[position_];
    size_t end = position_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size())
      return Fail(absl::StrCat("unexpected char '", std::string(1, quote), "'"));
    const absl::StatusOr<std::string> text =
        UnescapeString(source_.substr(position_ + 1, end - position_ - 1));
    if (!text.ok()) return Fail(absl::string_view(text.status().message()));
    Add(TokenKind::kString, *text);
    Skip(end + 1 - position_);
    return absl::OkStatus();
  }

  absl::Status ReadOperator() {
    static constexpr absl::string_view kPairs[] = {"//", "**", "==", "!=", ">=", "<="};
    const absl::string_view rest = source_.substr(position_);
    size_t length = 1;
    for (const absl::string_view pair : kPairs) {
      if (rest.substr(0, 2) == pair) length = 2;
    }
    const absl::string_view symbol = rest.substr(0, length);
    if (length == 1 && absl::string_view("+-/*%~[](){}><=.:|,;").find(symbol) == kNone) {
      return Fail(absl::StrCat("unexpected char '", rest.substr(0, ByteOffset(rest, 1)), "'"));
    }
    RETURN_IF_ERROR(Balance(symbol[0]));
    Add(TokenKind::kOperator, symbol);
    Skip(length);
    return absl::OkStatus();
  }

  absl::Status Balance(char c) {
    if (c == '{') brackets_.push_back('}');
    if (c == '(') brackets_.push_back(')');
    if (c == '[') brackets_.push_back(']');
    if (c != '}' && c != ')' && c != ']') return absl::OkStatus();
    if (brackets_.empty()) return Fail(absl::StrCat("unexpected '", std::string(1, c), "'"));
    if (brackets_.back() != c) {
      return Fail(absl::StrCat("unexpected '", std::string(1, c), "', expected '",
                               std::string(1, brackets_.back()), "'"));
    }
    brackets_.pop_back();
    return absl::OkStatus();
  }

  const absl::string_view source_;
  size_t position_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the last text that was read ended with a line end
  std::string brackets_;       // the closing brackets of the open brackets
  std::vector<Token> tokens_;
};

// Appends the code point of an escape with `digits` hexadecimal digits at `at`.
absl::Status AppendHex(absl::string_view literal, size_t at, size_t digits, std::string* out) {
  const absl::string_view text = literal.substr(at, digits);
  uint32_t code_point = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), code_point, 16);
  if (text.size() != digits || parsed.ptr != text.data() + text.size()) {
    return absl::InvalidArgumentError("truncated escape in a string");
  }
  const bool is_surrogate = code_point >= 0xD800 && code_point <= 0xDFFF;
  if (is_surrogate || code_point > 0x10FFFF) {
    return absl::InvalidArgumentError("an escape in a string names no character");
  }
  AppendCodePoint(static_cast<char32_t>(code_point), out);
  return absl::OkStatus();
}

}  // namespace

absl::Status ErrorAtLine(int line, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", why));
}

absl::StatusOr<std::string> UnescapeString(absl::string_view literal) {
  static constexpr absl::string_view kSimple = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
  std::string out;
  size_t position = 0;
  while (position < literal.size()) {
    const char c = literal[position];
    if (c != '\\' || position + 1 >= literal.size()) {
      out.push_back(c);
      ++position;
      continue;
    }
    const char escape = literal[position + 1];
    position += 2;
    bool is_simple = false;
    for (size_t i = 0; i < kSimple.size(); i += 2) {
      if (kSimple[i] != escape) continue;
      out.push_back(kSimple[i + 1]);
      is_simple = true;
      break;
    }
    if (is_simple || escape == '\n') continue;
    if (escape == 'x' || escape == 'u' || escape == 'U') {
      const size_t digits = escape == 'x' ? 2 : (escape == 'u' ? 4 : 8);
      RETURN_IF_ERROR(AppendHex(literal, position, digits, &out));
      position += digits;
    } else if (escape >= '0' && escape <= '7') {
      uint32_t code_point = 0;
      size_t end = position - 1;
      for (;
           end < literal.size() && end < position + 2 && literal[end] >= '0' && literal[end] <= '7';
           ++end) {
        code_point = code_point * 8 + static_cast<uint32_t>(literal[end] - '0');
      }
      AppendCodePoint(static_cast<char32_t>(code_point), &out);
      position = end;
    } else if (escape == 'N') {
      return absl::InvalidArgumentError("\\N escapes are not supported");
    } else {
      out.push_back('\\');
      out.push_back(escape);
    }
  }
  return out;
}

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source) {
  if (!IsValidUtf8(source)) return ErrorAtLine(1, "the template is not valid UTF-8");
  const std::string text = NormalizeNewlines(source);
  return Lexer(text).Run();
}

}  // namespace tessera::jinja

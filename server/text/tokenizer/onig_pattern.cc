#include "server/text/tokenizer/onig_pattern.h"

#include <array>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <vector>

#include "kernels/base/status.h"

namespace tessera {
namespace {

struct CategoryRange {
  char32_t first;
  char32_t last;
  std::string_view category;
};
constexpr CategoryRange kUnicodeDelta[] = {
#include "server/text/tokenizer/unicode_delta.inc"
};

struct LongName {
  std::string_view name;
  std::string_view category;
};
constexpr LongName kLongNames[] = {{"Letter", "L"},
                                   {"Uppercase_Letter", "Lu"},
                                   {"Lowercase_Letter", "Ll"},
                                   {"Titlecase_Letter", "Lt"},
                                   {"Modifier_Letter", "Lm"},
                                   {"Other_Letter", "Lo"},
                                   {"Mark", "M"},
                                   {"Nonspacing_Mark", "Mn"},
                                   {"Spacing_Mark", "Mc"},
                                   {"Enclosing_Mark", "Me"},
                                   {"Number", "N"},
                                   {"Decimal_Number", "Nd"},
                                   {"Letter_Number", "Nl"},
                                   {"Other_Number", "No"},
                                   {"Punctuation", "P"},
                                   {"Symbol", "S"},
                                   {"Separator", "Z"},
                                   {"Other", "C"}};

// The class items of Unicode's White_Space. PCRE2's own \s would also contain U+180E.
constexpr std::string_view kSpaceItems = "\\p{Z}\\x{9}-\\x{d}\\x{85}";
constexpr std::string_view kHexItems = "0-9a-fA-F";

std::string Join(std::initializer_list<std::string_view> parts) {
  std::string joined;
  for (const std::string_view part : parts) joined += part;
  return joined;
}

std::string Hex(char32_t code_point) {
  char buffer[16];
  std::snprintf(buffer, sizeof(buffer), "\\x{%x}", static_cast<unsigned>(code_point));
  return buffer;
}

// The class items of a general category in Oniguruma's Unicode version: PCRE2's category plus the
// code points of kUnicodeDelta.
std::string CategoryItems(std::string_view category) {
  std::string items = Join({"\\p{", category, "}"});
  for (const CategoryRange& range : kUnicodeDelta) {
    if (range.category.substr(0, category.size()) != category) continue;
    items += Hex(range.first);
    if (range.last != range.first) items += Join({"-", Hex(range.last)});
  }
  return items;
}

std::string WordItems() {
  return CategoryItems("L") + CategoryItems("M") + CategoryItems("Nd") + CategoryItems("Pc");
}

bool IsHexDigit(char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsAlpha(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < in_.size()) RETURN_IF_ERROR(Item());
    if (open_.size() != 1) return Unsupported("an unclosed group");
    Close();
    return std::move(out_);
  }

 private:
  absl::Status Unsupported(const std::string& what) const {
    return absl::UnimplementedError(Join(
        {"the pattern has ", what, " at byte ", std::to_string(at_), ", which is not supported"}));
  }

  char Peek(size_t ahead = 0) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }
  bool Accept(std::string_view text) {
    if (in_.substr(at_, text.size()) != text) return false;
    at_ += text.size();
    return true;
  }

  absl::Status Item() {
    const char c = Peek();
    const bool is_quantifier = c == '{' || c == '*' || c == '+' || c == '?';
    if (c != ')' && !is_quantifier) atom_begin_ = out_.size();
    switch (c) {
      case '\\':
        return Escape(/*in_class=*/false);
      case '[':
        return Class();
      case '(':
        return Group();
      case ')':
        if (open_.size() == 1) return Unsupported("an unmatched ')'");
        atom_begin_ = open_.back().begin;
        Close();
        out_ += ')';
        ++at_;
        return absl::OkStatus();
      case '{':
        return Interval();
      default:
        out_ += c;
        ++at_;
        return absl::OkStatus();
    }
  }

  void Open(std::string_view opening) {
    open_.push_back({out_.size(), 0});
    out_ += opening;
  }

  // Closes the groups that options without a colon, such as (?i), opened in the innermost group.
  void Close() {
    out_.append(open_.back().num_inner, ')');
    open_.pop_back();
  }

  absl::Status Group() {
    ++at_;
    if (Peek() == '*') return Unsupported("a (*...) verb or callout");
    if (!Accept("?")) {
      Open("(");
      return absl::OkStatus();
    }
    if (Accept("#")) {
      while (at_ < in_.size() && Peek() != ')') ++at_;
      if (!Accept(")")) return Unsupported("an unclosed comment");
      return absl::OkStatus();
    }
    for (const std::string_view opening : {"<=", "<!", ":", "=", "!", ">"}) {
      if (!Accept(opening)) continue;
      Open(Join({"(?", opening}));
      return absl::OkStatus();
    }
    if (Peek() == '<') {
      Open("(?");
      return absl::OkStatus();  // the group's name is copied like ordinary characters
    }
    return GroupOptions();
  }

  absl::Status GroupOptions() {
    std::string options;
    while (IsAlpha(Peek()) || Peek() == '-') {
      const char c = Peek();
      if (c != 'i' && c != 'm' && c != '-') return Unsupported("an option other than i and m");
      options += c == 'm' ? 's' : c;  // Ruby's m lets '.' match a newline
      ++at_;
    }
    const char end = Peek();
    if (end != ':' && end != ')') return Unsupported("an unknown group");
    ++at_;
    if (end == ':') {
      Open(Join({"(?", options, ":"}));
    } else {  // In Ruby the options hold to the end of the enclosing group, across alternatives.
      out_ += Join({"(?", options, ":"});
      ++open_.back().num_inner;
    }
    return absl::OkStatus();
  }

  absl::Status Interval() {
    size_t i = at_ + 1;
    const auto digits = [&] {
      std::string text;
      while (i < in_.size() && IsDigit(in_[i])) text += in_[i++];
      return text;
    };
    const std::string low = digits();
    const bool comma = i < in_.size() && in_[i] == ',';
    if (comma) ++i;
    const std::string high = comma ? digits() : low;
    if (i >= in_.size() || in_[i] != '}' || (low.empty() && high.empty())) {
      out_ += "\\{";  // a literal brace
      ++at_;
      return absl::OkStatus();
    }
    at_ = i + 1;
    out_ += Join({"{", low.empty() ? "0" : low, comma ? "," : "", comma ? high : "", "}"});
    // In Ruby, {n}? makes the repetition optional and {n,m}+ repeats it. PCRE2 would read these as
    // a lazy and a possessive quantifier.
    if (!comma && Accept("?")) {
      WrapAtom("?");
    } else if (Accept("+")) {
      WrapAtom("+");
    }
    return absl::OkStatus();
  }

  // Groups the last atom and its quantifier, and adds another quantifier to the group.
  void WrapAtom(std::string_view quantifier) {
    out_.insert(atom_begin_, "(?:");
    out_ += Join({")", quantifier});
  }

  // Appends class items; outside a character class they get brackets.
  void EmitItems(const std::string& items, bool negated, bool in_class) {
    out_ += in_class ? items : Join({negated ? "[^" : "[", items, "]"});
  }

  absl::Status Escape(bool in_class) {
    ++at_;
    if (at_ >= in_.size()) return Unsupported("a trailing backslash");
    const char c = Peek();
    ++at_;
    const bool negated = c == 'S' || c == 'D' || c == 'W' || c == 'H';
    if (negated && in_class) {
      if (c == 'W' || c == 'H') return Unsupported("\\W or \\H in a character class");
      out_ += {'\\', c};
      if (c == 'S') out_ += "\\x{180e}";  // PCRE2 alone counts U+180E as white space
      return absl::OkStatus();
    }
    switch (c) {
      case 's':
      case 'S':
        EmitItems(std::string(kSpaceItems), negated, in_class);
        return absl::OkStatus();
      case 'd':
      case 'D':
        EmitItems(CategoryItems("Nd"), negated, in_class);
        return absl::OkStatus();
      case 'w':
      case 'W':
        EmitItems(WordItems(), negated, in_class);
        return absl::OkStatus();
      case 'h':
      case 'H':
        EmitItems(std::string(kHexItems), negated, in_class);
        return absl::OkStatus();
      case 'p':
      case 'P':
        return Property(c == 'P', in_class);
      case 'x':
        return HexEscape();
      case 'u':
        return UnicodeEscape();
      case 'v':
        out_ += "\\x{b}";
        return absl::OkStatus();
      case 'b':
      case 'B':
        if (in_class) {
          if (c == 'B') return Unsupported("\\B in a character class");
          out_ += "\\x{8}";
        } else {
          WordBoundary(c == 'B');
        }
        return absl::OkStatus();
      default:
        return OtherEscape(c, in_class);
    }
  }

  absl::Status OtherEscape(char c, bool in_class) {
    const std::string_view kept = in_class ? "nrtfae0" : "nrtfae0AZzGRXKk123456789";
    if (kept.find(c) != std::string_view::npos) {
      out_ += {'\\', c};
      return absl::OkStatus();
    }
    if (IsDigit(c) || std::string_view("gNOYycCM").find(c) != std::string_view::npos) {
      return Unsupported(Join({"the escape \\", std::string_view(&c, 1)}));
    }
    if (IsAlpha(c) || static_cast<unsigned char>(c) >= 0x80) {
      out_ += c;  // the backslash has no meaning here
    } else {
      out_ += {'\\', c};
    }
    return absl::OkStatus();
  }

  void WordBoundary(bool negated) {
    const std::string word = Join({"[", WordItems(), "]"});
    const std::string before = Join({"(?<=", word, ")"}), not_before = Join({"(?<!", word, ")"});
    const std::string after = Join({"(?=", word, ")"}), not_after = Join({"(?!", word, ")"});
    out_ += negated ? Join({"(?:", before, after, "|", not_before, not_after, ")"})
                    : Join({"(?:", before, not_after, "|", not_before, after, ")"});
  }

  absl::Status HexEscape() {
    std::string digits;
    if (Accept("{")) {
      while (IsHexDigit(Peek())) digits += in_[at_++];
      if (!Accept("}")) return Unsupported("a malformed \\x{...}");
    } else {
      while (digits.size() < 2 && IsHexDigit(Peek())) digits += in_[at_++];
      if (digits.size() == 2 && digits[0] >= '8') return Unsupported("a raw byte \\x80 or above");
    }
    if (digits.empty() || digits.size() > 6) return Unsupported("a malformed \\x escape");
    out_ += Join({"\\x{", digits, "}"});
    return absl::OkStatus();
  }

  absl::Status UnicodeEscape() {
    const std::string_view digits = in_.substr(at_, 4);
    for (const char c : digits) {
      if (!IsHexDigit(c)) return Unsupported("a malformed \\u escape");
    }
    if (digits.size() != 4) return Unsupported("a malformed \\u escape");
    out_ += Join({"\\x{", digits, "}"});
    at_ += 4;
    return absl::OkStatus();
  }

  absl::Status Property(bool negated, bool in_class) {
    if (!Accept("{")) return Unsupported("\\p without braces");
    if (Accept("^")) negated = !negated;
    const size_t end = in_.find('}', at_);
    if (end == std::string_view::npos) return Unsupported("an unclosed \\p{");
    std::string name(in_.substr(at_, end - at_));
    at_ = end + 1;
    for (const LongName& entry : kLongNames) {
      if (entry.name == name) name = entry.category;
    }
    if (name.size() <= 2) {
      if (negated && in_class) {
        out_ += Join({"\\P{", name, "}"});
      } else {
        EmitItems(CategoryItems(name), negated, in_class);
      }
      return absl::OkStatus();
    }
    // "sc:" selects the script property; PCRE2 would use script extensions by default.
    const bool is_property = name == "Any" || name == "Alphabetic" || name == "Lowercase" ||
                             name == "Uppercase" || name == "White_Space" || name == "Emoji";
    out_ += Join({negated ? "\\P{" : "\\p{", is_property ? "" : "sc:", name, "}"});
    return absl::OkStatus();
  }

  absl::Status Class() {
    out_ += '[';
    ++at_;
    if (Accept("^")) out_ += '^';
    if (Accept("]")) out_ += "\\]";
    while (at_ < in_.size()) {
      if (Accept("]")) {
        out_ += ']';
        return absl::OkStatus();
      }
      if (in_.substr(at_, 2) == "&&") return Unsupported("a class intersection &&");
      if (Peek() == '\\') {
        RETURN_IF_ERROR(Escape(/*in_class=*/true));
      } else if (Peek() == '[') {
        RETURN_IF_ERROR(PosixClass());
      } else {
        out_ += in_[at_++];
      }
    }
    return Unsupported("an unclosed character class");
  }

  absl::Status PosixClass() {
    if (Accept("[:punct:]")) {
      out_ += CategoryItems("P") + CategoryItems("S");
    } else if (Accept("[:space:]")) {
      out_ += kSpaceItems;
    } else if (Accept("[:digit:]")) {
      out_ += CategoryItems("Nd");
    } else if (Accept("[:word:]")) {
      out_ += WordItems();
    } else if (Accept("[:xdigit:]")) {
      out_ += kHexItems;
    } else {
      return Unsupported("a nested character class");
    }
    return absl::OkStatus();
  }

  const std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  struct OpenGroup {
    size_t begin;      // offset of the group in out_
    size_t num_inner;  // number of extra ')' that the end of the group needs
  };
  std::vector<OpenGroup> open_{{0, 0}};  // the first entry is the whole pattern
  size_t atom_begin_ = 0;                // offset in out_ of the atom that a quantifier repeats
};

}  // namespace

absl::StatusOr<std::string> TranslateOnigPattern(std::string_view pattern) {
  // For white space before the end of a line: if no match starts at the first space of a run, none
  // starts inside the run either. The look-behind states this, so that a long run costs linear
  // instead of quadratic time.
  if (pattern == "\\s+$") {
    return Join({"(?<![", kSpaceItems, "])[", kSpaceItems, "]+$"});
  }
  return Translator(pattern).Run();
}

}  // namespace tessera

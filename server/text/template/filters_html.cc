// The filters that read or write HTML: striptags, xmlattr and urlize.
#include <algorithm>
#include <array>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/filters.h"
#include "server/text/template/operators.h"
#include "server/text/template/python_text.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

// --- Entities ---

struct Entity {
  absl::string_view name;  // without &; with the semicolon, if it is needed
  absl::string_view text;
};

// The entities in the order of their names.
constexpr Entity kEntities[] = {
// clang-format off
#include "server/text/template/html_entities.inc"
    // clang-format on
};

// The code points that browsers read for the references to 128 to 159.
constexpr char32_t kWindows1252[] = {0x20AC, 0x81,   0x201A, 0x192,  0x201E, 0x2026, 0x2020, 0x2021,
                                     0x2C6,  0x2030, 0x160,  0x2039, 0x152,  0x8D,   0x17D,  0x8F,
                                     0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                     0x2DC,  0x2122, 0x161,  0x203A, 0x153,  0x9D,   0x17E,  0x178};

constexpr char32_t kReplacement = 0xFFFD;
constexpr char32_t kMaxCodePoint = 0x10FFFF;
constexpr size_t kMaxEntityName = 32;  // in code points

const Entity* FindEntity(absl::string_view name) {
  const auto* const found = std::lower_bound(
      std::begin(kEntities), std::end(kEntities), name,
      [](const Entity& entity, absl::string_view wanted) { return entity.name < wanted; });
  return found != std::end(kEntities) && found->name == name ? found : nullptr;
}

bool IsNoCharacter(char32_t c) {
  return (c >= 0x1 && c <= 0x8) || c == 0xB || (c >= 0xE && c <= 0x1F) ||
         (c >= 0x7F && c <= 0x9F) || (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE;
}

void AppendReferenced(char32_t c, std::string* out) {
  if (c >= 0x80 && c <= 0x9F) {
    AppendCodePoint(kWindows1252[c - 0x80], out);
  } else if (c == 0 || (c >= 0xD800 && c <= 0xDFFF) || c > kMaxCodePoint) {
    AppendCodePoint(kReplacement, out);
  } else if (!IsNoCharacter(c)) {
    AppendCodePoint(c, out);
  }
}

// Reads "#65;" or "#x41;" at the start of the text. Returns the number of bytes; 0: it is none.
size_t TakeNumber(absl::string_view text, std::string* out) {
  const bool is_hex = text.size() > 1 && (text[1] == 'x' || text[1] == 'X');
  const char32_t base = is_hex ? 16 : 10;
  const size_t begin = is_hex ? 2 : 1;
  size_t end = begin;
  char32_t number = 0;
  for (; end < text.size(); ++end) {
    const auto c = static_cast<unsigned char>(text[end]);
    if (is_hex ? !absl::ascii_isxdigit(c) : !absl::ascii_isdigit(c)) break;
    const int digit = absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10;
    number = std::min(number * base + static_cast<char32_t>(digit), kMaxCodePoint + 1);
  }
  if (end == begin) return 0;
  AppendReferenced(number, out);
  return end < text.size() && text[end] == ';' ? end + 1 : end;
}

// Reads a name such as "amp;" at the start of the text. Returns the number of bytes; 0: the text
// starts with no name that is known.
size_t TakeName(absl::string_view text, std::string* out) {
  size_t end = 0;
  for (size_t count = 0; end < text.size() && count < kMaxEntityName; ++count) {
    if (absl::string_view("\t\n\f <&#;").find(text[end]) != absl::string_view::npos) break;
    NextCodePoint(text, &end);
  }
  if (end > 0 && end < text.size() && text[end] == ';') ++end;
  for (; end > 1; --end) {
    const Entity* entity = FindEntity(text.substr(0, end));
    if (entity == nullptr) continue;
    out->append(entity->text.data(), entity->text.size());
    return end;
  }
  return 0;
}

// Python's html.unescape.
std::string Unescape(absl::string_view text) {
  std::string out;
  for (size_t position = 0; position < text.size();) {
    out.push_back(text[position++]);
    if (out.back() != '&') continue;
    const absl::string_view rest = text.substr(position);
    std::string replaced;
    const size_t used =
        absl::StartsWith(rest, "#") ? TakeNumber(rest, &replaced) : TakeName(rest, &replaced);
    if (used == 0) continue;
    out.pop_back();
    out += replaced;
    position += used;
  }
  return out;
}

// --- striptags ---

// Removes tags and comments. The text from a tag or comment without an end on is kept.
std::string WithoutTags(absl::string_view text) {
  std::string out;
  for (size_t position = 0; position < text.size();) {
    const size_t begin = std::min(text.find('<', position), text.size());
    absl::StrAppend(&out, text.substr(position, begin - position));
    const bool is_comment = absl::StartsWith(text.substr(begin), "<!--");
    const absl::string_view close = is_comment ? "-->" : ">";
    const size_t end = text.find(close, is_comment ? begin + 4 : begin);
    if (end == absl::string_view::npos) return absl::StrCat(out, text.substr(begin));
    position = end + close.size();
  }
  return out;
}

absl::StatusOr<Value> StripTags(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("striptags", args, 0, {}).status());
  ASSIGN_OR_RETURN(const std::string text, Str(budget, self));
  // Names are searched from each & on, with up to 33 lengths.
  RETURN_IF_ERROR(budget.Build(8 * text.size()));
  const std::string plain = WithoutTags(text);
  return MakeString(budget, Unescape(absl::StrJoin(SplitWhitespace(plain, -1), " ")));
}

// --- xmlattr ---

absl::StatusOr<std::string> Escaped(Budget& budget, const Value& value) {
  ASSIGN_OR_RETURN(std::string text, Str(budget, value));
  RETURN_IF_ERROR(budget.Build(6 * text.size()));
  return value.is_markup() ? text : EscapeHtml(text);
}

absl::StatusOr<Value> XmlAttributes(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("xmlattr", args, 0, {"autospace"}));
  if (self.is_undefined()) return Error(self.undefined_reason());
  if (!self.is_dict()) return Error("'", self.TypeName(), "' object has no attribute 'items'");
  std::string out;
  for (const auto& [key, value] : self.dict().entries()) {
    if (value.is_none() || value.is_undefined()) continue;
    if (!key.is_string()) return Error("xmlattr: a name must be a string, not ", key.TypeName());
    if (key.text().find_first_of(" \t\n\v\f\r/>=") != std::string::npos) {
      ASSIGN_OR_RETURN(const std::string shown, Repr(budget, key));
      return Error("Invalid character in attribute name: ", shown);
    }
    ASSIGN_OR_RETURN(const std::string name, Escaped(budget, key));
    ASSIGN_OR_RETURN(const std::string text, Escaped(budget, value));
    absl::StrAppend(&out, out.empty() && !bound.GetBool(0, true) ? "" : " ", name, "=\"", text,
                    "\"");
  }
  return MakeString(budget, std::move(out));
}

// --- urlize ---

bool IsWordPoint(char32_t c) { return c == '_' || IsAlpha(c) || IsNumeric(c); }

bool AllOf(absl::string_view text, bool (*holds)(char32_t)) {
  for (size_t position = 0; position < text.size();) {
    if (!holds(NextCodePoint(text, &position))) return false;
  }
  return true;
}

bool IsHostPoint(char32_t c) { return IsWordPoint(c) || c == '%' || c == '-' || c == '.'; }

// A name of 2 to 63 letters, or xn-- and 2 to 59 letters, digits, _ and %.
bool IsTopDomain(absl::string_view label) {
  if (absl::StartsWithIgnoreCase(label, "xn--")) {
    const absl::string_view name = label.substr(4);
    const size_t length = CountCodePoints(name);
    return length >= 2 && length <= 59 &&
           AllOf(name, [](char32_t c) { return IsWordPoint(c) || c == '%'; });
  }
  return label.size() >= 2 && label.size() <= 63 && AllOf(label, [](char32_t c) {
           return c < 0x80 && absl::ascii_isalpha(static_cast<unsigned char>(c));
         });
}

bool IsCommonDomain(absl::string_view label) {
  static constexpr absl::string_view kCommon[] = {"com", "net", "int",  "edu",
                                                  "gov", "org", "info", "mil"};
  return std::any_of(std::begin(kCommon), std::end(kCommon), [&](absl::string_view common) {
    return absl::EqualsIgnoreCase(label, common);
  });
}

// Returns true for labels whose lengths are at least `min_length` and at most `max_length`.
bool HaveLengths(const std::vector<absl::string_view>& labels, size_t min_length,
                 size_t max_length) {
  return std::all_of(labels.begin(), labels.end(), [&](absl::string_view label) {
    const size_t length = CountCodePoints(label);
    return length >= min_length && length <= max_length;
  });
}

bool IsIpv4(const std::vector<absl::string_view>& labels) {
  return labels.size() == 4 && HaveLengths(labels, 1, 3) &&
         std::all_of(labels.begin(), labels.end(),
                     [](absl::string_view label) { return AllOf(label, IsDecimal); });
}

// Returns the length of a bracketed IPv6 address at the start of the text: two groups of at most
// four digits with a colon each, then one to six groups whose colons may be absent. 0: it is none.
size_t Ipv6Length(absl::string_view text) {
  if (!absl::StartsWith(text, "[")) return 0;
  size_t position = 1;
  for (int group = 0; group < 8; ++group) {
    for (int digit = 0; digit < 4 && position < text.size(); ++digit) {
      if (!absl::ascii_isxdigit(static_cast<unsigned char>(text[position]))) break;
      ++position;
    }
    const bool has_colon = position < text.size() && text[position] == ':';
    if (has_colon) ++position;
    if (!has_colon && group < 2) return 0;
  }
  return position < text.size() && text[position] == ']' ? position + 1 : 0;
}

// Returns true for the text after a host: an optional port, then an optional path.
bool IsAfterHost(absl::string_view text) {
  if (absl::ConsumePrefix(&text, ":")) {
    size_t end = 0;
    int digits = 0;
    for (size_t next = 0; next < text.size() && digits < 5; end = next, ++digits) {
      if (!IsDecimal(NextCodePoint(text, &next))) break;
    }
    if (digits == 0) return false;
    text.remove_prefix(end);
  }
  return text.empty() || absl::string_view("/?#").find(text[0]) != absl::string_view::npos;
}

// Returns true for a web address, with or without its scheme. REQUIRES: no white space.
bool IsUrl(absl::string_view text) {
  absl::string_view rest = text;
  bool has_scheme = false;
  bool is_www = false;
  for (const absl::string_view start : {"https://", "http://", "www."}) {
    if (!absl::StartsWithIgnoreCase(text, start)) continue;
    rest.remove_prefix(start.size());
    is_www = start == "www.";
    has_scheme = !is_www;
    break;
  }
  if (const size_t length = has_scheme ? Ipv6Length(rest) : 0; length > 0) {
    return IsAfterHost(rest.substr(length));
  }
  size_t end = 0;
  for (size_t next = 0; next < rest.size(); end = next) {
    if (!IsHostPoint(NextCodePoint(rest, &next))) break;
  }
  if (!IsAfterHost(rest.substr(end))) return false;
  std::vector<absl::string_view> labels = absl::StrSplit(rest.substr(0, end), '.');
  if (has_scheme && IsIpv4(labels)) return true;
  const absl::string_view top = labels.back();
  labels.pop_back();
  if ((has_scheme || is_www) && IsTopDomain(top) && HaveLengths(labels, 1, SIZE_MAX)) return true;
  if (has_scheme) return false;
  if (is_www) labels.insert(labels.begin(), "www");
  return !labels.empty() && IsCommonDomain(top) && HaveLengths(labels, 2, 63);
}

bool IsEmail(absl::string_view text) {
  const size_t at = text.rfind('@');
  if (at == absl::string_view::npos || at == 0) return false;
  const absl::string_view host = text.substr(at + 1);
  const size_t dot = host.rfind('.');
  if (dot == absl::string_view::npos || dot == 0 || dot + 1 == host.size()) return false;
  size_t second = 0;
  return IsWordPoint(NextCodePoint(host, &second)) && AllOf(host.substr(dot + 1), IsWordPoint) &&
         AllOf(host, [](char32_t c) { return IsWordPoint(c) || c == '.' || c == '-'; });
}

// Returns true for the start of an address, such as "ftp://" or "tel:".
bool IsScheme(absl::string_view text) {
  const size_t colon = text.find(':');
  if (colon == absl::string_view::npos) return false;
  const absl::string_view name = text.substr(0, colon);
  const absl::string_view slashes = text.substr(colon);
  return CountCodePoints(name) >= 2 &&
         AllOf(name,
               [](char32_t c) { return IsWordPoint(c) || c == '.' || c == '+' || c == '-'; }) &&
         (slashes == ":" || slashes == ":/" || slashes == "://");
}

struct LinkStyle {
  std::string attributes;  // of a link to a web address, with a space before each
  int64_t max_shown = -1;  // code points; -1: no limit
  std::vector<std::string> schemes;
};

// A word of escaped text without the punctuation around it.
struct TrimmedWord {
  absl::string_view head;
  absl::string_view middle;
  absl::string_view tail;
};

TrimmedWord TrimWord(absl::string_view word) {
  absl::string_view rest = word;
  while (absl::ConsumePrefix(&rest, "(") || absl::ConsumePrefix(&rest, "<") ||
         absl::ConsumePrefix(&rest, "&lt;")) {
  }
  absl::string_view middle = rest;
  bool is_cut = true;
  while (is_cut) {
    is_cut = absl::ConsumeSuffix(&middle, "&gt;");
    for (const absl::string_view mark : {")", ">", ".", ",", "\n"}) {
      is_cut = is_cut || absl::ConsumeSuffix(&middle, mark);
    }
  }
  return {word.substr(0, word.size() - rest.size()), middle, rest.substr(middle.size())};
}

int64_t CountText(absl::string_view text, absl::string_view part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != absl::string_view::npos;
       at = text.find(part, at + part.size())) {
    ++count;
  }
  return count;
}

// Moves closing brackets from the tail back to the middle that has their opening brackets.
void BalanceBrackets(TrimmedWord* word) {
  static constexpr std::array<absl::string_view, 2> kPairs[] = {
      {"(", ")"}, {"<", ">"}, {"&lt;", "&gt;"}};
  for (const auto& [open, close] : kPairs) {
    const int64_t num_open = CountText(word->middle, open);
    if (num_open <= CountText(word->middle, close)) continue;
    const int64_t moves = std::min(num_open, CountText(word->tail, close));
    for (int64_t i = 0; i < moves; ++i) {
      const size_t end = word->tail.find(close) + close.size();
      // The tail follows the middle in the same text.
      word->middle = absl::string_view(word->middle.data(), word->middle.size() + end);
      word->tail.remove_prefix(end);
    }
  }
}

// The word as a link; the word itself if it is no address.
std::string Linked(absl::string_view word, const LinkStyle& style) {
  if (IsUrl(word)) {
    const bool has_scheme = absl::StartsWith(word, "https://") || absl::StartsWith(word, "http://");
    const bool is_cut =
        style.max_shown >= 0 && static_cast<int64_t>(CountCodePoints(word)) > style.max_shown;
    const absl::string_view shown =
        is_cut ? word.substr(0, ByteOffset(word, static_cast<size_t>(style.max_shown))) : word;
    return absl::StrCat("<a href=\"", has_scheme ? "" : "https://", word, "\"", style.attributes,
                        ">", shown, is_cut ? "..." : "", "</a>");
  }
  absl::string_view address = word;
  if (absl::ConsumePrefix(&address, "mailto:") && IsEmail(address)) {
    return absl::StrCat("<a href=\"", word, "\">", address, "</a>");
  }
  const bool may_be_email = !absl::StartsWith(word, "www.") && !absl::StartsWith(word, "@") &&
                            !absl::StrContains(word, ":");
  if (may_be_email && IsEmail(word)) {
    return absl::StrCat("<a href=\"mailto:", word, "\">", word, "</a>");
  }
  std::string linked(word);
  for (const std::string& scheme : style.schemes) {
    if (linked == scheme || !absl::StartsWith(linked, scheme)) continue;
    linked = absl::StrCat("<a href=\"", linked, "\"", style.attributes, ">", linked, "</a>");
  }
  return linked;
}

absl::StatusOr<LinkStyle> ReadLinkStyle(Budget& budget, const BoundArgs& bound) {
  LinkStyle style;
  const auto is_given = [&](size_t index) { return bound.Has(index) && !bound[index].is_none(); };
  if (is_given(0)) {
    ASSIGN_OR_RETURN(style.max_shown, bound.GetInt(0, -1));
    style.max_shown = std::max<int64_t>(style.max_shown, 0);
  }
  std::set<absl::string_view> rel = {"noopener"};
  if (bound.GetBool(1, false)) rel.insert("nofollow");
  if (is_given(3)) {
    ASSIGN_OR_RETURN(const absl::string_view more, bound.GetText(3, ""));
    for (const absl::string_view part : SplitWhitespace(more, -1)) rel.insert(part);
  }
  style.attributes = absl::StrCat(" rel=\"", EscapeHtml(absl::StrJoin(rel, " ")), "\"");
  if (is_given(2) && bound[2].Truthy()) {
    ASSIGN_OR_RETURN(const absl::string_view target, bound.GetText(2, ""));
    absl::StrAppend(&style.attributes, " target=\"", EscapeHtml(target), "\"");
  }
  if (!is_given(4)) return style;
  ASSIGN_OR_RETURN(const std::vector<Value> schemes, Iterate(budget, bound[4]));
  for (const Value& scheme : schemes) {
    if (!scheme.is_string() || !IsScheme(scheme.text())) {
      ASSIGN_OR_RETURN(const std::string shown, Repr(budget, scheme));
      return Error(shown, " is not a valid URI scheme prefix.");
    }
    style.schemes.push_back(scheme.text());
  }
  return style;
}

absl::StatusOr<Value> Urlize(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(
      const BoundArgs bound,
      Bind("urlize", args, 0, {"trim_url_limit", "nofollow", "target", "rel", "extra_schemes"}));
  ASSIGN_OR_RETURN(const LinkStyle style, ReadLinkStyle(budget, bound));
  ASSIGN_OR_RETURN(const std::string text, Escaped(budget, self));
  std::string out;
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    size_t end = text.size();
    for (size_t next = position; next < text.size(); position = next) {
      if (IsSpace(NextCodePoint(text, &next))) {
        end = position;
        position = next;
        break;
      }
    }
    TrimmedWord word = TrimWord(absl::string_view(text).substr(begin, end - begin));
    BalanceBrackets(&word);
    const std::string linked = Linked(word.middle, style);
    // The style is repeated for each link, and each scheme is compared with each word.
    RETURN_IF_ERROR(budget.Build(4 * (end - begin) + linked.size()));
    RETURN_IF_ERROR(budget.Spend(style.schemes.size() * Budget::kStepCost));
    absl::StrAppend(&out, word.head, linked, word.tail,
                    absl::string_view(text).substr(end, position - end));
  }
  return MakeString(budget, std::move(out));
}

constexpr NamedFunction kHtmlFilters[] = {
    {"striptags", StripTags}, {"xmlattr", XmlAttributes}, {"urlize", Urlize}};

}  // namespace

NativeFunction FindHtmlFilter(absl::string_view name) { return FindNamed(kHtmlFilters, name); }

}  // namespace tessera::jinja

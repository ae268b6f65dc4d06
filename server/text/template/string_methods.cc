// The methods of Python's str.
#include <algorithm>
#include <functional>

#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/format.h"
#include "server/text/template/methods.h"
#include "server/text/template/python_text.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

absl::Status Pay(Budget& budget, const Value& self) { return budget.Spend(self.text().size()); }

// ---- conversions of the whole text

template <std::string (*kConvert)(absl::string_view)>
absl::StatusOr<Value> Converted(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("str method", args, 0, {}).status());
  RETURN_IF_ERROR(Pay(budget, self));
  return MakeString(budget, kConvert(self.text()));
}

template <Side kSide>
absl::StatusOr<Value> Stripped(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("strip", args, 0, {"chars"}));
  RETURN_IF_ERROR(Pay(budget, self));
  if (!bound.Has(0) || bound[0].is_none()) {
    return MakeString(budget, std::string(Strip(self.text(), kSide)));
  }
  ASSIGN_OR_RETURN(const absl::string_view chars, bound.GetText(0, ""));
  return MakeString(budget, std::string(Strip(self.text(), kSide, &chars)));
}

// ---- predicates

template <bool (*kHolds)(char32_t)>
absl::StatusOr<Value> AllAre(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("str method", args, 0, {}).status());
  RETURN_IF_ERROR(Pay(budget, self));
  const absl::string_view text = self.text();
  bool all = !text.empty();
  for (size_t position = 0; all && position < text.size();) {
    all = kHolds(NextCodePoint(text, &position));
  }
  return Value::Bool(all);
}

bool IsAlnum(char32_t c) { return IsAlpha(c) || IsNumeric(c); }

absl::StatusOr<Value> IsAscii(Budget& budget, const Value& self, const CallArgs& args) {
  const std::string& text = self.text();
  return Value::Bool(std::all_of(text.begin(), text.end(),
                                 [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
}

absl::StatusOr<Value> AllPrintable(Budget& budget, const Value& self, const CallArgs& args) {
  if (self.text().empty()) return Value::Bool(true);
  return AllAre<IsPrintable>(budget, self, args);
}

absl::StatusOr<Value> IsIdentifier(Budget& budget, const Value& self, const CallArgs& args) {
  const absl::string_view text = self.text();
  if (text.empty()) return Value::Bool(false);
  size_t position = 0;
  bool holds = IsIdentifierStart(NextCodePoint(text, &position));
  while (holds && position < text.size()) holds = IsIdentifierPart(NextCodePoint(text, &position));
  return Value::Bool(holds);
}

// Returns true if the text has a letter of the wanted case and no letter of the other case.
template <bool (*kWanted)(char32_t), bool (*kOther)(char32_t)>
absl::StatusOr<Value> HasOnlyCase(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Pay(budget, self));
  const absl::string_view text = self.text();
  bool found = false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = NextCodePoint(text, &position);
    if (kOther(c)) return Value::Bool(false);
    found = found || kWanted(c);
  }
  return Value::Bool(found);
}

absl::StatusOr<Value> IsTitle(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Pay(budget, self));
  const absl::string_view text = self.text();
  bool found = false;
  bool after_cased = false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = NextCodePoint(text, &position);
    if (IsUpper(c) ? after_cased : (IsLower(c) && !after_cased)) return Value::Bool(false);
    after_cased = IsUpper(c) || IsLower(c);
    found = found || after_cased;
  }
  return Value::Bool(found);
}

// ---- searching

// The part text[start:end], with Python's clamping of the bounds, and its first index in code
// points. The part does not exist if start is after end.
struct Window {
  bool exists = true;
  absl::string_view text;
  int64_t first = 0;
};

absl::StatusOr<Window> ReadWindow(Budget& budget, const Value& self, const BoundArgs& bound) {
  Window window;
  window.text = self.text();
  RETURN_IF_ERROR(Pay(budget, self));
  if (!bound.Has(1) && !bound.Has(2)) return window;
  const int64_t length = static_cast<int64_t>(CountCodePoints(self.text()));
  const auto clamp = [&](size_t index, int64_t absent) -> absl::StatusOr<int64_t> {
    if (!bound.Has(index) || bound[index].is_none()) return absent;
    ASSIGN_OR_RETURN(const int64_t place, bound.GetInt(index, 0));
    return place < 0 ? std::max<int64_t>(0, place + length) : place;
  };
  ASSIGN_OR_RETURN(window.first, clamp(1, 0));
  ASSIGN_OR_RETURN(int64_t end, clamp(2, length));
  end = std::min(end, length);
  window.exists = window.first <= end;
  if (!window.exists) return window;
  const size_t begin_byte = ByteOffset(self.text(), static_cast<size_t>(window.first));
  const size_t end_byte =
      ByteOffset(self.text(), static_cast<size_t>(end - window.first), begin_byte);
  window.text = absl::string_view(self.text()).substr(begin_byte, end_byte - begin_byte);
  return window;
}

enum class OnMissing { kMinusOne, kError };

template <bool kFromRight, OnMissing kOnMissing>
absl::StatusOr<Value> Find(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("find", args, 1, {"sub", "start", "end"}));
  ASSIGN_OR_RETURN(const absl::string_view needle, bound.GetText(0, ""));
  ASSIGN_OR_RETURN(const Window window, ReadWindow(budget, self, bound));
  size_t found = absl::string_view::npos;
  if (window.exists) {
    found = kFromRight ? FindLastText(window.text, needle) : FindText(window.text, needle);
  }
  if (found != absl::string_view::npos) {
    return Value::Int(window.first +
                      static_cast<int64_t>(CountCodePoints(window.text.substr(0, found))));
  }
  if (kOnMissing == OnMissing::kError) return Error("substring not found");
  return Value::Int(-1);
}

absl::StatusOr<Value> Count(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("count", args, 1, {"sub", "start", "end"}));
  ASSIGN_OR_RETURN(const absl::string_view needle, bound.GetText(0, ""));
  ASSIGN_OR_RETURN(const Window window, ReadWindow(budget, self, bound));
  if (!window.exists) return Value::Int(0);
  if (needle.empty()) return Value::Int(static_cast<int64_t>(CountCodePoints(window.text)) + 1);
  int64_t count = 0;
  for (size_t position = 0;; ++count) {
    RETURN_IF_ERROR(budget.Spend(needle.size()));
    const size_t found = FindText(window.text, needle, position);
    if (found == absl::string_view::npos) break;
    position = found + needle.size();
  }
  return Value::Int(count);
}

template <bool kAtEnd>
absl::StatusOr<Value> HasAffix(Budget& budget, const Value& self, const CallArgs& args) {
  const absl::string_view name = kAtEnd ? "endswith" : "startswith";
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind(name, args, 1, {"affix", "start", "end"}));
  ASSIGN_OR_RETURN(const Window window, ReadWindow(budget, self, bound));
  std::vector<Value> affixes = {bound[0]};
  if (bound[0].Is(Kind::kTuple)) affixes = bound[0].items();
  for (const Value& affix : affixes) {
    if (affix.is_undefined()) return Error(affix.undefined_reason());
    if (!affix.is_string()) {
      return Error(name, " first arg must be str or a tuple of str, not ", affix.TypeName());
    }
    const absl::string_view wanted = affix.text();
    if (!window.exists || wanted.size() > window.text.size()) continue;
    const size_t at = kAtEnd ? window.text.size() - wanted.size() : 0;
    if (window.text.substr(at, wanted.size()) == wanted) return Value::Bool(true);
  }
  return Value::Bool(false);
}

template <bool kAtEnd>
absl::StatusOr<Value> RemoveAffix(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("removeprefix", args, 1, {"affix"}));
  ASSIGN_OR_RETURN(const absl::string_view affix, bound.GetText(0, ""));
  absl::string_view text = self.text();
  if (affix.size() <= text.size()) {
    const size_t at = kAtEnd ? text.size() - affix.size() : 0;
    const bool has = text.substr(at, affix.size()) == affix;
    if (has) text = kAtEnd ? text.substr(0, at) : text.substr(affix.size());
  }
  return MakeString(budget, std::string(text));
}

// ---- splitting and joining

absl::StatusOr<Value> ListOfTexts(Budget& budget, const std::vector<absl::string_view>& parts) {
  RETURN_IF_ERROR(budget.Build(parts.size() * (sizeof(Value) + sizeof(std::string))));
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const absl::string_view part : parts) items.push_back(Value::String(std::string(part)));
  return MakeList(budget, std::move(items));
}

std::vector<absl::string_view> SplitBy(absl::string_view text, absl::string_view separator,
                                       int64_t max_splits) {
  std::vector<absl::string_view> parts;
  size_t position = 0;
  while (max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits) {
    const size_t found = FindText(text, separator, position);
    if (found == absl::string_view::npos) break;
    parts.push_back(text.substr(position, found - position));
    position = found + separator.size();
  }
  parts.push_back(text.substr(position));
  return parts;
}

// Splits from the right by splitting the reversed text from the left.
std::vector<absl::string_view> SplitByFromRight(absl::string_view text, absl::string_view separator,
                                                int64_t max_splits) {
  const std::string backwards(text.rbegin(), text.rend());
  const std::string separator_backwards(separator.rbegin(), separator.rend());
  std::vector<absl::string_view> parts = SplitBy(backwards, separator_backwards, max_splits);
  for (absl::string_view& part : parts) {
    const size_t end = text.size() - static_cast<size_t>(part.data() - backwards.data());
    part = text.substr(end - part.size(), part.size());
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

template <bool kFromRight>
absl::StatusOr<Value> Split(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("split", args, 0, {"sep", "maxsplit"}));
  ASSIGN_OR_RETURN(const int64_t max_splits, bound.GetInt(1, -1));
  const absl::string_view text = self.text();
  RETURN_IF_ERROR(budget.Build(text.size()));
  if (!bound.Has(0) || bound[0].is_none()) {
    return ListOfTexts(budget, kFromRight ? SplitWhitespaceFromRight(text, max_splits)
                                          : SplitWhitespace(text, max_splits));
  }
  ASSIGN_OR_RETURN(const absl::string_view separator, bound.GetText(0, ""));
  if (separator.empty()) return Error("empty separator");
  return ListOfTexts(budget, kFromRight ? SplitByFromRight(text, separator, max_splits)
                                        : SplitBy(text, separator, max_splits));
}

template <bool kFromRight>
absl::StatusOr<Value> Partition(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("partition", args, 1, {"sep"}));
  ASSIGN_OR_RETURN(const absl::string_view separator, bound.GetText(0, ""));
  if (separator.empty()) return Error("empty separator");
  RETURN_IF_ERROR(budget.Build(self.text().size()));
  const absl::string_view text = self.text();
  const size_t found = kFromRight ? FindLastText(text, separator) : FindText(text, separator);
  std::string parts[3];
  if (found != absl::string_view::npos) {
    parts[0] = std::string(text.substr(0, found));
    parts[1] = std::string(separator);
    parts[2] = std::string(text.substr(found + separator.size()));
  } else {
    parts[kFromRight ? 2 : 0] = std::string(text);
  }
  return Value::Tuple({Value::String(parts[0]), Value::String(parts[1]), Value::String(parts[2])});
}

absl::StatusOr<Value> Lines(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("splitlines", args, 0, {"keepends"}));
  RETURN_IF_ERROR(budget.Build(self.text().size()));
  return ListOfTexts(budget, SplitLines(self.text(), bound.GetBool(0, false)));
}

absl::StatusOr<Value> Join(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("join", args, 1, {"iterable"}));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, bound[0]));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is_string()) {
      return Error("sequence item ", i, ": expected str instance, ", items[i].TypeName(), " found");
    }
    RETURN_IF_ERROR(budget.Build(self.text().size() + items[i].text().size()));
    if (i != 0) out += self.text();
    out += items[i].text();
  }
  return MakeString(budget, std::move(out));
}

absl::StatusOr<Value> Replace(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("replace", args, 2, {"old", "new", "count"}));
  ASSIGN_OR_RETURN(const absl::string_view old_text, bound.GetText(0, ""));
  ASSIGN_OR_RETURN(const absl::string_view new_text, bound.GetText(1, ""));
  ASSIGN_OR_RETURN(const int64_t count, bound.GetInt(2, -1));
  ASSIGN_OR_RETURN(std::string out, ReplaceText(budget, self.text(), old_text, new_text, count));
  return MakeString(budget, std::move(out));
}

// ---- padding

template <char kAlign>
absl::StatusOr<Value> Pad(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("padding", args, 1, {"width", "fillchar"}));
  ASSIGN_OR_RETURN(const int64_t width, bound.GetInt(0, 0));
  ASSIGN_OR_RETURN(const absl::string_view fill, bound.GetText(1, " "));
  if (CountCodePoints(fill) != 1)
    return Error("The fill character must be exactly one character long");
  return MakePadded(budget, self.text(), width, fill, kAlign);
}

absl::StatusOr<Value> ZeroFill(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("zfill", args, 1, {"width"}));
  ASSIGN_OR_RETURN(const int64_t width, bound.GetInt(0, 0));
  const absl::string_view text = self.text();
  const bool has_sign = !text.empty() && (text[0] == '+' || text[0] == '-');
  if (!has_sign) return MakePadded(budget, text, width, "0", '>');
  ASSIGN_OR_RETURN(const Value digits,
                   MakePadded(budget, text.substr(1), std::max<int64_t>(width, 1) - 1, "0", '>'));
  return MakeString(budget, absl::StrCat(text.substr(0, 1), digits.text()));
}

absl::StatusOr<Value> Format(Budget& budget, const Value& self, const CallArgs& args) {
  return FormatBraces(budget, self.text(), args);
}

struct Entry {
  absl::string_view name;
  NativeFunction native;  // null: Python has this method, but it is not supported
};

constexpr Entry kStringMethods[] = {
    {"strip", Stripped<Side::kBoth>},
    {"lstrip", Stripped<Side::kLeft>},
    {"rstrip", Stripped<Side::kRight>},
    {"split", Split<false>},
    {"rsplit", Split<true>},
    {"splitlines", Lines},
    {"startswith", HasAffix<false>},
    {"endswith", HasAffix<true>},
    {"upper", Converted<Upper>},
    {"lower", Converted<Lower>},
    {"casefold", Converted<Lower>},
    {"title", Converted<Title>},
    {"capitalize", Converted<Capitalize>},
    {"swapcase", Converted<SwapCase>},
    {"replace", Replace},
    {"find", Find<false, OnMissing::kMinusOne>},
    {"rfind", Find<true, OnMissing::kMinusOne>},
    {"index", Find<false, OnMissing::kError>},
    {"rindex", Find<true, OnMissing::kError>},
    {"count", Count},
    {"join", Join},
    {"format", Format},
    {"partition", Partition<false>},
    {"rpartition", Partition<true>},
    {"removeprefix", RemoveAffix<false>},
    {"removesuffix", RemoveAffix<true>},
    {"ljust", Pad<'<'>},
    {"rjust", Pad<'>'>},
    {"center", Pad<'^'>},
    {"zfill", ZeroFill},
    {"isdigit", AllAre<IsDecimal>},
    {"isdecimal", AllAre<IsDecimal>},
    {"isnumeric", AllAre<IsNumeric>},
    {"isalpha", AllAre<IsAlpha>},
    {"isalnum", AllAre<IsAlnum>},
    {"isspace", AllAre<IsSpace>},
    {"isprintable", AllPrintable},
    {"isascii", IsAscii},
    {"isidentifier", IsIdentifier},
    {"isupper", HasOnlyCase<IsUpper, IsLower>},
    {"islower", HasOnlyCase<IsLower, IsUpper>},
    {"istitle", IsTitle},
    {"encode", nullptr},
    {"expandtabs", nullptr},
    {"format_map", nullptr},
    {"maketrans", nullptr},
    {"translate", nullptr},
};

}  // namespace

Method FindStringMethod(absl::string_view name) {
  for (const Entry& entry : kStringMethods) {
    if (entry.name != name) continue;
    const bool supported = entry.native != nullptr;
    return {supported ? MethodKind::kCallable : MethodKind::kUnsupported, entry.native};
  }
  return {};
}

absl::StatusOr<std::string> ReplaceText(Budget& budget, absl::string_view text,
                                        absl::string_view old_text, absl::string_view new_text,
                                        int64_t count) {
  std::string out;
  size_t position = 0;
  int64_t done = 0;
  RETURN_IF_ERROR(budget.Build(text.size()));
  while (count < 0 || done < count) {
    size_t found = position;
    size_t next = position;
    if (old_text.empty()) {
      // An empty text matches before each code point and at the end.
      if (done > 0 && position >= text.size()) break;
      if (done > 0) NextCodePoint(text, &found);
      next = found;
    } else {
      RETURN_IF_ERROR(budget.Spend(old_text.size()));
      found = FindText(text, old_text, position);
      if (found == absl::string_view::npos) break;
      next = found + old_text.size();
    }
    RETURN_IF_ERROR(budget.Build(new_text.size()));
    absl::StrAppend(&out, text.substr(position, found - position), new_text);
    if (out.size() > budget.limits().max_output_bytes)
      return Error("the replaced text is too long");
    position = next;
    ++done;
  }
  absl::StrAppend(&out, text.substr(std::min(position, text.size())));
  return out;
}

absl::StatusOr<Value> MakePadded(Budget& budget, absl::string_view text, int64_t width,
                                 absl::string_view fill, char align) {
  RETURN_IF_ERROR(budget.Spend(text.size()));
  const int64_t missing = std::max<int64_t>(0, width - static_cast<int64_t>(CountCodePoints(text)));
  RETURN_IF_ERROR(budget.Build(static_cast<size_t>(missing)));
  RETURN_IF_ERROR(budget.Build(static_cast<size_t>(missing) * fill.size()));
  int64_t left = 0;
  if (align == '>') left = missing;
  // If the padding is odd, Python's center puts the extra fill on the left if the width is odd.
  if (align == '^') left = missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out.append(fill.data(), fill.size());
  out.append(text.data(), text.size());
  for (int64_t i = left; i < missing; ++i) out.append(fill.data(), fill.size());
  return MakeString(budget, std::move(out));
}

}  // namespace tessera::jinja

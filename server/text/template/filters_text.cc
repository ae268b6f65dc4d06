// The filters that return text.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/filters.h"
#include "server/text/template/format.h"
#include "server/text/template/json_text.h"
#include "server/text/template/methods.h"
#include "server/text/template/operators.h"
#include "server/text/template/python_text.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

template <std::string (*kConvert)(absl::string_view)>
absl::StatusOr<Value> Converted(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("filter", args, 0, {}).status());
  ASSIGN_OR_RETURN(const std::string text, Str(budget, self));
  return MakeString(budget, kConvert(text));
}

// The title case of jinja2's `title` filter: a word starts after white space, - ( { [ or <.
std::string TitleWords(absl::string_view text) {
  std::string out;
  size_t word = 0;
  const auto flush = [&](size_t end) {
    const absl::string_view part = text.substr(word, end - word);
    const size_t head = ByteOffset(part, 1);
    out += Upper(part.substr(0, head));
    out += Lower(part.substr(head));
  };
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    const char32_t c = NextCodePoint(text, &position);
    const bool separates = IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    if (!separates) continue;
    flush(begin);
    out.append(text.data() + begin, position - begin);
    word = position;
  }
  flush(text.size());
  return out;
}

absl::StatusOr<Value> Trim(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("trim", args, 0, {"chars"}));
  ASSIGN_OR_RETURN(const std::string text, Str(budget, self));
  if (!bound.Has(0) || bound[0].is_none()) {
    return MakeString(budget, std::string(Strip(text, Side::kBoth)));
  }
  ASSIGN_OR_RETURN(const absl::string_view chars, bound.GetText(0, ""));
  return MakeString(budget, std::string(Strip(text, Side::kBoth, &chars)));
}

absl::StatusOr<Value> Replace(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("replace", args, 2, {"old", "new", "count"}));
  ASSIGN_OR_RETURN(const std::string text, Str(budget, self));
  ASSIGN_OR_RETURN(const std::string old_text, Str(budget, bound[0]));
  ASSIGN_OR_RETURN(const std::string new_text, Str(budget, bound[1]));
  const bool all = !bound.Has(2) || bound[2].is_none();
  ASSIGN_OR_RETURN(const int64_t count, all ? absl::StatusOr<int64_t>(-1) : bound.GetInt(2, -1));
  ASSIGN_OR_RETURN(std::string out, ReplaceText(budget, text, old_text, new_text, count));
  return MakeString(budget, std::move(out));
}

absl::StatusOr<Value> Indent(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("indent", args, 0, {"width", "first", "blank"}));
  if (self.is_undefined()) return Error(self.undefined_reason());
  if (!self.is_string())
    return Error("indent: the value must be a string, not '", self.TypeName(), "'");
  std::string indention;
  if (bound.Has(0) && bound[0].is_string()) {
    indention = bound[0].text();
  } else {
    ASSIGN_OR_RETURN(const int64_t width, bound.GetInt(0, 4));
    RETURN_IF_ERROR(budget.Build(static_cast<size_t>(std::max<int64_t>(width, 0))));
    indention.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const bool indent_blank = bound.GetBool(2, false);
  RETURN_IF_ERROR(budget.Build(2 * self.text().size()));
  const std::string text = self.text() + "\n";
  const std::vector<absl::string_view> lines = SplitLines(text, false);
  std::string out = bound.GetBool(1, false) ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    RETURN_IF_ERROR(budget.Build(indention.size() + lines[i].size()));
    if (i != 0) out.push_back('\n');
    const bool indents = i != 0 && (indent_blank || !lines[i].empty());
    absl::StrAppend(&out, indents ? indention : "", lines[i]);
  }
  return MakeString(budget, std::move(out));
}

absl::StatusOr<Value> Center(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("center", args, 0, {"width"}));
  ASSIGN_OR_RETURN(const int64_t width, bound.GetInt(0, 80));
  ASSIGN_OR_RETURN(const std::string text, Str(budget, self));
  return MakePadded(budget, text, width, " ", '^');
}

absl::StatusOr<Value> Truncate(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound,
                   Bind("truncate", args, 0, {"length", "killwords", "end", "leeway"}));
  ASSIGN_OR_RETURN(const int64_t length, bound.GetInt(0, 255));
  ASSIGN_OR_RETURN(const absl::string_view end, bound.GetText(2, "..."));
  const bool has_leeway = bound.Has(3) && !bound[3].is_none();
  ASSIGN_OR_RETURN(const int64_t leeway,
                   has_leeway ? bound.GetInt(3, 5) : absl::StatusOr<int64_t>(5));
  if (self.is_undefined()) return self;
  if (!self.is_string())
    return Error("truncate: the value must be a string, not '", self.TypeName(), "'");
  const std::string& text = self.text();
  const int64_t end_length = static_cast<int64_t>(CountCodePoints(end));
  const int64_t text_length = static_cast<int64_t>(CountCodePoints(text));
  if (length < end_length) return Error("expected length >= ", end_length, ", got ", length);
  if (leeway < 0) return Error("expected leeway >= 0, got ", leeway);
  if (text_length - leeway <= length) return self;
  absl::string_view kept =
      absl::string_view(text).substr(0, ByteOffset(text, static_cast<size_t>(length - end_length)));
  const size_t space = bound.GetBool(1, false) ? absl::string_view::npos : kept.rfind(' ');
  if (space != absl::string_view::npos) kept = kept.substr(0, space);
  return MakeString(budget, absl::StrCat(kept, end));
}

absl::StatusOr<Value> WordCount(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("wordcount", args, 0, {}).status());
  ASSIGN_OR_RETURN(const std::string text, Str(budget, self));
  int64_t count = 0;
  bool in_word = false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = NextCodePoint(text, &position);
    const bool is_word = c == '_' || IsAlpha(c) || IsNumeric(c);
    if (is_word && !in_word) ++count;
    in_word = is_word;
  }
  return Value::Int(count);
}

absl::StatusOr<Value> AsText(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("string", args, 0, {}).status());
  if (self.is_string()) return self;
  ASSIGN_OR_RETURN(std::string text, Str(budget, self));
  return MakeString(budget, std::move(text));
}

absl::StatusOr<Value> ForceEscape(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("forceescape", args, 0, {}).status());
  ASSIGN_OR_RETURN(const std::string text, Str(budget, self));
  RETURN_IF_ERROR(budget.Build(6 * text.size()));
  return Value::String(EscapeHtml(text), /*markup=*/true);
}

absl::StatusOr<Value> Escape(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("escape", args, 0, {}).status());
  if (self.is_markup()) return self;
  return ForceEscape(budget, self, args);
}

absl::StatusOr<Value> Safe(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("safe", args, 0, {}).status());
  ASSIGN_OR_RETURN(std::string text, Str(budget, self));
  RETURN_IF_ERROR(budget.Build(text.size()));
  return Value::String(std::move(text), /*markup=*/true);
}

absl::StatusOr<Value> Format(Budget& budget, const Value& self, const CallArgs& args) {
  if (!args.positional.empty() && !args.named.empty()) {
    return Error("can't handle positional and keyword arguments at the same time");
  }
  ASSIGN_OR_RETURN(const Value text, AsText(budget, self, CallArgs()));
  if (args.named.empty()) return FormatPercent(budget, text, Value::Tuple(args.positional));
  auto named = std::make_shared<Dict>();
  for (const auto& [name, value] : args.named) named->Set(Value::String(name), value);
  return FormatPercent(budget, text, Value::FromDict(std::move(named)));
}

std::string Quoted(absl::string_view text, bool is_query) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool is_plain = absl::ascii_isalnum(byte) ||
                          absl::string_view("_.-~").find(c) != absl::string_view::npos ||
                          (c == '/' && !is_query);
    if (is_plain) {
      out.push_back(c);
    } else if (c == ' ' && is_query) {
      out.push_back('+');
    } else {
      absl::StrAppend(&out, "%",
                      absl::AsciiStrToUpper(absl::StrCat(absl::Hex(byte, absl::kZeroPad2))));
    }
  }
  return out;
}

absl::StatusOr<Value> UrlEncode(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("urlencode", args, 0, {}).status());
  if (self.is_string() || !IsIterable(self)) {
    ASSIGN_OR_RETURN(const std::string text, Str(budget, self));
    RETURN_IF_ERROR(budget.Build(3 * text.size()));
    return MakeString(budget, Quoted(text, false));
  }
  ASSIGN_OR_RETURN(std::vector<Value> pairs, Iterate(budget, self));
  std::string out;
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (self.is_dict()) pairs[i] = Value::Tuple({pairs[i], self.dict().entries()[i].second});
    if (!pairs[i].is_list_like() || pairs[i].items().size() != 2) {
      return Error("urlencode needs a mapping or pairs");
    }
    ASSIGN_OR_RETURN(const std::string key, Str(budget, pairs[i].items()[0]));
    ASSIGN_OR_RETURN(const std::string value, Str(budget, pairs[i].items()[1]));
    RETURN_IF_ERROR(budget.Build(3 * (key.size() + value.size())));
    absl::StrAppend(&out, i == 0 ? "" : "&", Quoted(key, true), "=", Quoted(value, true));
  }
  return MakeString(budget, std::move(out));
}

// Hugging Face's `tojson`: json.dumps(value, ensure_ascii=False, indent, separators, sort_keys).
absl::StatusOr<Value> ToJsonFilter(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound,
                   Bind("tojson", args, 0, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ensure_ascii = bound.GetBool(0, false);
  style.sort_keys = bound.GetBool(3, false);
  if (bound.Has(1) && !bound[1].is_none()) {
    style.is_indented = true;
    style.item_separator.assign(1, ',');
    if (bound[1].is_string()) {
      style.indent = bound[1].text();
    } else {
      ASSIGN_OR_RETURN(const int64_t width, bound.GetInt(1, 0));
      RETURN_IF_ERROR(budget.Build(static_cast<size_t>(std::max<int64_t>(width, 0))));
      style.indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
  }
  if (bound.Has(2) && !bound[2].is_none()) {
    const Value& separators = bound[2];
    const bool is_pair = separators.is_list_like() && separators.items().size() == 2 &&
                         separators.items()[0].is_string() && separators.items()[1].is_string();
    if (!is_pair) return Error("tojson: separators must be a pair of strings");
    style.item_separator = separators.items()[0].text();
    style.key_separator = separators.items()[1].text();
  }
  ASSIGN_OR_RETURN(std::string text, ToJson(budget, self, style));
  return MakeString(budget, std::move(text));
}

constexpr NamedFunction kTextFilters[] = {
    {"tojson", ToJsonFilter},
    {"trim", Trim},
    {"string", AsText},
    {"upper", Converted<Upper>},
    {"lower", Converted<Lower>},
    {"capitalize", Converted<Capitalize>},
    {"title", Converted<TitleWords>},
    {"replace", Replace},
    {"indent", Indent},
    {"safe", Safe},
    {"escape", Escape},
    {"e", Escape},
    {"forceescape", ForceEscape},
    {"format", Format},
    {"center", Center},
    {"truncate", Truncate},
    {"wordcount", WordCount},
    {"urlencode", UrlEncode},
};

}  // namespace

NativeFunction FindTextFilter(absl::string_view name) { return FindNamed(kTextFilters, name); }

}  // namespace tessera::jinja

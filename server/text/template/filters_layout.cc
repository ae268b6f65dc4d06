// The filters that lay out text in lines: wordwrap and pprint, after Python's modules textwrap and
// pprint.
#include <algorithm>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/text/template/filters.h"
#include "server/text/template/operators.h"
#include "server/text/template/python_text.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

// --- wordwrap ---

using Points = std::vector<char32_t>;

Points PointsOf(absl::string_view text) {
  Points points;
  for (size_t position = 0; position < text.size();) {
    points.push_back(NextCodePoint(text, &position));
  }
  return points;
}

// The character classes of textwrap's expressions.
bool IsBreak(char32_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsWordPart(char32_t c) { return c == '_' || IsAlpha(c) || IsNumeric(c); }
bool IsLetter(char32_t c) { return IsWordPart(c) && !IsDecimal(c); }
bool IsWordOrPunctuation(char32_t c) {
  return IsWordPart(c) || (c < 0x80 && absl::string_view("!\"'&.,?").find(static_cast<char>(c)) !=
                                           std::string::npos);
}

// A range of code points of a line.
struct Chunk {
  size_t begin = 0;
  size_t end = 0;
  size_t size() const { return end - begin; }
};

// Splits a line into the chunks between which it may be broken.
class ChunkSplitter final {
 public:
  ChunkSplitter(const Points& text, bool at_hyphens) : text_(text), at_hyphens_(at_hyphens) {}

  std::vector<Chunk> Split() const {
    std::vector<Chunk> chunks;
    for (size_t begin = 0; begin < text_.size();) {
      const size_t end = EndOf(begin);
      chunks.push_back({begin, end});
      begin = end;
    }
    return chunks;
  }

 private:
  bool Has(size_t index, bool (*is_kind)(char32_t)) const {
    return index < text_.size() && is_kind(text_[index]);
  }
  bool HasHyphen(size_t index) const { return index < text_.size() && text_[index] == '-'; }

  size_t EndOf(size_t begin) const {
    size_t end = begin + 1;
    if (IsBreak(text_[begin])) {
      while (Has(end, IsBreak)) ++end;
      return end;
    }
    if (at_hyphens_ && StartsDash(begin)) {
      while (HasHyphen(end)) ++end;
      return end;
    }
    for (; end < text_.size() && !IsBreak(text_[end]); ++end) {
      if (at_hyphens_ && EndsBeforeHyphen(begin, end)) return end + 1;
      if (at_hyphens_ && StartsDash(end)) return end;
    }
    return end;
  }

  // Returns true if two or more hyphens stand at `index` between two words.
  bool StartsDash(size_t index) const {
    if (index == 0 || !HasHyphen(index) || !IsWordOrPunctuation(text_[index - 1])) return false;
    size_t end = index;
    while (HasHyphen(end)) ++end;
    return end - index >= 2 && Has(end, IsWordPart);
  }

  // Returns true if a line may be broken after the hyphen at `index`.
  bool EndsBeforeHyphen(size_t begin, size_t index) const {
    if (!HasHyphen(index)) return false;
    const auto is_letter = [&](size_t back) {
      return index >= back && Has(index - back, IsLetter);
    };
    const bool after =
        (is_letter(2) && is_letter(1)) || (is_letter(3) && HasHyphen(index - 2) && is_letter(1));
    const bool before =
        Has(index + 1, IsLetter) &&
        (Has(index + 2, IsLetter) || (HasHyphen(index + 2) && Has(index + 3, IsLetter)));
    return after && before;
  }

  const Points& text_;
  const bool at_hyphens_;
};

struct WrapStyle {
  size_t width = 0;
  bool breaks_long_words = true;
  bool breaks_at_hyphens = true;
};

// Fills the lines of one paragraph; see TextWrapper._wrap_chunks of Python.
class LineFiller final {
 public:
  LineFiller(const Points& text, const WrapStyle& style)
      : text_(text), style_(style), chunks_(ChunkSplitter(text, style.breaks_at_hyphens).Split()) {}

  std::vector<std::string> Fill() {
    std::vector<std::string> lines;
    while (next_ < chunks_.size()) {
      if (!lines.empty() && IsBlank(chunks_[next_])) ++next_;
      std::vector<Chunk> line = TakeLine();
      if (!line.empty() && IsBlank(line.back())) line.pop_back();
      if (line.empty()) continue;
      std::string& out = lines.emplace_back();
      for (const Chunk& chunk : line) {
        for (size_t i = chunk.begin; i < chunk.end; ++i) AppendCodePoint(text_[i], &out);
      }
    }
    return lines;
  }

 private:
  bool IsBlank(const Chunk& chunk) const {
    const auto at = text_.begin();
    return std::all_of(at + static_cast<ptrdiff_t>(chunk.begin),
                       at + static_cast<ptrdiff_t>(chunk.end), IsSpace);
  }

  std::vector<Chunk> TakeLine() {
    std::vector<Chunk> line;
    size_t length = 0;
    while (next_ < chunks_.size() && length + chunks_[next_].size() <= style_.width) {
      length += chunks_[next_].size();
      line.push_back(chunks_[next_++]);
    }
    if (next_ < chunks_.size() && chunks_[next_].size() > style_.width) {
      TakeLongWord(style_.width - length, &line);
    }
    return line;
  }

  void TakeLongWord(size_t room, std::vector<Chunk>* line) {
    Chunk& word = chunks_[next_];
    if (!style_.breaks_long_words) {
      if (line->empty()) line->push_back(chunks_[next_++]);
      return;
    }
    const size_t end = word.begin + PartOf(word, room);
    line->push_back({word.begin, end});
    word.begin = end;
  }

  // The length of the part of the word that is put in the room at the end of a line.
  size_t PartOf(const Chunk& word, size_t room) const {
    if (!style_.breaks_at_hyphens) return room;
    size_t hyphen = room;
    while (hyphen > 0 && text_[word.begin + hyphen - 1] != '-') --hyphen;
    const auto begin = text_.begin() + static_cast<ptrdiff_t>(word.begin);
    const bool has_text =
        hyphen > 1 && std::any_of(begin, begin + static_cast<ptrdiff_t>(hyphen) - 1,
                                  [](char32_t c) { return c != '-'; });
    return has_text ? hyphen : room;
  }

  const Points& text_;
  const WrapStyle& style_;
  std::vector<Chunk> chunks_;
  size_t next_ = 0;
};

absl::StatusOr<Value> WordWrap(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(
      const BoundArgs bound,
      Bind("wordwrap", args, 0, {"width", "break_long_words", "wrapstring", "break_on_hyphens"}));
  ASSIGN_OR_RETURN(const int64_t width, bound.GetInt(0, 79));
  const bool has_separator = bound.Has(2) && !bound[2].is_none();
  ASSIGN_OR_RETURN(
      const absl::string_view separator,
      has_separator ? bound.GetText(2, "\n") : absl::StatusOr<absl::string_view>("\n"));
  if (self.is_undefined()) return Error(self.undefined_reason());
  if (!self.is_string()) {
    return Error("wordwrap: the value must be a string, not '", self.TypeName(), "'");
  }
  if (width <= 0 && !self.text().empty()) {
    return Error("invalid width ", width, " (must be > 0)");
  }
  const WrapStyle style{static_cast<size_t>(width), bound.GetBool(1, true), bound.GetBool(3, true)};
  // A code point of the line takes up to 40 bytes as a part of Points and of chunks.
  RETURN_IF_ERROR(budget.Spend(40 * self.text().size()));
  std::string out;
  bool is_first = true;
  for (const absl::string_view paragraph : SplitLines(self.text(), false)) {
    if (!is_first) absl::StrAppend(&out, separator);
    is_first = false;
    const Points points = PointsOf(paragraph);
    const std::vector<std::string> lines = LineFiller(points, style).Fill();
    for (size_t i = 0; i < lines.size(); ++i) {
      RETURN_IF_ERROR(budget.Build(separator.size() + lines[i].size()));
      absl::StrAppend(&out, i == 0 ? "" : separator, lines[i]);
    }
  }
  return MakeString(budget, std::move(out));
}

// --- pprint ---

constexpr int64_t kPrintWidth = 80;

int64_t Width(absl::string_view text) { return static_cast<int64_t>(CountCodePoints(text)); }

// Prints a value in lines of at most 80 characters where that is possible. Mappings are sorted by
// their keys. The member functions have the parameters of Python's pprint.PrettyPrinter: `indent`
// is the column where the value starts, `allowance` the number of characters that follow its last
// line.
class PrettyPrinter final {
 public:
  explicit PrettyPrinter(Budget& budget) : budget_(budget) {}

  absl::StatusOr<std::string> Print(const Value& value) {
    RETURN_IF_ERROR(Format(value, 0, 0, 0));
    return std::move(out_);
  }

 private:
  absl::Status Write(absl::string_view text) {
    RETURN_IF_ERROR(budget_.Spend(text.size()));
    if (out_.size() + text.size() > budget_.limits().max_output_bytes) {
      return absl::ResourceExhaustedError("pprint writes too much text");
    }
    out_.append(text.data(), text.size());
    return absl::OkStatus();
  }

  absl::Status NewLine(absl::string_view separator, int64_t indent) {
    RETURN_IF_ERROR(budget_.Build(static_cast<size_t>(indent)));
    RETURN_IF_ERROR(Write(separator));
    return Write("\n" + std::string(static_cast<size_t>(indent), ' '));
  }

  // The entries in the order of their keys. Keys that cannot be compared are sorted by their types.
  absl::StatusOr<std::vector<Dict::Entry>> Sorted(const Dict& dict) {
    std::vector<Dict::Entry> entries = dict.entries();
    absl::Status failed;
    std::stable_sort(entries.begin(), entries.end(), [&](const auto& a, const auto& b) {
      const absl::StatusOr<bool> less = LessThan(budget_, a.first, b.first);
      if (less.ok()) return *less;
      if (!absl::IsInvalidArgument(less.status())) failed.Update(less.status());
      return a.first.TypeName() < b.first.TypeName();
    });
    RETURN_IF_ERROR(failed);
    return entries;
  }

  // repr() with sorted mappings.
  absl::Status AppendSortedRepr(const Value& value, std::string* out) {
    RETURN_IF_ERROR(budget_.Spend(Budget::kStepCost));
    if (out->size() > budget_.limits().max_output_bytes) {
      return absl::ResourceExhaustedError("pprint writes too much text");
    }
    if (value.is_dict()) {
      ASSIGN_OR_RETURN(const std::vector<Dict::Entry> entries, Sorted(value.dict()));
      out->push_back('{');
      for (size_t i = 0; i < entries.size(); ++i) {
        if (i != 0) out->append(", ");
        RETURN_IF_ERROR(AppendSortedRepr(entries[i].first, out));
        out->append(": ");
        RETURN_IF_ERROR(AppendSortedRepr(entries[i].second, out));
      }
      out->push_back('}');
      return absl::OkStatus();
    }
    if (!value.is_list_like()) return AppendRepr(budget_, value, out);
    const bool is_list = value.Is(Kind::kList);
    out->push_back(is_list ? '[' : '(');
    for (size_t i = 0; i < value.items().size(); ++i) {
      if (i != 0) out->append(", ");
      RETURN_IF_ERROR(AppendSortedRepr(value.items()[i], out));
    }
    if (!is_list && value.items().size() == 1) out->push_back(',');
    out->push_back(is_list ? ']' : ')');
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> SortedRepr(const Value& value) {
    std::string text;
    RETURN_IF_ERROR(AppendSortedRepr(value, &text));
    RETURN_IF_ERROR(budget_.Build(text.size()));
    return text;
  }

  absl::Status Format(const Value& value, int64_t indent, int64_t allowance, int level) {
    ASSIGN_OR_RETURN(const std::string text, SortedRepr(value));
    if (Width(text) <= kPrintWidth - indent - allowance) return Write(text);
    if (value.is_dict()) return FormatDict(value.dict(), indent, allowance + 1, level + 1);
    if (value.is_list_like()) return FormatItems(value, indent, allowance, level + 1);
    if (value.is_string() && !value.is_markup() && !value.text().empty()) {
      return FormatString(value.text(), indent, allowance, level + 1);
    }
    return Write(text);
  }

  absl::Status FormatDict(const Dict& dict, int64_t indent, int64_t allowance, int level) {
    ASSIGN_OR_RETURN(const std::vector<Dict::Entry> entries, Sorted(dict));
    RETURN_IF_ERROR(Write("{"));
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i != 0) RETURN_IF_ERROR(NewLine(",", indent + 1));
      ASSIGN_OR_RETURN(const std::string key, SortedRepr(entries[i].first));
      RETURN_IF_ERROR(Write(key));
      RETURN_IF_ERROR(Write(": "));
      RETURN_IF_ERROR(Format(entries[i].second, indent + 1 + Width(key) + 2,
                             i + 1 == entries.size() ? allowance : 1, level));
    }
    return Write("}");
  }

  absl::Status FormatItems(const Value& list, int64_t indent, int64_t allowance, int level) {
    const std::vector<Value>& items = list.items();
    const bool is_list = list.Is(Kind::kList);
    const absl::string_view end = is_list ? "]" : (items.size() == 1 ? ",)" : ")");
    RETURN_IF_ERROR(Write(is_list ? "[" : "("));
    for (size_t i = 0; i < items.size(); ++i) {
      if (i != 0) RETURN_IF_ERROR(NewLine(",", indent + 1));
      const bool is_last = i + 1 == items.size();
      RETURN_IF_ERROR(Format(items[i], indent + 1,
                             is_last ? allowance + static_cast<int64_t>(end.size()) : 1, level));
    }
    return Write(end);
  }

  static std::string StringRepr(absl::string_view text) {
    std::string out;
    AppendStringRepr(text, &out);
    return out;
  }

  // Cuts a line after white space into literals of at most `max_width` characters, the last one of
  // at most `last_width`.
  static void CutLine(absl::string_view line, int64_t max_width, int64_t last_width,
                      std::vector<std::string>* literals) {
    std::string current;
    for (size_t position = 0; position < line.size();) {
      const size_t begin = position;
      bool in_space = false;
      for (size_t next = position; next < line.size(); position = next) {
        const bool is_space = IsSpace(NextCodePoint(line, &next));
        if (in_space && !is_space) break;
        in_space = is_space;
      }
      const absl::string_view part = line.substr(begin, position - begin);
      const int64_t limit = position == line.size() ? last_width : max_width;
      if (Width(StringRepr(absl::StrCat(current, part))) <= limit) {
        absl::StrAppend(&current, part);
        continue;
      }
      if (!current.empty()) literals->push_back(StringRepr(current));
      current = std::string(part);
    }
    if (!current.empty()) literals->push_back(StringRepr(current));
  }

  // Writes a string as adjacent literals, one per line; in parentheses if the string is the whole
  // value.
  absl::Status FormatString(const std::string& text, int64_t indent, int64_t allowance, int level) {
    const bool is_whole = level == 1;
    if (is_whole) {
      ++indent;
      ++allowance;
    }
    RETURN_IF_ERROR(budget_.Build(4 * text.size()));
    const int64_t max_width = kPrintWidth - indent;
    const std::vector<absl::string_view> lines = SplitLines(text, true);
    std::vector<std::string> literals;
    for (size_t i = 0; i < lines.size(); ++i) {
      const int64_t last_width = max_width - (i + 1 == lines.size() ? allowance : 0);
      std::string whole = StringRepr(lines[i]);
      if (Width(whole) <= last_width) {
        literals.push_back(std::move(whole));
      } else {
        CutLine(lines[i], max_width, last_width, &literals);
      }
    }
    if (literals.size() == 1) return Write(literals[0]);
    if (is_whole) RETURN_IF_ERROR(Write("("));
    for (size_t i = 0; i < literals.size(); ++i) {
      if (i != 0) RETURN_IF_ERROR(NewLine("", indent));
      RETURN_IF_ERROR(Write(literals[i]));
    }
    return is_whole ? Write(")") : absl::OkStatus();
  }

  Budget& budget_;
  std::string out_;
};

absl::StatusOr<Value> PrettyPrint(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("pprint", args, 0, {}).status());
  ASSIGN_OR_RETURN(std::string text, PrettyPrinter(budget).Print(self));
  return MakeString(budget, std::move(text));
}

constexpr NamedFunction kLayoutFilters[] = {{"wordwrap", WordWrap}, {"pprint", PrettyPrint}};

}  // namespace

NativeFunction FindLayoutFilter(absl::string_view name) { return FindNamed(kLayoutFilters, name); }

}  // namespace tessera::jinja

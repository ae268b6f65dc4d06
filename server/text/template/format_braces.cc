// Python's str.format, which replaces fields in braces.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/format.h"
#include "server/text/template/python_text.h"

namespace tessera::jinja {
namespace {

constexpr int kMaxFieldNesting = 2;

bool IsNumber(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

class BraceFormatter final {
 public:
  BraceFormatter(Budget& budget, const CallArgs& args) : budget_(budget), args_(args) {}

  absl::StatusOr<std::string> Format(absl::string_view format, int nesting) {
    if (nesting > kMaxFieldNesting) return Error("Max string recursion exceeded");
    std::string out;
    size_t position = 0;
    while (position < format.size()) {
      const char c = format[position];
      const bool doubled = position + 1 < format.size() && format[position + 1] == c;
      if ((c == '{' || c == '}') && doubled) {
        out.push_back(c);
        position += 2;
      } else if (c == '}') {
        return Error("Single '}' encountered in format string");
      } else if (c == '{') {
        ASSIGN_OR_RETURN(const std::string filled, ReadField(format, &position, nesting));
        RETURN_IF_ERROR(budget_.Build(filled.size()));
        out += filled;
      } else {
        out.push_back(c);
        ++position;
      }
      if (out.size() > budget_.limits().max_output_bytes)
        return Error("the formatted text is too long");
    }
    RETURN_IF_ERROR(budget_.Spend(format.size()));
    return out;
  }

 private:
  // Reads the field whose '{' is at *position, and moves *position past the matching '}'.
  absl::StatusOr<std::string> ReadField(absl::string_view format, size_t* position, int nesting) {
    const size_t begin = *position + 1;
    size_t end = begin;
    int open = 1;
    for (; end < format.size(); ++end) {
      if (format[end] == '{') ++open;
      if (format[end] == '}' && --open == 0) break;
    }
    if (end >= format.size()) return Error("expected '}' before end of string");
    *position = end + 1;
    const absl::string_view field = format.substr(begin, end - begin);
    const size_t name_end = std::min(field.find_first_of("!:"), field.size());
    absl::string_view rest = field.substr(name_end);
    char conversion = 0;
    if (!rest.empty() && rest[0] == '!') {
      if (rest.size() < 2) return Error("end of string while looking for conversion specifier");
      conversion = rest[1];
      rest.remove_prefix(2);
    }
    if (!rest.empty() && rest[0] != ':') return Error("expected ':' after conversion specifier");
    ASSIGN_OR_RETURN(Value value, Lookup(field.substr(0, name_end)));
    ASSIGN_OR_RETURN(value, Convert(std::move(value), conversion));
    if (rest.empty()) return FormatSpec(budget_, value, "");
    ASSIGN_OR_RETURN(const std::string spec, Format(rest.substr(1), nesting + 1));
    return FormatSpec(budget_, value, spec);
  }

  absl::StatusOr<Value> Convert(Value value, char conversion) {
    if (conversion == 0) return value;
    if (conversion != 's' && conversion != 'r' && conversion != 'a') {
      return Error("Unknown conversion specifier '", std::string(1, conversion), "'");
    }
    ASSIGN_OR_RETURN(std::string text,
                     conversion == 's' ? Str(budget_, value) : Repr(budget_, value));
    return Value::String(std::move(text));
  }

  // Looks up a field name of the form first(.attribute|[key])*.
  absl::StatusOr<Value> Lookup(absl::string_view name) {
    const size_t first_end = std::min(name.find_first_of(".["), name.size());
    ASSIGN_OR_RETURN(Value value, Argument(name.substr(0, first_end)));
    absl::string_view rest = name.substr(first_end);
    while (!rest.empty()) {
      RETURN_IF_ERROR(budget_.Spend(Budget::kStepCost));
      if (rest[0] == '.') {
        const size_t end = std::min(rest.find_first_of(".[", 1), rest.size());
        ASSIGN_OR_RETURN(value, GetAttribute(value, rest.substr(1, end - 1)));
        rest.remove_prefix(end);
        continue;
      }
      const size_t end = rest.find(']');
      if (rest[0] != '[' || end == absl::string_view::npos)
        return Error("Missing ']' in format string");
      const absl::string_view key = rest.substr(1, end - 1);
      int64_t index = 0;
      const bool is_index = IsNumber(key) && absl::SimpleAtoi(key, &index);
      ASSIGN_OR_RETURN(
          value,
          GetItem(budget_, value, is_index ? Value::Int(index) : Value::String(std::string(key))));
      rest.remove_prefix(end + 1);
    }
    return value;
  }

  absl::StatusOr<Value> Argument(absl::string_view name) {
    if (!name.empty() && !IsNumber(name)) {
      const Value* found = args_.FindNamed(name);
      if (found == nullptr) return Error("KeyError: '", name, "'");
      return *found;
    }
    uint64_t index = next_index_;
    if (name.empty()) {
      ++next_index_;
    } else if (!absl::SimpleAtoi(name, &index)) {
      return Error("Too many decimal digits in format string");
    }
    if (index >= args_.positional.size()) {
      return Error("Replacement index ", index, " out of range for positional args tuple");
    }
    return args_.positional[index];
  }

  Budget& budget_;
  const CallArgs& args_;
  uint64_t next_index_ = 0;
};

}  // namespace

absl::StatusOr<Value> FormatBraces(Budget& budget, absl::string_view format, const CallArgs& args) {
  BraceFormatter formatter(budget, args);
  ASSIGN_OR_RETURN(std::string text, formatter.Format(format, 0));
  return MakeString(budget, std::move(text));
}

}  // namespace tessera::jinja

#include "server/text/template/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/python_text.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

constexpr int64_t kMaxPrecision = 400;
constexpr int64_t kMaxWidth = 1 << 20;

// The format specification of one value, which both notations share.
struct Spec {
  std::string fill = " ";
  char align = 0;  // <, >, ^ or =; 0: the type's default
  char sign = '-';
  bool alternate = false;
  char grouping = 0;
  int64_t width = 0;
  int64_t precision = -1;
  char type = 0;
};

// Reads digits at *position into *number. Leaves *number unchanged if there are no digits.
absl::Status ReadNumber(absl::string_view text, size_t* position, int64_t limit, int64_t* number) {
  if (*position >= text.size() || !absl::ascii_isdigit(text[*position])) return absl::OkStatus();
  int64_t value = 0;
  for (; *position < text.size() && absl::ascii_isdigit(text[*position]); ++*position) {
    value = value * 10 + (text[*position] - '0');
    if (value > limit) return Error("a format's width or precision exceeds ", limit);
  }
  *number = value;
  return absl::OkStatus();
}

std::string Printed(const char* type, bool alternate, int64_t precision, double value) {
  const std::string directive = absl::StrCat("%", alternate ? "#" : "", ".*", type);
  char buffer[kMaxPrecision + 400];
  const int length =
      std::snprintf(buffer, sizeof(buffer), directive.c_str(), static_cast<int>(precision), value);
  return std::string(buffer, static_cast<size_t>(std::clamp<int>(length, 0, sizeof(buffer) - 1)));
}

std::string Grouped(absl::string_view digits, char separator, size_t group) {
  const size_t whole = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
  std::string out;
  for (size_t i = 0; i < whole; ++i) {
    if (i != 0 && (whole - i) % group == 0) out.push_back(separator);
    out.push_back(digits[i]);
  }
  return absl::StrCat(out, digits.substr(whole));
}

// Joins `sign` and `body` (which has no sign) and pads them to the width of the spec.
std::string Padded(const Spec& spec, char default_align, absl::string_view sign,
                   absl::string_view body) {
  const int64_t used = static_cast<int64_t>(CountCodePoints(sign) + CountCodePoints(body));
  const int64_t missing = std::max<int64_t>(0, spec.width - used);
  const char align = spec.align == 0 ? default_align : spec.align;
  int64_t left = 0;
  if (align == '>' || align == '=') left = missing;
  if (align == '^') left = missing / 2;
  const auto filling = [&](int64_t count) {
    std::string out;
    for (int64_t i = 0; i < count; ++i) out += spec.fill;
    return out;
  };
  if (align == '=') return absl::StrCat(sign, filling(left), body);
  return absl::StrCat(filling(left), sign, body, filling(missing - left));
}

std::string SignText(const Spec& spec, bool negative) {
  if (negative) return "-";
  return spec.sign == '-' ? "" : std::string(1, spec.sign);
}

std::string IntDigits(uint64_t magnitude, int base, bool upper) {
  const char* const digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string out;
  do {
    out.push_back(digits[magnitude % static_cast<uint64_t>(base)]);
    magnitude /= static_cast<uint64_t>(base);
  } while (magnitude != 0);
  std::reverse(out.begin(), out.end());
  return out;
}

std::string FormatInt(const Spec& spec, int64_t value) {
  const bool negative = value < 0;
  const uint64_t magnitude =
      negative ? uint64_t{0} - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  int base = 10;
  std::string prefix;
  if (spec.type == 'x' || spec.type == 'X') base = 16;
  if (spec.type == 'o') base = 8;
  if (spec.type == 'b') base = 2;
  if (spec.alternate && base != 10) prefix = absl::StrCat("0", std::string(1, spec.type));
  std::string digits = IntDigits(magnitude, base, spec.type == 'X');
  if (spec.precision > static_cast<int64_t>(digits.size())) {
    digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
  }
  if (spec.grouping != 0) digits = Grouped(digits, spec.grouping, base == 10 ? 3 : 4);
  return Padded(spec, '>', absl::StrCat(SignText(spec, negative), prefix), digits);
}

// Formats a float whose spec has no type: as Python prints the float, or with the significant
// digits of the precision.
std::string PlainFloat(const Spec& spec, double magnitude) {
  if (spec.precision < 0) return FloatRepr(magnitude);
  std::string text = Printed("g", false, std::max<int64_t>(spec.precision, 1), magnitude);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string FormatFloat(const Spec& spec, double value) {
  const bool negative = std::signbit(value) && !std::isnan(value);
  double magnitude = std::fabs(value);
  const char type = spec.type == 'n' ? 'g' : spec.type;
  std::string body;
  if (!std::isfinite(value)) {
    body = std::isnan(value) ? "nan" : "inf";
    if (absl::ascii_isupper(static_cast<unsigned char>(type))) absl::AsciiStrToUpper(&body);
  } else if (type == 0) {
    body = PlainFloat(spec, magnitude);
  } else {
    const bool is_percent = type == '%';
    if (is_percent) magnitude *= 100;
    const char printf_type[2] = {is_percent ? 'f' : type, 0};
    body = Printed(printf_type, spec.alternate, spec.precision < 0 ? 6 : spec.precision, magnitude);
    if (is_percent) body += "%";
  }
  if (spec.grouping != 0) body = Grouped(body, spec.grouping, 3);
  return Padded(spec, '>', SignText(spec, negative), body);
}

std::string FormatText(const Spec& spec, absl::string_view text) {
  if (spec.precision >= 0) {
    text = text.substr(0, ByteOffset(text, static_cast<size_t>(spec.precision)));
  }
  return Padded(spec, '<', "", text);
}

bool IsFloatType(char type) {
  return type != 0 && absl::string_view("eEfFgG%").find(type) != absl::string_view::npos;
}

absl::StatusOr<Spec> ParseSpec(absl::string_view text) {
  Spec spec;
  size_t position = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  const auto accept = [&](char c) {
    const bool found = position < text.size() && text[position] == c;
    if (found) ++position;
    return found;
  };
  if (!text.empty()) {
    const size_t after_fill = ByteOffset(text, 1);
    if (after_fill < text.size() && is_align(text[after_fill])) {
      spec.fill = std::string(text.substr(0, after_fill));
      spec.align = text[after_fill];
      position = after_fill + 1;
    } else if (is_align(text[0])) {
      spec.align = text[0];
      position = 1;
    }
  }
  if (accept('+')) spec.sign = '+';
  if (accept(' ')) spec.sign = ' ';
  accept('-');
  spec.alternate = accept('#');
  if (accept('0') && spec.align == 0) {
    spec.fill.assign(1, '0');
    spec.align = '=';
  }
  RETURN_IF_ERROR(ReadNumber(text, &position, kMaxWidth, &spec.width));
  if (accept(',')) spec.grouping = ',';
  if (accept('_')) spec.grouping = '_';
  if (accept('.')) {
    RETURN_IF_ERROR(ReadNumber(text, &position, kMaxPrecision, &spec.precision));
    if (spec.precision < 0) return Error("Format specifier missing precision");
  }
  if (position < text.size()) spec.type = text[position++];
  if (position != text.size()) return Error("Invalid format specifier '", text, "'");
  return spec;
}

// ---- text % values

// Returns the values of the right operand of `%` one by one.
class PercentArguments final {
 public:
  explicit PercentArguments(const Value& value) : value_(value) {}

  absl::StatusOr<Value> Next() {
    if (value_.Is(Kind::kTuple)) {
      if (next_ >= value_.items().size()) return Error("not enough arguments for format string");
      return value_.items()[next_++];
    }
    if (next_++ > 0) return Error("not enough arguments for format string");
    return value_;
  }

  absl::StatusOr<Value> Named(absl::string_view name) {
    if (!value_.is_dict()) return Error("format requires a mapping");
    next_ = 1;
    const Value* found = value_.dict().Find(name);
    if (found == nullptr) return Error("KeyError: '", name, "'");
    return *found;
  }

  // Returns an error if values are unused, as Python does: an unused mapping, list, range or
  // undefined value is no error, an unused value of a tuple or an unused scalar is one.
  absl::Status Finish() const {
    const bool has_elements = value_.is_dict() || value_.Is(Kind::kList) ||
                              value_.Is(Kind::kRange) || value_.is_undefined();
    const bool is_unused =
        value_.Is(Kind::kTuple) ? next_ < value_.items().size() : next_ == 0 && !has_elements;
    if (is_unused) return Error("not all arguments converted during string formatting");
    return absl::OkStatus();
  }

 private:
  const Value& value_;
  size_t next_ = 0;
};

// Formats an integer beyond 64 bits as decimal digits; the other notations are errors.
absl::StatusOr<std::string> FormatBigInt(Spec spec, const Value& value) {
  const bool is_decimal =
      spec.type == 0 || spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
  if (!is_decimal || spec.grouping != 0) return Error("an integer exceeds 64 bits");
  if (spec.align == 0 || spec.align == '=') spec.align = '>';
  spec.precision = -1;
  return FormatText(spec, value.text());
}

absl::StatusOr<std::string> FormatDirective(Budget& budget, Spec spec, const Value& value) {
  if (spec.type == 's' || spec.type == 'r' || spec.type == 'a') {
    ASSIGN_OR_RETURN(const std::string text,
                     spec.type == 's' ? Str(budget, value) : Repr(budget, value));
    if (spec.align == '=') spec.align = 0;
    if (spec.align == 0) spec.align = '>';
    if (spec.fill == "0") spec.fill.assign(1, ' ');
    return FormatText(spec, text);
  }
  if (spec.type == 'c') {
    if (value.is_string() && CountCodePoints(value.text()) == 1)
      return FormatText(spec, value.text());
    const bool is_code_point = value.is_integral() && value.integer() >= 0 &&
                               value.integer() <= 0x10FFFF && value.integer() / 0x800 != 0x1B;
    if (!is_code_point) return Error("%c requires int or char");
    return FormatText(spec, CodePointText(static_cast<char32_t>(value.integer())));
  }
  const char type[2] = {spec.type, 0};
  if (value.Is(Kind::kBigInt)) return FormatBigInt(spec, value);
  if (!value.is_number()) {
    return Error("%", type, " format: a real number is required, not ", value.TypeName());
  }
  if (IsFloatType(spec.type)) return FormatFloat(spec, value.number());
  const bool is_decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
  if (!is_decimal && absl::string_view("xXo").find(spec.type) == absl::string_view::npos) {
    return Error("unsupported format character '", type, "'");
  }
  if (value.is_integral()) return FormatInt(spec, value.integer());
  if (!is_decimal) return Error("%", type, " format: an integer is required, not float");
  if (!(std::fabs(value.real()) < 9.2e18)) return Error("cannot convert float to integer");
  return FormatInt(spec, static_cast<int64_t>(value.real()));
}

// Reads a directive after its '%': [(name)][flags][width][.precision]type.
absl::StatusOr<std::string> ReadDirective(Budget& budget, absl::string_view text, size_t* position,
                                          PercentArguments* arguments) {
  absl::string_view name;
  const bool is_named = *position < text.size() && text[*position] == '(';
  if (is_named) {
    const size_t end = text.find(')', *position);
    if (end == absl::string_view::npos) return Error("incomplete format key");
    name = text.substr(*position + 1, end - *position - 1);
    *position = end + 1;
  }
  Spec spec;
  for (; *position < text.size(); ++*position) {
    const char flag = text[*position];
    if (flag == '-') spec.align = '<';
    if (flag == '0' && spec.align == 0) spec.align = '=';
    if (flag == '0' && spec.align == '=') spec.fill.assign(1, '0');
    if (flag == '+') spec.sign = '+';
    if (flag == ' ' && spec.sign != '+') spec.sign = ' ';
    if (flag == '#') spec.alternate = true;
    if (absl::string_view("-0+ #").find(flag) == absl::string_view::npos) break;
  }
  if (spec.align == '<') spec.fill.assign(1, ' ');
  RETURN_IF_ERROR(ReadNumber(text, position, kMaxWidth, &spec.width));
  if (*position < text.size() && text[*position] == '.') {
    ++*position;
    spec.precision = 0;
    RETURN_IF_ERROR(ReadNumber(text, position, kMaxPrecision, &spec.precision));
  }
  while (*position < text.size() &&
         absl::string_view("hlL").find(text[*position]) != absl::string_view::npos) {
    ++*position;
  }
  if (*position >= text.size()) return Error("incomplete format");
  spec.type = text[(*position)++];
  if (spec.type == '%') return std::string("%");
  ASSIGN_OR_RETURN(const Value value, is_named ? arguments->Named(name) : arguments->Next());
  RETURN_IF_ERROR(budget.Build(static_cast<size_t>(spec.width)));
  return FormatDirective(budget, spec, value);
}

}  // namespace

absl::StatusOr<Value> FormatPercent(Budget& budget, const Value& format, const Value& arguments) {
  const absl::string_view text = format.text();
  PercentArguments values(arguments);
  std::string out;
  size_t position = 0;
  while (position < text.size()) {
    const size_t percent = std::min(text.find('%', position), text.size());
    RETURN_IF_ERROR(budget.Build(percent - position));
    out.append(text.data() + position, percent - position);
    position = percent + 1;
    if (percent == text.size()) break;
    ASSIGN_OR_RETURN(const std::string filled, ReadDirective(budget, text, &position, &values));
    RETURN_IF_ERROR(budget.Build(filled.size()));
    out += filled;
    if (out.size() > budget.limits().max_output_bytes)
      return Error("the formatted text is too long");
  }
  RETURN_IF_ERROR(values.Finish());
  return MakeString(budget, std::move(out));
}

absl::StatusOr<std::string> FormatSpec(Budget& budget, const Value& value, absl::string_view text) {
  if (text.empty()) return Str(budget, value);
  ASSIGN_OR_RETURN(const Spec spec, ParseSpec(text));
  RETURN_IF_ERROR(budget.Build(static_cast<size_t>(spec.width) * spec.fill.size()));
  const char type[2] = {spec.type, 0};
  if (value.is_string()) {
    RETURN_IF_ERROR(budget.Spend(value.text().size()));
    if (spec.type != 0 && spec.type != 's') {
      return Error("Unknown format code '", type, "' for object of type 'str'");
    }
    if (spec.align == '=' && spec.fill != "0")
      return Error("'=' alignment not allowed in string format specifier");
    Spec text_spec = spec;
    if (spec.align == '=') text_spec.align = '<';
    return FormatText(text_spec, value.text());
  }
  if (value.Is(Kind::kBigInt)) return FormatBigInt(spec, value);
  if (value.is_integral()) {
    if (IsFloatType(spec.type)) return FormatFloat(spec, value.number());
    if (spec.type != 0 && absl::string_view("bdnoxX").find(spec.type) == absl::string_view::npos) {
      return Error("Unknown format code '", type, "' for object of type 'int'");
    }
    return FormatInt(spec, value.integer());
  }
  if (value.Is(Kind::kFloat)) {
    if (spec.type != 0 && spec.type != 'n' && !IsFloatType(spec.type)) {
      return Error("Unknown format code '", type, "' for object of type 'float'");
    }
    return FormatFloat(spec, value.real());
  }
  return Error("unsupported format string passed to ", value.TypeName(), ".__format__");
}

}  // namespace tessera::jinja

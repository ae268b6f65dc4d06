// The filters that return numbers and single values, and the table of all filters.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/filters.h"
#include "server/text/template/methods.h"
#include "server/text/template/operators.h"
#include "server/text/template/python_text.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

constexpr int64_t kMaxRoundDigits = 300;

// Removes the white space around a number and, as in Python's notation, underscores between digits.
std::string NumberText(absl::string_view text) {
  std::string stripped(Strip(text, Side::kBoth));
  for (size_t i = 1; i + 1 < stripped.size();) {
    const bool separates = stripped[i] == '_' &&
                           absl::ascii_isalnum(static_cast<unsigned char>(stripped[i - 1])) &&
                           absl::ascii_isalnum(static_cast<unsigned char>(stripped[i + 1]));
    if (separates) {
      stripped.erase(i, 1);
    } else {
      ++i;
    }
  }
  return stripped;
}

// Implements Python's int(text, base). Returns false if the text is not such a number.
bool ParseInt(absl::string_view text, int64_t base, int64_t* result) {
  std::string number = NumberText(text);
  const bool negative = !number.empty() && number[0] == '-';
  if (!number.empty() && (number[0] == '-' || number[0] == '+')) number.erase(0, 1);
  const auto has_prefix = [&](char lower) {
    return number.size() > 2 && number[0] == '0' && (number[1] | 0x20) == lower;
  };
  const std::pair<char, int64_t> prefixes[] = {{'x', 16}, {'o', 8}, {'b', 2}};
  for (const auto& [letter, prefix_base] : prefixes) {
    if (!has_prefix(letter) || (base != prefix_base && base != 0)) continue;
    number.erase(0, 2);
    base = prefix_base;
    break;
  }
  if (base == 0) base = 10;
  if (number.empty() || base < 2 || base > 36 || number[0] == '-') return false;
  if (negative) number.insert(number.begin(), 1, '-');
  const char* const end = number.data() + number.size();
  const auto parsed = std::from_chars(number.data(), end, *result, static_cast<int>(base));
  return parsed.ec == std::errc() && parsed.ptr == end;
}

bool ParseFloat(absl::string_view text, double* result) {
  const std::string number = NumberText(text);
  const bool is_hex = number.find_first_of("xX") != std::string::npos;
  return !is_hex && absl::SimpleAtod(number, result);
}

absl::StatusOr<Value> ToInt(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("int", args, 0, {"default", "base"}));
  ASSIGN_OR_RETURN(const int64_t base, bound.GetInt(1, 10));
  const Value fallback = bound.Get(0, Value::Int(0));
  if (self.is_undefined()) return Error(self.undefined_reason());
  if (self.is_integral()) return Value::Int(self.integer());
  if (self.Is(Kind::kBigInt)) return self;
  double real = 0;
  if (self.is_string()) {
    RETURN_IF_ERROR(budget.Spend(self.text().size()));
    int64_t parsed = 0;
    if (ParseInt(self.text(), base, &parsed)) return Value::Int(parsed);
    if (!ParseFloat(self.text(), &real)) return fallback;
  } else if (self.Is(Kind::kFloat)) {
    real = self.real();
  } else {
    return fallback;
  }
  if (!std::isfinite(real)) return fallback;
  if (std::fabs(real) >= 9.2e18) return Error("an integer exceeds 64 bits");
  return Value::Int(static_cast<int64_t>(real));
}

absl::StatusOr<Value> ToFloat(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("float", args, 0, {"default"}));
  if (self.is_undefined()) return Error(self.undefined_reason());
  if (self.is_number()) return Value::Float(self.number());
  double real = 0;
  const bool has_text = self.is_string() || self.Is(Kind::kBigInt);
  if (has_text && ParseFloat(self.text(), &real)) return Value::Float(real);
  return bound.Get(0, Value::Float(0));
}

absl::StatusOr<Value> Absolute(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("abs", args, 0, {}).status());
  if (self.is_undefined()) return Error(self.undefined_reason());
  if (self.Is(Kind::kFloat)) return Value::Float(std::fabs(self.real()));
  if (self.Is(Kind::kBigInt))
    return Value::BigInt(std::string(absl::StripPrefix(self.text(), "-")));
  if (!self.is_integral()) return Error("bad operand type for abs(): '", self.TypeName(), "'");
  return self.integer() < 0 ? Negate(self) : Positive(self);
}

// Rounds half to even by the exact binary value, as Python does.
double RoundHalfEven(double value, int64_t digits) {
  if (!std::isfinite(value)) return value;
  if (digits >= 0) {
    char buffer[kMaxRoundDigits + 400];
    std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(digits), value);
    return std::strtod(buffer, nullptr);
  }
  const double scale = std::pow(10.0, static_cast<double>(-digits));
  return std::nearbyint(value / scale) * scale;
}

absl::StatusOr<Value> RoundInt(int64_t value, int64_t digits) {
  if (digits >= 0) return Value::Int(value);
  if (digits < -18) return Value::Int(0);
  int64_t scale = 1;
  for (int64_t i = 0; i < -digits; ++i) scale *= 10;
  int64_t quotient = value / scale;
  const int64_t rest = std::abs(value % scale);
  const bool up = rest > scale - rest || (rest == scale - rest && quotient % 2 != 0);
  if (up) quotient += value < 0 ? -1 : 1;
  int64_t rounded = 0;
  if (__builtin_mul_overflow(quotient, scale, &rounded)) return Error("an integer exceeds 64 bits");
  return Value::Int(rounded);
}

absl::StatusOr<Value> Round(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("round", args, 0, {"precision", "method"}));
  ASSIGN_OR_RETURN(int64_t precision, bound.GetInt(0, 0));
  ASSIGN_OR_RETURN(const absl::string_view method, bound.GetText(1, "common"));
  if (self.is_undefined()) return Error(self.undefined_reason());
  if (self.Is(Kind::kBigInt) && precision < 0) return Error("an integer exceeds 64 bits");
  if (self.Is(Kind::kBigInt)) return self;
  if (!self.is_number()) return Error("type ", self.TypeName(), " doesn't define __round__ method");
  precision = std::clamp(precision, -kMaxRoundDigits, kMaxRoundDigits);
  if (method == "common") {
    if (self.is_integral()) return RoundInt(self.integer(), precision);
    return Value::Float(RoundHalfEven(self.real(), precision));
  }
  if (method != "ceil" && method != "floor") return Error("method must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = self.number() * scale;
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

absl::StatusOr<Value> Default(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("default", args, 0, {"default_value", "boolean"}));
  const bool replaces = self.is_undefined() || (bound.GetBool(1, false) && !self.Truthy());
  return replaces ? bound.Get(0, Value::String("")) : self;
}

absl::StatusOr<Value> Attribute(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("attr", args, 1, {"name"}));
  ASSIGN_OR_RETURN(const absl::string_view name, bound.GetText(0, ""));
  const bool only_element = self.is_dict() && FindMethod(self, name).kind == MethodKind::kAbsent;
  if (only_element)
    return Value::Undefined(absl::StrCat("'dict object' has no attribute '", name, "'"));
  return GetAttribute(self, name);
}

absl::StatusOr<Value> FileSize(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("filesizeformat", args, 0, {"binary"}));
  ASSIGN_OR_RETURN(const Value number, ToFloat(budget, self, CallArgs()));
  const bool binary = bound.GetBool(0, false);
  const double base = binary ? 1024 : 1000;
  const double bytes = number.real();
  if (bytes == 1) return Value::String("1 Byte");
  if (bytes < base) return Value::String(absl::StrCat(static_cast<int64_t>(bytes), " Bytes"));
  constexpr absl::string_view kPrefixes = "kMGTPEZY";
  double unit = base;
  size_t i = 0;
  while (i + 1 < kPrefixes.size() && bytes >= unit * base) {
    unit *= base;
    ++i;
  }
  char buffer[400];
  std::snprintf(buffer, sizeof(buffer), "%.1f", bytes / unit);
  const std::string prefix = binary && i == 0 ? "K" : std::string(1, kPrefixes[i]);
  return Value::String(absl::StrCat(buffer, " ", prefix, binary ? "iB" : "B"));
}

constexpr NamedFunction kScalarFilters[] = {
    {"default", Default}, {"d", Default},   {"int", ToInt},      {"float", ToFloat},
    {"abs", Absolute},    {"round", Round}, {"attr", Attribute}, {"filesizeformat", FileSize},
};

}  // namespace

NativeFunction FindScalarFilter(absl::string_view name) { return FindNamed(kScalarFilters, name); }

NativeFunction FindFilter(absl::string_view name) {
  for (const auto find : {FindTextFilter, FindSequenceFilter, FindSelectionFilter, FindScalarFilter,
                          FindHtmlFilter, FindLayoutFilter}) {
    const NativeFunction found = find(name);
    if (found != nullptr) return found;
  }
  return nullptr;
}

}  // namespace tessera::jinja

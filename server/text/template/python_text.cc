#include "server/text/template/python_text.h"

#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/text/template/callable.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

// The largest depth of printed values. Printing needs this limit because namespaces may refer to
// each other, which Value::depth does not count.
constexpr int kMaxPrintDepth = kMaxValueDepth + 28;

absl::Status AppendReprAt(Budget& budget, const Value& value, int depth, std::string* out);

absl::Status AppendItems(Budget& budget, const std::vector<Value>& items, int depth,
                         std::string* out) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i != 0) out->append(", ");
    RETURN_IF_ERROR(AppendReprAt(budget, items[i], depth + 1, out));
  }
  return absl::OkStatus();
}

absl::Status AppendDict(Budget& budget, const Dict& dict, int depth, std::string* out) {
  out->push_back('{');
  bool first = true;
  for (const auto& [key, item] : dict.entries()) {
    if (!first) out->append(", ");
    first = false;
    RETURN_IF_ERROR(AppendReprAt(budget, key, depth + 1, out));
    out->append(": ");
    RETURN_IF_ERROR(AppendReprAt(budget, item, depth + 1, out));
  }
  out->push_back('}');
  return absl::OkStatus();
}

absl::Status AppendNamespace(Budget& budget, const Namespace& space, int depth, std::string* out) {
  out->append("<Namespace {");
  bool first = true;
  for (const auto& [name, item] : space.attributes) {
    if (!first) out->append(", ");
    first = false;
    AppendStringRepr(name, out);
    out->append(": ");
    RETURN_IF_ERROR(AppendReprAt(budget, item, depth + 1, out));
  }
  out->append("}>");
  return absl::OkStatus();
}

absl::Status AppendView(Budget& budget, const Value& value, int depth, std::string* out) {
  absl::StrAppend(out, value.TypeName(), "([");
  const View& view = value.view();
  for (size_t i = 0; i < view.dict.dict().size(); ++i) {
    if (i != 0) out->append(", ");
    RETURN_IF_ERROR(AppendReprAt(budget, view.At(i), depth + 1, out));
  }
  out->append("])");
  return absl::OkStatus();
}

absl::Status AppendContainer(Budget& budget, const Value& value, int depth, std::string* out) {
  switch (value.kind()) {
    case Kind::kList:
      out->push_back('[');
      RETURN_IF_ERROR(AppendItems(budget, value.items(), depth, out));
      out->push_back(']');
      return absl::OkStatus();
    case Kind::kTuple:
      out->push_back('(');
      RETURN_IF_ERROR(AppendItems(budget, value.items(), depth, out));
      out->append(value.items().size() == 1 ? ",)" : ")");
      return absl::OkStatus();
    case Kind::kDict:
      return AppendDict(budget, value.dict(), depth, out);
    case Kind::kDictView:
      return AppendView(budget, value, depth, out);
    default:
      return AppendNamespace(budget, value.name_space(), depth, out);
  }
}

void AppendRange(const Range& range, std::string* out) {
  absl::StrAppend(out, "range(", range.start, ", ", range.stop);
  if (range.step != 1) absl::StrAppend(out, ", ", range.step);
  out->push_back(')');
}

absl::Status AppendReprAt(Budget& budget, const Value& value, int depth, std::string* out) {
  RETURN_IF_ERROR(budget.Spend(Budget::kStepCost));
  if (depth > kMaxPrintDepth) return Error("the value nests too deep to be printed");
  if (out->size() > budget.limits().max_output_bytes) {
    return absl::ResourceExhaustedError("the template prints too much text");
  }
  switch (value.kind()) {
    case Kind::kUndefined:
      out->append("Undefined");
      return absl::OkStatus();
    case Kind::kNone:
      out->append("None");
      return absl::OkStatus();
    case Kind::kBool:
      out->append(value.boolean() ? "True" : "False");
      return absl::OkStatus();
    case Kind::kInt:
      absl::StrAppend(out, value.integer());
      return absl::OkStatus();
    case Kind::kBigInt:
      RETURN_IF_ERROR(budget.Spend(value.text().size()));
      out->append(value.text());
      return absl::OkStatus();
    case Kind::kFloat:
      out->append(FloatRepr(value.real()));
      return absl::OkStatus();
    case Kind::kString:
      RETURN_IF_ERROR(budget.Spend(value.text().size()));
      if (value.is_markup()) out->append("Markup(");
      AppendStringRepr(value.text(), out);
      if (value.is_markup()) out->push_back(')');
      return absl::OkStatus();
    case Kind::kRange:
      AppendRange(value.range(), out);
      return absl::OkStatus();
    case Kind::kIterator:
      out->append("<generator object>");
      return absl::OkStatus();
    case Kind::kLoop:
      absl::StrAppend(out, "<LoopContext ", value.loop().index0 + 1, "/", value.loop().length, ">");
      return absl::OkStatus();
    case Kind::kFunction:
      absl::StrAppend(out, "<function ", value.function().name, ">");
      return absl::OkStatus();
    case Kind::kMacro:
      out->append("<Macro ");
      AppendStringRepr(value.macro().name, out);
      out->push_back('>');
      return absl::OkStatus();
    default:
      return AppendContainer(budget, value, depth, out);
  }
}

void AppendHexEscape(char32_t c, std::string* out) {
  if (c <= 0xFF) {
    absl::StrAppend(out, "\\x", absl::Hex(static_cast<uint32_t>(c), absl::kZeroPad2));
  } else if (c <= 0xFFFF) {
    absl::StrAppend(out, "\\u", absl::Hex(static_cast<uint32_t>(c), absl::kZeroPad4));
  } else {
    absl::StrAppend(out, "\\U", absl::Hex(static_cast<uint32_t>(c), absl::kZeroPad8));
  }
}

}  // namespace

absl::Status AppendStr(Budget& budget, const Value& value, std::string* out) {
  if (value.is_undefined()) return absl::OkStatus();
  if (!value.is_string()) return AppendReprAt(budget, value, 0, out);
  RETURN_IF_ERROR(budget.Spend(value.text().size()));
  if (out->size() + value.text().size() > budget.limits().max_output_bytes) {
    return absl::ResourceExhaustedError("the template prints too much text");
  }
  out->append(value.text());
  return absl::OkStatus();
}

absl::StatusOr<std::string> Str(Budget& budget, const Value& value) {
  std::string out;
  RETURN_IF_ERROR(AppendStr(budget, value, &out));
  return out;
}

absl::Status AppendRepr(Budget& budget, const Value& value, std::string* out) {
  return AppendReprAt(budget, value, 0, out);
}

absl::StatusOr<std::string> Repr(Budget& budget, const Value& value) {
  std::string out;
  RETURN_IF_ERROR(AppendRepr(budget, value, &out));
  return out;
}

void AppendStringRepr(absl::string_view text, std::string* out) {
  const bool has_single = text.find('\'') != absl::string_view::npos;
  const bool has_double = text.find('"') != absl::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out->push_back(quote);
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    const char32_t c = NextCodePoint(text, &position);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out->push_back('\\');
      out->push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out->append("\\n");
    } else if (c == '\r') {
      out->append("\\r");
    } else if (c == '\t') {
      out->append("\\t");
    } else if (IsPrintable(c)) {
      out->append(text.data() + begin, position - begin);
    } else {
      AppendHexEscape(c, out);
    }
  }
  out->push_back(quote);
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[32];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  absl::string_view shortest(buffer, static_cast<size_t>(end - buffer));
  std::string out;
  if (shortest[0] == '-') {
    out = "-";
    shortest.remove_prefix(1);
  }
  const size_t exponent_at = shortest.find('e');
  int exponent = 0;
  const char* digits_of_exponent = shortest.data() + exponent_at + 1;
  if (*digits_of_exponent == '+') ++digits_of_exponent;
  std::from_chars(digits_of_exponent, end, exponent);
  std::string digits(1, shortest[0]);
  if (exponent_at > 2) digits.append(shortest.data() + 2, exponent_at - 2);
  const int num_digits = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    absl::StrAppend(&out, digits.substr(0, 1), num_digits > 1 ? "." : "", digits.substr(1), "e",
                    exponent < 0 ? "-" : "+",
                    absl::Dec(static_cast<uint32_t>(std::abs(exponent)), absl::kZeroPad2));
  } else if (exponent < 0) {
    absl::StrAppend(&out, "0.", std::string(static_cast<size_t>(-exponent - 1), '0'), digits);
  } else if (num_digits <= exponent + 1) {
    absl::StrAppend(&out, digits, std::string(static_cast<size_t>(exponent + 1 - num_digits), '0'),
                    ".0");
  } else {
    const size_t whole = static_cast<size_t>(exponent) + 1;
    absl::StrAppend(&out, digits.substr(0, whole), ".", digits.substr(whole));
  }
  return out;
}

}  // namespace tessera::jinja

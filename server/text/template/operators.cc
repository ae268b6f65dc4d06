#include "server/text/template/operators.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_replace.h"
#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/format.h"
#include "server/text/template/python_text.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

constexpr absl::string_view kSymbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
constexpr absl::string_view kCompareSymbols[] = {"==", "!=", "<", "<=", ">", ">=", "in", "not in"};

absl::Status Overflow() { return Error("an integer exceeds 64 bits"); }

// `result` is a pointer, because the expression for `overflowed` writes *result and arguments are
// evaluated in any order.
absl::StatusOr<Value> IntOr(bool overflowed, const int64_t* result) {
  if (overflowed) return Overflow();
  return Value::Int(*result);
}

absl::StatusOr<Value> IntPower(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return Error("0.0 cannot be raised to a negative power");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (true) {
    if (exponent % 2 == 1 && __builtin_mul_overflow(result, base, &result)) return Overflow();
    exponent /= 2;
    if (exponent == 0) break;
    if (__builtin_mul_overflow(base, base, &base)) return Overflow();
  }
  return Value::Int(result);
}

absl::StatusOr<Value> IntArithmetic(BinaryOp op, int64_t left, int64_t right) {
  int64_t result = 0;
  switch (op) {
    case BinaryOp::kAdd:
      return IntOr(__builtin_add_overflow(left, right, &result), &result);
    case BinaryOp::kSub:
      return IntOr(__builtin_sub_overflow(left, right, &result), &result);
    case BinaryOp::kMul:
      return IntOr(__builtin_mul_overflow(left, right, &result), &result);
    case BinaryOp::kPow:
      return IntPower(left, right);
    default:
      break;
  }
  if (right == 0)
    return Error(op == BinaryOp::kDiv ? "division by zero" : "integer division or modulo by zero");
  if (op == BinaryOp::kDiv) {
    return Value::Float(static_cast<double>(left) / static_cast<double>(right));
  }
  if (right == -1) {  // the only divisor whose quotient may overflow
    if (op == BinaryOp::kMod) return Value::Int(0);
    return IntOr(__builtin_sub_overflow(int64_t{0}, left, &result), &result);
  }
  const bool floors = left % right != 0 && (left < 0) != (right < 0);
  if (op == BinaryOp::kMod) return Value::Int(left % right + (floors ? right : 0));
  return Value::Int(left / right - (floors ? 1 : 0));
}

Value FloatDivMod(BinaryOp op, double left, double right) {
  double rest = std::fmod(left, right);
  double quotient = (left - rest) / right;
  if (rest == 0) {
    rest = std::copysign(0.0, right);
  } else if ((right < 0) != (rest < 0)) {
    rest += right;
    quotient -= 1.0;
  }
  if (op == BinaryOp::kMod) return Value::Float(rest);
  if (quotient == 0) return Value::Float(std::copysign(0.0, left / right));
  const double floored = std::floor(quotient);
  return Value::Float(quotient - floored > 0.5 ? floored + 1.0 : floored);
}

absl::StatusOr<Value> FloatArithmetic(BinaryOp op, double left, double right) {
  switch (op) {
    case BinaryOp::kAdd:
      return Value::Float(left + right);
    case BinaryOp::kSub:
      return Value::Float(left - right);
    case BinaryOp::kMul:
      return Value::Float(left * right);
    case BinaryOp::kPow:
      if (left == 0 && right < 0) return Error("0.0 cannot be raised to a negative power");
      if (left < 0 && right != std::floor(right))
        return Error("a negative number to a fractional power is complex");
      return Value::Float(std::pow(left, right));
    default:
      break;
  }
  if (right == 0)
    return Error("float ", op == BinaryOp::kDiv ? "division" : kSymbols[static_cast<int>(op)],
                 " by zero");
  if (op == BinaryOp::kDiv) return Value::Float(left / right);
  return FloatDivMod(op, left, right);
}

absl::StatusOr<Value> AddStrings(Budget& budget, const Value& left, const Value& right) {
  const bool markup = left.is_markup() || right.is_markup();
  RETURN_IF_ERROR(budget.Build(left.text().size() + right.text().size() + sizeof(Value)));
  if (!markup) return Value::String(absl::StrCat(left.text(), right.text()));
  const auto safe = [](const Value& value) {
    return value.is_markup() ? value.text() : EscapeHtml(value.text());
  };
  return Value::String(absl::StrCat(safe(left), safe(right)), /*markup=*/true);
}

absl::StatusOr<Value> AddLists(Budget& budget, const Value& left, const Value& right) {
  RETURN_IF_ERROR(budget.Build((left.items().size() + right.items().size()) * sizeof(Value)));
  std::vector<Value> items = left.items();
  items.insert(items.end(), right.items().begin(), right.items().end());
  if (left.Is(Kind::kTuple)) return MakeTuple(budget, std::move(items));
  return MakeList(budget, std::move(items));
}

absl::StatusOr<Value> Repeat(Budget& budget, const Value& value, int64_t count) {
  const size_t times = count < 0 ? 0 : static_cast<size_t>(count);
  const size_t unit =
      value.is_string() ? value.text().size() : value.items().size() * sizeof(Value);
  size_t total = 0;
  if (__builtin_mul_overflow(unit, times, &total)) total = SIZE_MAX;
  RETURN_IF_ERROR(budget.Build(total));
  if (value.is_string()) {
    std::string text;
    text.reserve(total);
    for (size_t i = 0; i < times && unit != 0; ++i) text += value.text();
    return Value::String(std::move(text), value.is_markup());
  }
  std::vector<Value> items;
  for (size_t i = 0; i < times && unit != 0; ++i) {
    items.insert(items.end(), value.items().begin(), value.items().end());
  }
  if (value.Is(Kind::kTuple)) return MakeTuple(budget, std::move(items));
  return MakeList(budget, std::move(items));
}

bool IsRepeatable(const Value& value) { return value.is_string() || value.is_list_like(); }

absl::StatusOr<bool> ListsEqual(Budget& budget, const std::vector<Value>& left,
                                const std::vector<Value>& right) {
  if (left.size() != right.size()) return false;
  for (size_t i = 0; i < left.size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal, Equals(budget, left[i], right[i]));
    if (!equal) return false;
  }
  return true;
}

absl::StatusOr<bool> DictsEqual(Budget& budget, const Dict& left, const Dict& right) {
  if (left.size() != right.size()) return false;
  for (const auto& [key, value] : left.entries()) {
    RETURN_IF_ERROR(SpendOnKey(budget, key));
    const Value* other = right.Find(key);
    if (other == nullptr) return false;
    ASSIGN_OR_RETURN(const bool equal, Equals(budget, value, *other));
    if (!equal) return false;
  }
  return true;
}

bool RangesEqual(const Range& left, const Range& right) {
  if (left.size != right.size) return false;
  return left.size == 0 ||
         (left.start == right.start && (left.size == 1 || left.step == right.step));
}

bool IsOrderedNumber(const Value& value) { return value.is_number() || value.Is(Kind::kBigInt); }

long double WideNumber(const Value& value) {
  if (value.Is(Kind::kBigInt)) return std::strtold(value.text().c_str(), nullptr);
  if (value.is_integral()) return static_cast<long double>(value.integer());
  return static_cast<long double>(value.real());
}

// Compares decimal numbers without leading zeros. Returns -1, 0 or 1.
int CompareDigits(absl::string_view left, absl::string_view right) {
  const bool is_negative = left[0] == '-';
  if (is_negative != (right[0] == '-')) return is_negative ? -1 : 1;
  int order = left.size() < right.size() ? -1 : 1;
  if (left.size() == right.size()) order = std::clamp(left.compare(right), -1, 1);
  return is_negative ? -order : order;
}

// Returns -1, 0 or 1, or 2 if one of the values is NaN. The comparison of an int of at most 64 bits
// and a float is exact. REQUIRES: both are IsOrderedNumber.
int CompareNumbers(const Value& left, const Value& right) {
  if (left.Is(Kind::kBigInt) && right.Is(Kind::kBigInt)) {
    return CompareDigits(left.text(), right.text());
  }
  if (left.is_integral() && right.is_integral()) {
    if (left.integer() == right.integer()) return 0;
    return left.integer() < right.integer() ? -1 : 1;
  }
  const long double a = WideNumber(left);
  const long double b = WideNumber(right);
  if (std::isnan(a) || std::isnan(b)) return 2;
  if (a == b) return 0;
  return a < b ? -1 : 1;
}

// Orders lists and tuples by the first items that differ.
absl::StatusOr<bool> OrderLists(Budget& budget, CompareOp op, const Value& left,
                                const Value& right) {
  const std::vector<Value>& a = left.items();
  const std::vector<Value>& b = right.items();
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    ASSIGN_OR_RETURN(const bool equal, Equals(budget, a[i], b[i]));
    if (!equal) return Compare(budget, op, a[i], b[i]);
  }
  return Compare(budget, op, Value::Int(static_cast<int64_t>(a.size())),
                 Value::Int(static_cast<int64_t>(b.size())));
}

bool Holds(CompareOp op, int order) {
  switch (op) {
    case CompareOp::kLt:
      return order == -1;
    case CompareOp::kLe:
      return order == -1 || order == 0;
    case CompareOp::kGt:
      return order == 1;
    default:
      return order == 1 || order == 0;
  }
}

absl::StatusOr<bool> Order(Budget& budget, CompareOp op, const Value& left, const Value& right) {
  RETURN_IF_ERROR(budget.Spend(Budget::kStepCost));
  if (left.is_undefined()) return Error(left.undefined_reason());
  if (right.is_undefined()) return Error(right.undefined_reason());
  if (IsOrderedNumber(left) && IsOrderedNumber(right)) {
    return Holds(op, CompareNumbers(left, right));
  }
  if (left.is_string() && right.is_string()) {
    RETURN_IF_ERROR(budget.Spend(std::min(left.text().size(), right.text().size())));
    const int order = left.text().compare(right.text());
    return Holds(op, order == 0 ? 0 : (order < 0 ? -1 : 1));
  }
  if (left.is_list_like() && left.kind() == right.kind()) {
    return OrderLists(budget, op, left, right);
  }
  return Error("'", kCompareSymbols[static_cast<int>(op)], "' not supported between instances of '",
               left.TypeName(), "' and '", right.TypeName(), "'");
}

}  // namespace

absl::StatusOr<Value> Arithmetic(Budget& budget, BinaryOp op, const Value& left,
                                 const Value& right) {
  if (op == BinaryOp::kMod && left.is_string()) return FormatPercent(budget, left, right);
  if (left.is_undefined()) return Error(left.undefined_reason());
  if (right.is_undefined()) return Error(right.undefined_reason());
  if (left.Is(Kind::kBigInt) || right.Is(Kind::kBigInt)) return Overflow();
  if (left.is_integral() && right.is_integral()) {
    return IntArithmetic(op, left.integer(), right.integer());
  }
  if (left.is_number() && right.is_number()) {
    return FloatArithmetic(op, left.number(), right.number());
  }
  if (op == BinaryOp::kAdd) {
    if (left.is_string() && right.is_string()) return AddStrings(budget, left, right);
    if (left.is_list_like() && left.kind() == right.kind()) return AddLists(budget, left, right);
    if (left.is_string() || left.is_list_like()) {
      return Error("can only concatenate ", left.TypeName(), " (not \"", right.TypeName(),
                   "\") to ", left.TypeName());
    }
  }
  if (op == BinaryOp::kMul) {
    if (IsRepeatable(left) && right.is_integral()) return Repeat(budget, left, right.integer());
    if (IsRepeatable(right) && left.is_integral()) return Repeat(budget, right, left.integer());
  }
  return Error("unsupported operand type(s) for ", kSymbols[static_cast<int>(op)], ": '",
               left.TypeName(), "' and '", right.TypeName(), "'");
}

absl::StatusOr<Value> Negate(const Value& value) {
  if (value.is_undefined()) return Error(value.undefined_reason());
  if (value.Is(Kind::kBigInt)) return Overflow();
  if (value.Is(Kind::kFloat)) return Value::Float(-value.real());
  if (!value.is_integral()) return Error("bad operand type for unary -: '", value.TypeName(), "'");
  return IntArithmetic(BinaryOp::kSub, 0, value.integer());
}

absl::StatusOr<Value> Positive(const Value& value) {
  if (value.is_undefined()) return Error(value.undefined_reason());
  if (value.Is(Kind::kFloat) || value.Is(Kind::kBigInt)) return value;
  if (!value.is_integral()) return Error("bad operand type for unary +: '", value.TypeName(), "'");
  return Value::Int(value.integer());
}

absl::StatusOr<bool> Equals(Budget& budget, const Value& left, const Value& right) {
  RETURN_IF_ERROR(budget.Spend(Budget::kStepCost));
  if (IsOrderedNumber(left) && IsOrderedNumber(right)) return CompareNumbers(left, right) == 0;
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      if (left.text().size() != right.text().size()) return false;
      RETURN_IF_ERROR(budget.Spend(left.text().size()));
      return left.text() == right.text();
    case Kind::kList:
    case Kind::kTuple:
      return ListsEqual(budget, left.items(), right.items());
    case Kind::kDict:
      RETURN_IF_ERROR(budget.Spend(left.dict().size() * Budget::kStepCost));
      return DictsEqual(budget, left.dict(), right.dict());
    case Kind::kRange:
      return RangesEqual(left.range(), right.range());
    default:
      return left.SameAs(right);
  }
}

absl::StatusOr<bool> LessThan(Budget& budget, const Value& left, const Value& right) {
  return Order(budget, CompareOp::kLt, left, right);
}

absl::StatusOr<bool> Compare(Budget& budget, CompareOp op, const Value& left, const Value& right) {
  switch (op) {
    case CompareOp::kEq:
      return Equals(budget, left, right);
    case CompareOp::kNe: {
      ASSIGN_OR_RETURN(const bool equal, Equals(budget, left, right));
      return !equal;
    }
    case CompareOp::kIn:
      return Contains(budget, right, left);
    case CompareOp::kNotIn: {
      ASSIGN_OR_RETURN(const bool found, Contains(budget, right, left));
      return !found;
    }
    default:
      return Order(budget, op, left, right);
  }
}

absl::StatusOr<bool> Contains(Budget& budget, const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) {
      return Error("'in <string>' requires string as left operand, not ", item.TypeName());
    }
    RETURN_IF_ERROR(budget.Spend(container.text().size() + item.text().size()));
    return FindText(container.text(), item.text()) != absl::string_view::npos;
  }
  const bool is_keys = container.Is(Kind::kDictView) && container.view().part == View::Part::kKeys;
  if (container.is_dict() || is_keys) {
    const Dict& dict = is_keys ? container.view().dict.dict() : container.dict();
    if (!IsHashable(item)) return Error("unhashable type: '", item.TypeName(), "'");
    RETURN_IF_ERROR(SpendOnKey(budget, item));
    return dict.Find(item) != nullptr;
  }
  if (container.is_list_like()) {
    for (const Value& candidate : container.items()) {
      ASSIGN_OR_RETURN(const bool equal, Equals(budget, candidate, item));
      if (equal) return true;
    }
    return false;
  }
  if (!IsIterable(container)) {
    return Error("argument of type '", container.TypeName(), "' is not iterable");
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, container));
  for (const Value& candidate : items) {
    ASSIGN_OR_RETURN(const bool equal, Equals(budget, candidate, item));
    if (equal) return true;
  }
  return false;
}

std::string EscapeHtml(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}});
}

}  // namespace tessera::jinja

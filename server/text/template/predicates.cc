// The tests of jinja2: `value is name(...)`.
#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/filters.h"
#include "server/text/template/methods.h"
#include "server/text/template/operators.h"
#include "server/text/template/python_text.h"

namespace tessera::jinja {
namespace {

template <bool (*kHolds)(const Value&)>
absl::StatusOr<Value> Is(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("test", args, 0, {}).status());
  return Value::Bool(kHolds(self));
}

template <CompareOp kOp>
absl::StatusOr<Value> Compares(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("test", args, 1, {"other"}));
  ASSIGN_OR_RETURN(const bool holds, Compare(budget, kOp, self, bound[0]));
  return Value::Bool(holds);
}

// Tests whether `self % divisor` equals `rest`. As in Python, `%` formats if `self` is a string.
absl::StatusOr<Value> HasRemainder(Budget& budget, const Value& self, const Value& divisor,
                                   int64_t rest) {
  ASSIGN_OR_RETURN(const Value left, Arithmetic(budget, BinaryOp::kMod, self, divisor));
  ASSIGN_OR_RETURN(const bool holds, Equals(budget, left, Value::Int(rest)));
  return Value::Bool(holds);
}

template <int64_t kRest>
absl::StatusOr<Value> IsParity(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("test", args, 0, {}).status());
  return HasRemainder(budget, self, Value::Int(2), kRest);
}

absl::StatusOr<Value> IsDivisibleBy(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("divisibleby", args, 1, {"num"}));
  return HasRemainder(budget, self, bound[0], 0);
}

absl::StatusOr<Value> IsSameAs(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("sameas", args, 1, {"other"}));
  return Value::Bool(self.SameAs(bound[0]));
}

template <const char* kMethod>
absl::StatusOr<Value> TextHas(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("test", args, 0, {}).status());
  ASSIGN_OR_RETURN(std::string text, Str(budget, self));
  return FindStringMethod(kMethod).native(budget, Value::String(std::move(text)), args);
}

template <NativeFunction (*kFind)(absl::string_view)>
absl::StatusOr<Value> Exists(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("test", args, 0, {}).status());
  return Value::Bool(self.is_string() && kFind(self.text()) != nullptr);
}

constexpr char kIsLower[] = "islower";
constexpr char kIsUpper[] = "isupper";

bool Defined(const Value& v) { return !v.is_undefined(); }
bool Undefined(const Value& v) { return v.is_undefined(); }
bool None(const Value& v) { return v.is_none(); }
bool Boolean(const Value& v) { return v.Is(Kind::kBool); }
bool True(const Value& v) { return v.Is(Kind::kBool) && v.boolean(); }
bool False(const Value& v) { return v.Is(Kind::kBool) && !v.boolean(); }
bool Integer(const Value& v) { return v.Is(Kind::kInt) || v.Is(Kind::kBigInt); }
bool Float(const Value& v) { return v.Is(Kind::kFloat); }
bool Number(const Value& v) { return v.is_number() || v.Is(Kind::kBigInt); }
bool String(const Value& v) { return v.is_string(); }
bool Mapping(const Value& v) { return v.is_dict(); }
bool Iterable(const Value& v) { return IsIterable(v) || v.Is(Kind::kLoop); }
bool Escaped(const Value& v) { return v.is_markup(); }

bool Sequence(const Value& v) {
  return HasLength(v) && !v.Is(Kind::kDictView) && !v.Is(Kind::kLoop);
}

// An undefined value counts as callable; calling it fails with the reason why it is undefined.
bool Callable(const Value& v) {
  return v.Is(Kind::kFunction) || v.Is(Kind::kMacro) || v.Is(Kind::kLoop) || v.is_undefined();
}

constexpr NamedFunction kTests[] = {
    {"defined", Is<Defined>},
    {"undefined", Is<Undefined>},
    {"none", Is<None>},
    {"boolean", Is<Boolean>},
    {"true", Is<True>},
    {"false", Is<False>},
    {"integer", Is<Integer>},
    {"float", Is<Float>},
    {"number", Is<Number>},
    {"string", Is<String>},
    {"mapping", Is<Mapping>},
    {"sequence", Is<Sequence>},
    {"iterable", Is<Iterable>},
    {"callable", Is<Callable>},
    {"escaped", Is<Escaped>},
    {"odd", IsParity<1>},
    {"even", IsParity<0>},
    {"divisibleby", IsDivisibleBy},
    {"sameas", IsSameAs},
    {"lower", TextHas<kIsLower>},
    {"upper", TextHas<kIsUpper>},
    {"filter", Exists<FindFilter>},
    {"test", Exists<FindTest>},
    {"in", Compares<CompareOp::kIn>},
    {"eq", Compares<CompareOp::kEq>},
    {"==", Compares<CompareOp::kEq>},
    {"equalto", Compares<CompareOp::kEq>},
    {"ne", Compares<CompareOp::kNe>},
    {"!=", Compares<CompareOp::kNe>},
    {"lt", Compares<CompareOp::kLt>},
    {"<", Compares<CompareOp::kLt>},
    {"lessthan", Compares<CompareOp::kLt>},
    {"le", Compares<CompareOp::kLe>},
    {"<=", Compares<CompareOp::kLe>},
    {"gt", Compares<CompareOp::kGt>},
    {">", Compares<CompareOp::kGt>},
    {"greaterthan", Compares<CompareOp::kGt>},
    {"ge", Compares<CompareOp::kGe>},
    {">=", Compares<CompareOp::kGe>},
};

}  // namespace

NativeFunction FindTest(absl::string_view name) { return FindNamed(kTests, name); }

}  // namespace tessera::jinja

#include "server/text/template/evaluator.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/python_text.h"

namespace tessera::jinja {
namespace {

template <typename Node>
const Node& As(const Expr& expr) {
  return static_cast<const Node&>(expr);
}

}  // namespace

absl::StatusOr<Value> Evaluator::Eval(const Expr& expr) {
  if (expr.kind == ExprKind::kConstant) return As<ConstantExpr>(expr).value;
  const DepthGuard depth(&state_);
  absl::Status allowed = depth.Check();
  absl::StatusOr<Value> result = allowed.ok() ? Dispatch(expr) : absl::StatusOr<Value>(allowed);
  if (!result.ok() && state_.error_line == 0) state_.error_line = expr.line;
  return result;
}

absl::StatusOr<bool> Evaluator::EvalCondition(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value value, Eval(expr));
  return value.Truthy();
}

absl::StatusOr<Value> Evaluator::Dispatch(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kConstant:
      return As<ConstantExpr>(expr).value;
    case ExprKind::kName:
      return Lookup(As<NameExpr>(expr));
    case ExprKind::kList:
    case ExprKind::kTuple:
      return EvalSequence(As<ItemsExpr>(expr));
    case ExprKind::kDict:
      return EvalDict(As<ItemsExpr>(expr));
    case ExprKind::kArithmetic:
      return EvalArithmetic(As<ArithmeticExpr>(expr));
    case ExprKind::kCompare:
      return EvalCompare(As<CompareExpr>(expr));
    case ExprKind::kAnd:
    case ExprKind::kOr:
      return EvalAndOr(As<ItemsExpr>(expr));
    case ExprKind::kNot:
    case ExprKind::kNegate:
    case ExprKind::kPositive:
      return EvalUnary(As<UnaryExpr>(expr));
    case ExprKind::kConcat:
      return EvalConcat(As<ItemsExpr>(expr));
    case ExprKind::kConditional:
      return EvalConditional(As<ConditionalExpr>(expr));
    case ExprKind::kAttribute:
      return EvalAttribute(As<AttributeExpr>(expr));
    case ExprKind::kItem:
      return EvalItem(As<ItemExpr>(expr));
    case ExprKind::kSlice:
      return EvalSlice(As<SliceExpr>(expr));
    case ExprKind::kCall:
      return EvalCall(As<CallExpr>(expr));
    case ExprKind::kFilter:
    case ExprKind::kTest:
      return EvalFilter(As<FilterExpr>(expr));
  }
  return absl::InternalError("unknown expression");
}

Value Evaluator::Lookup(const NameExpr& expr) const {
  const Value* found = state_.scope->Find(expr.name);
  if (found != nullptr) return *found;
  return Value::Undefined(absl::StrCat("'", expr.name, "' is undefined"));
}

absl::StatusOr<Value> Evaluator::EvalSequence(const ItemsExpr& expr) {
  std::vector<Value> items;
  items.reserve(expr.items.size());
  for (const ExprPtr& item : expr.items) {
    ASSIGN_OR_RETURN(Value value, Eval(*item));
    items.push_back(std::move(value));
  }
  if (expr.kind == ExprKind::kTuple) return MakeTuple(state_.budget, std::move(items));
  return MakeList(state_.budget, std::move(items));
}

absl::StatusOr<Value> Evaluator::EvalDict(const ItemsExpr& expr) {
  auto dict = std::make_shared<Dict>();
  for (size_t i = 0; i + 1 < expr.items.size(); i += 2) {
    ASSIGN_OR_RETURN(Value key, Eval(*expr.items[i]));
    if (!IsHashable(key)) return Error("unhashable type: '", key.TypeName(), "'");
    ASSIGN_OR_RETURN(Value value, Eval(*expr.items[i + 1]));
    RETURN_IF_ERROR(SpendOnKey(state_.budget, key));
    dict->Set(std::move(key), std::move(value));
  }
  return MakeDict(state_.budget, std::move(dict));
}

absl::StatusOr<Value> Evaluator::EvalConcat(const ItemsExpr& expr) {
  std::string text;
  for (const ExprPtr& item : expr.items) {
    ASSIGN_OR_RETURN(const Value value, Eval(*item));
    RETURN_IF_ERROR(AppendStr(state_.budget, value, &text));
  }
  return MakeString(state_.budget, std::move(text));
}

absl::StatusOr<Value> Evaluator::EvalArithmetic(const ArithmeticExpr& expr) {
  ASSIGN_OR_RETURN(const Value left, Eval(*expr.left));
  ASSIGN_OR_RETURN(const Value right, Eval(*expr.right));
  return Arithmetic(state_.budget, expr.op, left, right);
}

absl::StatusOr<Value> Evaluator::EvalCompare(const CompareExpr& expr) {
  ASSIGN_OR_RETURN(Value left, Eval(*expr.first));
  for (const auto& [op, operand] : expr.rest) {
    ASSIGN_OR_RETURN(Value right, Eval(*operand));
    ASSIGN_OR_RETURN(const bool holds, Compare(state_.budget, op, left, right));
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

absl::StatusOr<Value> Evaluator::EvalAndOr(const ItemsExpr& expr) {
  ASSIGN_OR_RETURN(Value left, Eval(*expr.items[0]));
  if (left.Truthy() == (expr.kind == ExprKind::kOr)) return left;
  return Eval(*expr.items[1]);
}

absl::StatusOr<Value> Evaluator::EvalUnary(const UnaryExpr& expr) {
  ASSIGN_OR_RETURN(const Value value, Eval(*expr.operand));
  if (expr.kind == ExprKind::kNot) return Value::Bool(!value.Truthy());
  return expr.kind == ExprKind::kNegate ? Negate(value) : Positive(value);
}

absl::StatusOr<Value> Evaluator::EvalConditional(const ConditionalExpr& expr) {
  ASSIGN_OR_RETURN(const bool holds, EvalCondition(*expr.condition));
  if (holds) return Eval(*expr.then_value);
  if (expr.else_value != nullptr) return Eval(*expr.else_value);
  return Value::Undefined(
      "the inline if-expression evaluated to false and no else section was defined.");
}

absl::StatusOr<Value> Evaluator::EvalAttribute(const AttributeExpr& expr) {
  ASSIGN_OR_RETURN(const Value object, Eval(*expr.object));
  return GetAttribute(object, expr.name);
}

absl::StatusOr<Value> Evaluator::EvalItem(const ItemExpr& expr) {
  ASSIGN_OR_RETURN(const Value object, Eval(*expr.object));
  ASSIGN_OR_RETURN(const Value key, Eval(*expr.key));
  return GetItem(state_.budget, object, key);
}

absl::StatusOr<Value> Evaluator::EvalSlice(const SliceExpr& expr) {
  ASSIGN_OR_RETURN(const Value object, Eval(*expr.object));
  Value bounds[3] = {Value::None(), Value::None(), Value::None()};
  for (size_t i = 0; i < 3; ++i) {
    if (expr.bounds[i] == nullptr) continue;
    ASSIGN_OR_RETURN(bounds[i], Eval(*expr.bounds[i]));
  }
  return GetSlice(state_.budget, object, bounds[0], bounds[1], bounds[2]);
}

absl::StatusOr<Value> Evaluator::EvalCall(const CallExpr& expr) {
  ASSIGN_OR_RETURN(const Value callee, Eval(*expr.callee));
  CallArgs args;
  RETURN_IF_ERROR(EvalArguments(expr.arguments, &args));
  return Call(callee, args);
}

absl::StatusOr<Value> Evaluator::EvalFilter(const FilterExpr& expr) {
  const bool is_test = expr.kind == ExprKind::kTest;
  if (expr.native == nullptr)
    return Error("No ", is_test ? "test" : "filter", " named '", expr.name, "'.");
  Value input;
  if (expr.input != nullptr) {
    ASSIGN_OR_RETURN(input, Eval(*expr.input));
  } else if (block_input_ != nullptr) {
    input = *block_input_;
  }
  CallArgs args;
  RETURN_IF_ERROR(EvalArguments(expr.arguments, &args));
  return expr.native(state_.budget, input, args);
}

absl::StatusOr<Value> Evaluator::ApplyFilters(const Expr& filters, Value input) {
  const Value* const outer_input = std::exchange(block_input_, &input);
  absl::StatusOr<Value> result = Eval(filters);
  block_input_ = outer_input;
  return result;
}

absl::Status Evaluator::EvalArguments(const ArgumentList& list, CallArgs* args) {
  args->positional.reserve(list.positional.size());
  for (const ExprPtr& expr : list.positional) {
    ASSIGN_OR_RETURN(Value value, Eval(*expr));
    args->positional.push_back(std::move(value));
  }
  if (list.star != nullptr) {
    ASSIGN_OR_RETURN(const Value sequence, Eval(*list.star));
    ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(state_.budget, sequence));
    args->positional.insert(args->positional.end(), items.begin(), items.end());
  }
  for (const auto& [name, expr] : list.named) {
    ASSIGN_OR_RETURN(Value value, Eval(*expr));
    args->named.emplace_back(name, std::move(value));
  }
  if (list.double_star == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Value mapping, Eval(*list.double_star));
  if (!mapping.is_dict())
    return Error("argument after ** must be a mapping, not ", mapping.TypeName());
  RETURN_IF_ERROR(state_.budget.Build(mapping.dict().size() * sizeof(Value)));
  for (const auto& [key, value] : mapping.dict().entries()) {
    if (!key.is_string()) return Error("keywords must be strings");
    args->named.emplace_back(key.text(), value);
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Evaluator::CallWithCaller(const CallExpr& call, Value caller) {
  ASSIGN_OR_RETURN(const Value callee, Eval(*call.callee));
  CallArgs args;
  RETURN_IF_ERROR(EvalArguments(call.arguments, &args));
  args.named.emplace_back("caller", std::move(caller));
  return Call(callee, args);
}

absl::StatusOr<Value> Evaluator::Call(const Value& callee, const CallArgs& args) {
  switch (callee.kind()) {
    case Kind::kFunction: {
      const Function& function = callee.function();
      ASSIGN_OR_RETURN(Value result, function.native(state_.budget, function.self, args));
      const bool is_new_namespace = result.Is(Kind::kNamespace) && function.self.is_undefined();
      if (is_new_namespace) state_.namespaces.push_back(result.object());
      return result;
    }
    case Kind::kMacro:
      return runner_.CallMacro(callee.macro(), args);
    case Kind::kLoop:
      return runner_.CallLoop(callee.loop(), args);
    case Kind::kUndefined:
      return Error(callee.undefined_reason());
    default:
      return Error("'", callee.TypeName(), "' object is not callable");
  }
}

}  // namespace tessera::jinja

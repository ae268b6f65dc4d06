// Evaluates expressions in the scopes of one rendering, on its thread. Errors are statuses;
// RenderState::error_line is the line of the innermost expression that failed. The interpreter owns
// the evaluator.
#pragma once

#include "absl/status/statusor.h"
#include "server/text/template/ast.h"
#include "server/text/template/callable.h"
#include "server/text/template/scope.h"

namespace tessera::jinja {

// Runs the statements that an expression calls: macros and recursive loops. Implemented by the
// interpreter.
class StatementRunner {
 public:
  virtual ~StatementRunner() = default;
  virtual absl::StatusOr<Value> CallMacro(const Macro& macro, const CallArgs& args) = 0;
  // Renders `loop(sequence)` inside a recursive loop and returns the text.
  virtual absl::StatusOr<Value> CallLoop(const Loop& loop, const CallArgs& args) = 0;
};

class Evaluator final {
 public:
  // The arguments must outlive the evaluator.
  Evaluator(RenderState* state, StatementRunner* runner) : state_(*state), runner_(*runner) {}

  absl::StatusOr<Value> Eval(const Expr& expr);
  absl::StatusOr<bool> EvalCondition(const Expr& expr);
  // Applies the filters of a filter block or set block to `input`.
  absl::StatusOr<Value> ApplyFilters(const Expr& filters, Value input);
  // Evaluates the call of a call block, which passes `caller` as a further named argument.
  absl::StatusOr<Value> CallWithCaller(const CallExpr& call, Value caller);

 private:
  absl::StatusOr<Value> Dispatch(const Expr& expr);
  Value Lookup(const NameExpr& expr) const;
  absl::StatusOr<Value> EvalSequence(const ItemsExpr& expr);
  absl::StatusOr<Value> EvalDict(const ItemsExpr& expr);
  absl::StatusOr<Value> EvalConcat(const ItemsExpr& expr);
  absl::StatusOr<Value> EvalArithmetic(const ArithmeticExpr& expr);
  absl::StatusOr<Value> EvalCompare(const CompareExpr& expr);
  absl::StatusOr<Value> EvalAndOr(const ItemsExpr& expr);
  absl::StatusOr<Value> EvalUnary(const UnaryExpr& expr);
  absl::StatusOr<Value> EvalConditional(const ConditionalExpr& expr);
  absl::StatusOr<Value> EvalAttribute(const AttributeExpr& expr);
  absl::StatusOr<Value> EvalItem(const ItemExpr& expr);
  absl::StatusOr<Value> EvalSlice(const SliceExpr& expr);
  absl::StatusOr<Value> EvalCall(const CallExpr& expr);
  absl::StatusOr<Value> EvalFilter(const FilterExpr& expr);
  absl::Status EvalArguments(const ArgumentList& list, CallArgs* args);
  absl::StatusOr<Value> Call(const Value& callee, const CallArgs& args);

  RenderState& state_;
  StatementRunner& runner_;
  const Value* block_input_ = nullptr;  // input of the innermost filter in ApplyFilters
};

}  // namespace tessera::jinja

// The expressions of a template's syntax tree. The parser builds the tree once; it is immutable
// afterwards, so that renderings on several threads may share it. Each node knows its line and the
// depth of its subtree. The parser bounds this depth, so that recursion over the tree, including
// its destruction, cannot exhaust the stack.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/text/template/callable.h"
#include "server/text/template/operators.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

enum class ExprKind : uint8_t {
  kConstant,
  kName,
  kList,
  kTuple,
  kDict,
  kArithmetic,
  kCompare,
  kAnd,
  kOr,
  kNot,
  kNegate,
  kPositive,
  kConcat,
  kConditional,
  kAttribute,
  kItem,
  kSlice,
  kCall,
  kFilter,
  kTest,
};

struct Expr {
  explicit Expr(ExprKind kind, int line) : kind(kind), line(line) {}
  virtual ~Expr() = default;
  const ExprKind kind;
  const int line;
  int depth = 1;
};
using ExprPtr = std::unique_ptr<Expr>;

struct ConstantExpr final : Expr {
  ConstantExpr(int line, Value value) : Expr(ExprKind::kConstant, line), value(std::move(value)) {}
  Value value;
};

struct NameExpr final : Expr {
  NameExpr(int line, std::string name) : Expr(ExprKind::kName, line), name(std::move(name)) {}
  std::string name;
};

// The expression of kList, kTuple, kConcat (`~`), kDict (items are key, value, key, value...), kAnd
// and kOr (two items).
struct ItemsExpr final : Expr {
  using Expr::Expr;
  std::vector<ExprPtr> items;
};

struct ArithmeticExpr final : Expr {
  using Expr::Expr;
  BinaryOp op = BinaryOp::kAdd;
  ExprPtr left;
  ExprPtr right;
};

// A chain of comparisons, a < b < c. Each operand is evaluated once; the chain stops at the first
// comparison that is false.
struct CompareExpr final : Expr {
  using Expr::Expr;
  ExprPtr first;
  std::vector<std::pair<CompareOp, ExprPtr>> rest;
};

// The expression of kNot, kNegate and kPositive.
struct UnaryExpr final : Expr {
  using Expr::Expr;
  ExprPtr operand;
};

struct ConditionalExpr final : Expr {
  using Expr::Expr;
  ExprPtr condition;
  ExprPtr then_value;
  ExprPtr else_value;  // null: the value is undefined if the condition is false
};

struct AttributeExpr final : Expr {
  using Expr::Expr;
  ExprPtr object;
  std::string name;
};

struct ItemExpr final : Expr {
  using Expr::Expr;
  ExprPtr object;
  ExprPtr key;
};

struct SliceExpr final : Expr {
  using Expr::Expr;
  ExprPtr object;
  ExprPtr bounds[3];  // start, stop, step; null: the bound is absent
};

struct ArgumentList {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;         // the argument *sequence; may be null
  ExprPtr double_star;  // the argument **mapping; may be null
};

struct CallExpr final : Expr {
  using Expr::Expr;
  ExprPtr callee;
  ArgumentList arguments;
};

// The expression of kFilter and kTest. `input` is null in the innermost filter of a filter block or
// a set block.
struct FilterExpr final : Expr {
  using Expr::Expr;
  ExprPtr input;
  std::string name;
  NativeFunction native = nullptr;  // null: no filter or test has this name
  ArgumentList arguments;
};

}  // namespace tessera::jinja

// The syntax tree of a template. Built once by the parser, then only read: several renderings may
// share it across threads (the values inside are immutable constants). Each node knows its line and
// the depth of the tree below it, which the parser bounds, so that walking and destroying it cannot
// exhaust the stack.
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

// kList, kTuple, kConcat (`~`), and kDict (key, value, key, value...); kAnd and kOr of two.
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

// a < b < c: each operand once, as far as the comparisons hold.
struct CompareExpr final : Expr {
  using Expr::Expr;
  ExprPtr first;
  std::vector<std::pair<CompareOp, ExprPtr>> rest;
};

// kNot, kNegate, kPositive.
struct UnaryExpr final : Expr {
  using Expr::Expr;
  ExprPtr operand;
};

struct ConditionalExpr final : Expr {
  using Expr::Expr;
  ExprPtr condition;
  ExprPtr then_value;
  ExprPtr else_value;  // may be null: undefined
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
  ExprPtr bounds[3];  // start, stop, step; null where absent
};

struct ArgumentList {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;         // *sequence, or null
  ExprPtr double_star;  // **mapping, or null
};

struct CallExpr final : Expr {
  using Expr::Expr;
  ExprPtr callee;
  ArgumentList arguments;
};

// kFilter and kTest. `input` is null in the filter of a filter block or a set block.
struct FilterExpr final : Expr {
  using Expr::Expr;
  ExprPtr input;
  std::string name;
  NativeFunction native = nullptr;  // null: there is none of that name
  ArgumentList arguments;
};

}  // namespace tessera::jinja

// The statements of a template's syntax tree; expression_tree.h has its expressions. The parser
// builds the tree once and bounds the nesting of blocks. The tree is immutable afterwards; any
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/text/template/expression_tree.h"

namespace tessera::jinja {

enum class StatementKind : uint8_t {
  kText,
  kPrint,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kScope,  // {% block %} and {% generation %}: variables set inside are not visible outside
  kBreak,
  kContinue,
};

struct Statement {
  explicit Statement(StatementKind kind, int line) : kind(kind), line(line) {}
  virtual ~Statement() = default;
  const StatementKind kind;
  const int line;
};
using StatementPtr = std::unique_ptr<Statement>;
using Body = std::vector<StatementPtr>;

// The target of an assignment by `set`, `for` or `with`: a name, an attribute of a namespace, or a
// tuple of targets.
struct Target {
  int line = 1;
  std::string name;
  std::string attribute;      // attribute of the namespace `name`; empty: the target is the name
  std::vector<Target> parts;  // the targets of a tuple
  bool is_tuple = false;
};

struct TextStatement final : Statement {
  using Statement::Statement;
  std::string text;
};

struct PrintStatement final : Statement {
  using Statement::Statement;
  ExprPtr value;
};

struct IfStatement final : Statement {
  using Statement::Statement;
  std::vector<std::pair<ExprPtr, Body>> branches;
  Body else_body;
};

struct ForStatement final : Statement {
  using Statement::Statement;
  Target target;
  ExprPtr sequence;
  ExprPtr filter;  // may be null
  Body body;
  Body else_body;
  bool is_recursive = false;
};

struct SetStatement final : Statement {
  using Statement::Statement;
  Target target;
  ExprPtr value;
};

struct SetBlockStatement final : Statement {
  using Statement::Statement;
  Target target;
  ExprPtr filter;  // may be null
  Body body;
};

struct Parameter {
  std::string name;
  ExprPtr fallback;  // the default value; null: the parameter has no default
};

struct MacroStatement final : Statement {
  using Statement::Statement;
  std::string name;
  std::vector<Parameter> parameters;
  Body body;
  // Whether the body reads these special variables.
  bool uses_caller = false;
  bool uses_varargs = false;
  bool uses_kwargs = false;
};

struct CallBlockStatement final : Statement {
  using Statement::Statement;
  ExprPtr call;  // a CallExpr
  std::unique_ptr<MacroStatement> body;
};

// {% filter %}: `filter` is applied to the text of the body. The innermost FilterExpr has no input.
struct FilterBlockStatement final : Statement {
  using Statement::Statement;
  ExprPtr filter;
  Body body;
};

struct WithStatement final : Statement {
  using Statement::Statement;
  std::vector<std::pair<Target, ExprPtr>> assignments;
  Body body;
};

struct ScopeStatement final : Statement {
  using Statement::Statement;
  Body body;
};

// The statement of kBreak and kContinue.
struct JumpStatement final : Statement {
  using Statement::Statement;
};

}  // namespace tessera::jinja

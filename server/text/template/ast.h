// The syntax tree of a template: statements, whose expressions lie in expression_tree.h. Built once
// by the parser, then only read, by any thread. The parser bounds how deep blocks nest.
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
  kScope,  // {% block %} and {% generation %}: what is set inside stays inside
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

// What `set`, `for` and `with` assign to: a name, an attribute of a namespace, or a tuple of
// targets.
struct Target {
  int line = 1;
  std::string name;
  std::string attribute;      // of the namespace `name`; empty for a plain name
  std::vector<Target> parts;  // not empty: a tuple
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
  ExprPtr fallback;  // null: none
};

struct MacroStatement final : Statement {
  using Statement::Statement;
  std::string name;
  std::vector<Parameter> parameters;
  Body body;
  // Whether the body asks for these special variables.
  bool uses_caller = false;
  bool uses_varargs = false;
  bool uses_kwargs = false;
};

struct CallBlockStatement final : Statement {
  using Statement::Statement;
  ExprPtr call;  // a CallExpr
  std::unique_ptr<MacroStatement> body;
};

// The filters applied to the text of the body; the innermost has no input.
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

// kBreak and kContinue.
struct JumpStatement final : Statement {
  using Statement::Statement;
};

}  // namespace tessera::jinja

// The parser of expressions. It reads a stream of tokens that it shares with the parser of
// statements. Precedence, lowest first: inline if, or, and, not, comparisons, + -, ~, * / // %, **,
// unary + -, then attributes, calls, filters and tests. Used by one ParseTemplate call, on its
// thread.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/ast.h"
#include "server/text/template/lexer.h"

namespace tessera::jinja {

class TokenStream final {
 public:
  // REQUIRES: the last token is kEnd.
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[next_]; }
  const Token& look() const { return tokens_[std::min(next_ + 1, tokens_.size() - 1)]; }
  int line() const { return current().line; }
  bool AtEnd() const { return current().kind == TokenKind::kEnd; }
  bool At(TokenKind kind) const { return current().kind == kind; }
  bool AtOperator(absl::string_view symbol) const { return current().IsOperator(symbol); }
  bool AtName(absl::string_view name) const { return current().IsName(name); }

  // Returns the current token and moves to the next token. The stream does not move past kEnd.
  const Token& Next();
  bool SkipOperator(absl::string_view symbol);
  bool SkipName(absl::string_view name);
  absl::Status ExpectOperator(absl::string_view symbol);
  absl::Status ExpectName(absl::string_view name);
  absl::Status Expect(TokenKind kind);
  absl::StatusOr<std::string> TakeName();

  // An error at the current line.
  absl::Status Fail(absl::string_view why) const { return ErrorAtLine(line(), why); }
  // An error "expected X, got Y" at the current line.
  absl::Status FailExpected(absl::string_view what) const;

 private:
  std::vector<Token> tokens_;
  size_t next_ = 0;
};

// The description of a token in an error message.
std::string DescribeToken(const Token& token);

class ExpressionParser final {
 public:
  // The stream must outlive the parser.
  explicit ExpressionParser(TokenStream* stream) : stream_(*stream) {}

  // Parses an expression. If `with_conditional` is false, the expression `a if b` ends before `if`.
  absl::StatusOr<ExprPtr> ParseExpression(bool with_conditional = true);
  // Parses one expression, or a tuple if there are commas. The tuple ends before the name `end` if
  // that is not empty.
  absl::StatusOr<ExprPtr> ParseTuple(bool with_conditional = true, absl::string_view end = "");
  // Parses an assignment target: `name`, `namespace.attribute` or a tuple of targets.
  absl::StatusOr<Target> ParseTarget(bool with_attribute, absl::string_view end = "");
  // Parses the filters `|name(...)|name...` that follow `input`. If `starts_inline` is true, the
  // first filter has no bar.
  absl::StatusOr<ExprPtr> ParseFilters(ExprPtr input, bool starts_inline);

  // How often the parsed expressions read each special variable of macros. A macro uses a variable
  // if its count rises while the macro's body is parsed.
  struct SpecialReads {
    int caller = 0;
    int varargs = 0;
    int kwargs = 0;
  };
  const SpecialReads& special_reads() const { return special_reads_; }

 private:
  absl::StatusOr<ExprPtr> ParseConditional();
  absl::StatusOr<ExprPtr> ParseOr();
  absl::StatusOr<ExprPtr> ParseAnd();
  absl::StatusOr<ExprPtr> ParseNot();
  absl::StatusOr<ExprPtr> ParseCompare();
  absl::StatusOr<ExprPtr> ParseSum();
  absl::StatusOr<ExprPtr> ParseConcat();
  absl::StatusOr<ExprPtr> ParseProduct();
  absl::StatusOr<ExprPtr> ParsePower();
  absl::StatusOr<ExprPtr> ParseUnary(bool with_filters = true);
  absl::StatusOr<ExprPtr> ParsePrimary();
  absl::StatusOr<ExprPtr> ParseString();
  absl::StatusOr<ExprPtr> ParseParentheses();
  absl::StatusOr<ExprPtr> ParseList();
  absl::StatusOr<ExprPtr> ParseDict();
  absl::StatusOr<ExprPtr> ParsePostfix(ExprPtr object);
  absl::StatusOr<ExprPtr> ParseFiltersAndTests(ExprPtr input);
  absl::StatusOr<ExprPtr> ParseDot(ExprPtr object);
  absl::StatusOr<ExprPtr> ParseSubscript(ExprPtr object);
  absl::StatusOr<ExprPtr> ParseCall(ExprPtr callee);
  absl::StatusOr<ExprPtr> ParseTest(ExprPtr input);
  absl::Status ParseArguments(ArgumentList* arguments, int* depth);
  absl::StatusOr<Target> ParseTargetPart(bool with_attribute);
  bool AtTupleEnd(absl::string_view end) const;

  void CountSpecialRead(absl::string_view name);
  // Sets the depth of `node`. Returns an error if the tree becomes too deep.
  static absl::StatusOr<ExprPtr> Built(ExprPtr node, int children_depth);

  TokenStream& stream_;
  int nesting_ = 0;
  SpecialReads special_reads_;
};

}  // namespace tessera::jinja

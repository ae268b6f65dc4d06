#include "server/text/template/expression_parser.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/text/template/filters.h"

namespace tessera::jinja {
namespace {

// The largest depth of the parser's recursion: brackets, `not`, unary signs and else-branches.
constexpr int kMaxNesting = 150;
// The largest depth of an expression's tree. A chain such as a + b + c adds a level per operator.
constexpr int kMaxExpressionDepth = 200;

// Counts one level of recursion during its lifetime.
class Nested final {
 public:
  explicit Nested(int* nesting) : nesting_(*nesting) { ++nesting_; }
  ~Nested() { --nesting_; }
  bool TooDeep() const { return nesting_ > kMaxNesting; }

 private:
  int& nesting_;
};

template <typename Node, typename... Args>
std::unique_ptr<Node> Make(Args&&... args) {
  return std::make_unique<Node>(std::forward<Args>(args)...);
}

struct Operator {
  absl::string_view symbol;
  BinaryOp op;
};

constexpr Operator kSums[] = {{"+", BinaryOp::kAdd}, {"-", BinaryOp::kSub}};
constexpr Operator kProducts[] = {{"*", BinaryOp::kMul},
                                  {"/", BinaryOp::kDiv},
                                  {"//", BinaryOp::kFloorDiv},
                                  {"%", BinaryOp::kMod}};
constexpr Operator kPowers[] = {{"**", BinaryOp::kPow}};

template <size_t kSize>
const Operator* FindOperator(const Operator (&table)[kSize], const Token& token) {
  for (const Operator& entry : table) {
    if (token.IsOperator(entry.symbol)) return &entry;
  }
  return nullptr;
}

// Parses a left-associative chain: operand (symbol operand)*.
template <size_t kSize, typename ParseOperand, typename Build>
absl::StatusOr<ExprPtr> ParseChain(TokenStream& stream, const Operator (&table)[kSize],
                                   ParseOperand parse_operand, Build build) {
  int line = stream.line();
  ASSIGN_OR_RETURN(ExprPtr left, parse_operand());
  for (const Operator* found; (found = FindOperator(table, stream.current())) != nullptr;) {
    stream.Next();
    ASSIGN_OR_RETURN(ExprPtr right, parse_operand());
    auto node = Make<ArithmeticExpr>(ExprKind::kArithmetic, line);
    const int depth = std::max(left->depth, right->depth);
    node->op = found->op;
    node->left = std::move(left);
    node->right = std::move(right);
    ASSIGN_OR_RETURN(left, build(std::move(node), depth));
    line = stream.line();
  }
  return left;
}

bool FindCompareOp(const TokenStream& stream, CompareOp* op) {
  static constexpr std::pair<absl::string_view, CompareOp> kSymbols[] = {
      {"==", CompareOp::kEq}, {"!=", CompareOp::kNe}, {"<", CompareOp::kLt},
      {"<=", CompareOp::kLe}, {">", CompareOp::kGt},  {">=", CompareOp::kGe}};
  for (const auto& [symbol, candidate] : kSymbols) {
    if (!stream.AtOperator(symbol)) continue;
    *op = candidate;
    return true;
  }
  const bool is_not_in = stream.AtName("not") && stream.look().IsName("in");
  if (!is_not_in && !stream.AtName("in")) return false;
  *op = is_not_in ? CompareOp::kNotIn : CompareOp::kIn;
  return true;
}

}  // namespace

absl::StatusOr<ExprPtr> ExpressionParser::Built(ExprPtr node, int children_depth) {
  node->depth = children_depth + 1;
  if (node->depth > kMaxExpressionDepth) {
    return ErrorAtLine(node->line, "the expression is too long or nests too deep");
  }
  return node;
}

void ExpressionParser::CountSpecialRead(absl::string_view name) {
  if (name == "caller") ++special_reads_.caller;
  if (name == "varargs") ++special_reads_.varargs;
  if (name == "kwargs") ++special_reads_.kwargs;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseExpression(bool with_conditional) {
  const Nested nested(&nesting_);
  if (nested.TooDeep()) return stream_.Fail("the expression nests too deep");
  return with_conditional ? ParseConditional() : ParseOr();
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseConditional() {
  int line = stream_.line();
  ASSIGN_OR_RETURN(ExprPtr value, ParseOr());
  while (stream_.SkipName("if")) {
    auto node = Make<ConditionalExpr>(ExprKind::kConditional, line);
    ASSIGN_OR_RETURN(node->condition, ParseOr());
    int depth = std::max(value->depth, node->condition->depth);
    if (stream_.SkipName("else")) {
      ASSIGN_OR_RETURN(node->else_value, ParseExpression());
      depth = std::max(depth, node->else_value->depth);
    }
    node->then_value = std::move(value);
    ASSIGN_OR_RETURN(value, Built(std::move(node), depth));
    line = stream_.line();
  }
  return value;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseOr() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseAnd());
  while (stream_.AtName("or")) {
    auto node = Make<ItemsExpr>(ExprKind::kOr, stream_.Next().line);
    ASSIGN_OR_RETURN(ExprPtr right, ParseAnd());
    const int depth = std::max(left->depth, right->depth);
    node->items.push_back(std::move(left));
    node->items.push_back(std::move(right));
    ASSIGN_OR_RETURN(left, Built(std::move(node), depth));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseAnd() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseNot());
  while (stream_.AtName("and")) {
    auto node = Make<ItemsExpr>(ExprKind::kAnd, stream_.Next().line);
    ASSIGN_OR_RETURN(ExprPtr right, ParseNot());
    const int depth = std::max(left->depth, right->depth);
    node->items.push_back(std::move(left));
    node->items.push_back(std::move(right));
    ASSIGN_OR_RETURN(left, Built(std::move(node), depth));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseNot() {
  if (!stream_.AtName("not")) return ParseCompare();
  const Nested nested(&nesting_);
  if (nested.TooDeep()) return stream_.Fail("the expression nests too deep");
  auto node = Make<UnaryExpr>(ExprKind::kNot, stream_.Next().line);
  ASSIGN_OR_RETURN(node->operand, ParseNot());
  const int depth = node->operand->depth;
  return Built(std::move(node), depth);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseCompare() {
  const int line = stream_.line();
  ASSIGN_OR_RETURN(ExprPtr first, ParseSum());
  auto node = Make<CompareExpr>(ExprKind::kCompare, line);
  int depth = first->depth;
  CompareOp op = CompareOp::kEq;
  while (FindCompareOp(stream_, &op)) {
    stream_.Next();
    if (op == CompareOp::kNotIn) stream_.Next();
    ASSIGN_OR_RETURN(ExprPtr operand, ParseSum());
    depth = std::max(depth, operand->depth);
    node->rest.emplace_back(op, std::move(operand));
  }
  if (node->rest.empty()) return first;
  node->first = std::move(first);
  return Built(std::move(node), depth);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSum() {
  return ParseChain(
      stream_, kSums, [this] { return ParseConcat(); }, Built);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseConcat() {
  const int line = stream_.line();
  ASSIGN_OR_RETURN(ExprPtr first, ParseProduct());
  if (!stream_.AtOperator("~")) return first;
  auto node = Make<ItemsExpr>(ExprKind::kConcat, line);
  int depth = first->depth;
  node->items.push_back(std::move(first));
  while (stream_.SkipOperator("~")) {
    ASSIGN_OR_RETURN(ExprPtr operand, ParseProduct());
    depth = std::max(depth, operand->depth);
    node->items.push_back(std::move(operand));
  }
  return Built(std::move(node), depth);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseProduct() {
  return ParseChain(
      stream_, kProducts, [this] { return ParsePower(); }, Built);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePower() {
  return ParseChain(
      stream_, kPowers, [this] { return ParseUnary(); }, Built);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseUnary(bool with_filters) {
  const Nested nested(&nesting_);
  if (nested.TooDeep()) return stream_.Fail("the expression nests too deep");
  ExprPtr value;
  if (stream_.AtOperator("-") || stream_.AtOperator("+")) {
    const ExprKind kind = stream_.AtOperator("-") ? ExprKind::kNegate : ExprKind::kPositive;
    auto node = Make<UnaryExpr>(kind, stream_.Next().line);
    ASSIGN_OR_RETURN(node->operand, ParseUnary(/*with_filters=*/false));
    const int depth = node->operand->depth;
    ASSIGN_OR_RETURN(value, Built(std::move(node), depth));
  } else {
    ASSIGN_OR_RETURN(value, ParsePrimary());
  }
  ASSIGN_OR_RETURN(value, ParsePostfix(std::move(value)));
  if (!with_filters) return value;
  return ParseFiltersAndTests(std::move(value));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePrimary() {
  const Token& token = stream_.current();
  switch (token.kind) {
    case TokenKind::kName: {
      stream_.Next();
      const std::string& name = token.text;
      const bool is_true = name == "true" || name == "True";
      if (is_true || name == "false" || name == "False") {
        return Make<ConstantExpr>(token.line, Value::Bool(is_true));
      }
      if (name == "none" || name == "None") return Make<ConstantExpr>(token.line, Value::None());
      CountSpecialRead(name);
      return Make<NameExpr>(token.line, name);
    }
    case TokenKind::kString:
      return ParseString();
    case TokenKind::kInteger:
      stream_.Next();
      return Make<ConstantExpr>(token.line, Value::Int(token.integer));
    case TokenKind::kFloat:
      stream_.Next();
      return Make<ConstantExpr>(token.line, Value::Float(token.real));
    default:
      break;
  }
  if (stream_.AtOperator("(")) return ParseParentheses();
  if (stream_.AtOperator("[")) return ParseList();
  if (stream_.AtOperator("{")) return ParseDict();
  return stream_.Fail(absl::StrCat("unexpected '", DescribeToken(token), "'"));
}

// Adjacent string literals form one string.
absl::StatusOr<ExprPtr> ExpressionParser::ParseString() {
  const int line = stream_.line();
  std::string text;
  while (stream_.At(TokenKind::kString)) text += stream_.Next().text;
  return Make<ConstantExpr>(line, Value::String(std::move(text)));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseParentheses() {
  const int line = stream_.Next().line;
  if (stream_.SkipOperator(")")) return Make<ItemsExpr>(ExprKind::kTuple, line);
  ASSIGN_OR_RETURN(ExprPtr value, ParseTuple());
  RETURN_IF_ERROR(stream_.ExpectOperator(")"));
  return value;
}

bool ExpressionParser::AtTupleEnd(absl::string_view end) const {
  return stream_.At(TokenKind::kVariableEnd) || stream_.At(TokenKind::kBlockEnd) ||
         stream_.AtOperator(")") || (!end.empty() && stream_.AtName(end));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTuple(bool with_conditional, absl::string_view end) {
  auto node = Make<ItemsExpr>(ExprKind::kTuple, stream_.line());
  bool is_tuple = false;
  int depth = 0;
  do {
    if (AtTupleEnd(end)) break;
    ASSIGN_OR_RETURN(ExprPtr item, ParseExpression(with_conditional));
    depth = std::max(depth, item->depth);
    node->items.push_back(std::move(item));
    is_tuple = is_tuple || stream_.AtOperator(",");
  } while (stream_.SkipOperator(","));
  if (is_tuple) return Built(std::move(node), depth);
  if (node->items.empty()) return stream_.FailExpected("an expression");
  return std::move(node->items[0]);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseList() {
  auto node = Make<ItemsExpr>(ExprKind::kList, stream_.Next().line);
  int depth = 0;
  while (!stream_.SkipOperator("]")) {
    if (!node->items.empty()) {
      RETURN_IF_ERROR(stream_.ExpectOperator(","));
      if (stream_.SkipOperator("]")) break;
    }
    ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    depth = std::max(depth, item->depth);
    node->items.push_back(std::move(item));
  }
  return Built(std::move(node), depth);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseDict() {
  auto node = Make<ItemsExpr>(ExprKind::kDict, stream_.Next().line);
  int depth = 0;
  while (!stream_.SkipOperator("}")) {
    if (!node->items.empty()) {
      RETURN_IF_ERROR(stream_.ExpectOperator(","));
      if (stream_.SkipOperator("}")) break;
    }
    ASSIGN_OR_RETURN(ExprPtr key, ParseExpression());
    RETURN_IF_ERROR(stream_.ExpectOperator(":"));
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    depth = std::max({depth, key->depth, value->depth});
    node->items.push_back(std::move(key));
    node->items.push_back(std::move(value));
  }
  return Built(std::move(node), depth);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePostfix(ExprPtr object) {
  while (true) {
    if (stream_.AtOperator(".")) {
      ASSIGN_OR_RETURN(object, ParseDot(std::move(object)));
    } else if (stream_.AtOperator("[")) {
      ASSIGN_OR_RETURN(object, ParseSubscript(std::move(object)));
    } else if (stream_.AtOperator("(")) {
      ASSIGN_OR_RETURN(object, ParseCall(std::move(object)));
    } else {
      return object;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFiltersAndTests(ExprPtr input) {
  while (true) {
    if (stream_.AtOperator("|")) {
      ASSIGN_OR_RETURN(input, ParseFilters(std::move(input), /*starts_inline=*/false));
    } else if (stream_.AtName("is")) {
      ASSIGN_OR_RETURN(input, ParseTest(std::move(input)));
    } else if (stream_.AtOperator("(")) {
      ASSIGN_OR_RETURN(input, ParseCall(std::move(input)));
    } else {
      return input;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseDot(ExprPtr object) {
  const int line = stream_.Next().line;
  const int depth = object->depth;
  if (stream_.At(TokenKind::kInteger)) {
    auto node = Make<ItemExpr>(ExprKind::kItem, line);
    node->object = std::move(object);
    node->key = Make<ConstantExpr>(line, Value::Int(stream_.Next().integer));
    return Built(std::move(node), depth);
  }
  if (!stream_.At(TokenKind::kName)) return stream_.FailExpected("name or number");
  auto node = Make<AttributeExpr>(ExprKind::kAttribute, line);
  node->object = std::move(object);
  node->name = stream_.Next().text;
  return Built(std::move(node), depth);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSubscript(ExprPtr object) {
  const int line = stream_.Next().line;
  auto slice = Make<SliceExpr>(ExprKind::kSlice, line);
  auto keys = Make<ItemsExpr>(ExprKind::kTuple, line);
  int depth = object->depth;
  int num_colons = 0;
  while (!stream_.AtOperator("]")) {
    if (stream_.SkipOperator(":")) {
      if (++num_colons > 2) return stream_.FailExpected("]");
      continue;
    }
    ASSIGN_OR_RETURN(ExprPtr part, ParseExpression());
    depth = std::max(depth, part->depth);
    if (num_colons == 0 && !stream_.AtOperator(":")) {
      keys->items.push_back(std::move(part));
      if (!stream_.SkipOperator(",")) break;
      if (stream_.AtOperator("]")) return stream_.Fail("unexpected ']'");
      continue;
    }
    if (!keys->items.empty()) return stream_.Fail("a slice is the only subscript");
    slice->bounds[num_colons] = std::move(part);
    if (!stream_.AtOperator(":")) break;
  }
  RETURN_IF_ERROR(stream_.ExpectOperator("]"));
  if (num_colons > 0) {
    if (!keys->items.empty()) return stream_.Fail("a slice is the only subscript");
    slice->object = std::move(object);
    return Built(std::move(slice), depth);
  }
  auto item = Make<ItemExpr>(ExprKind::kItem, line);
  item->object = std::move(object);
  item->key = keys->items.size() == 1 ? std::move(keys->items[0]) : std::move(keys);
  return Built(std::move(item), depth);
}

absl::Status ExpressionParser::ParseArguments(ArgumentList* arguments, int* depth) {
  RETURN_IF_ERROR(stream_.ExpectOperator("("));
  const auto read = [&](ExprPtr* into) -> absl::Status {
    ASSIGN_OR_RETURN(*into, ParseExpression());
    *depth = std::max(*depth, (*into)->depth);
    return absl::OkStatus();
  };
  const auto wrong_order = [&] {
    return stream_.Fail("invalid syntax for function call expression");
  };
  bool first = true;
  while (!stream_.SkipOperator(")")) {
    if (!first) {
      RETURN_IF_ERROR(stream_.ExpectOperator(","));
      if (stream_.SkipOperator(")")) break;
    }
    first = false;
    const bool starred = arguments->star != nullptr || arguments->double_star != nullptr;
    if (stream_.SkipOperator("*")) {
      if (starred) return wrong_order();
      RETURN_IF_ERROR(read(&arguments->star));
    } else if (stream_.SkipOperator("**")) {
      if (arguments->double_star != nullptr) return wrong_order();
      RETURN_IF_ERROR(read(&arguments->double_star));
    } else if (stream_.At(TokenKind::kName) && stream_.look().IsOperator("=")) {
      if (arguments->double_star != nullptr) return wrong_order();
      std::string name = stream_.Next().text;
      stream_.Next();
      ExprPtr value;
      RETURN_IF_ERROR(read(&value));
      arguments->named.emplace_back(std::move(name), std::move(value));
    } else {
      if (starred || !arguments->named.empty()) return wrong_order();
      ExprPtr value;
      RETURN_IF_ERROR(read(&value));
      arguments->positional.push_back(std::move(value));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseCall(ExprPtr callee) {
  auto node = Make<CallExpr>(ExprKind::kCall, stream_.line());
  int depth = callee->depth;
  node->callee = std::move(callee);
  RETURN_IF_ERROR(ParseArguments(&node->arguments, &depth));
  return Built(std::move(node), depth);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFilters(ExprPtr input, bool starts_inline) {
  while (starts_inline || stream_.SkipOperator("|")) {
    starts_inline = false;
    auto node = Make<FilterExpr>(ExprKind::kFilter, stream_.line());
    ASSIGN_OR_RETURN(node->name, stream_.TakeName());
    while (stream_.SkipOperator(".")) {
      ASSIGN_OR_RETURN(const std::string part, stream_.TakeName());
      absl::StrAppend(&node->name, ".", part);
    }
    node->native = FindFilter(node->name);
    int depth = input == nullptr ? 0 : input->depth;
    node->input = std::move(input);
    if (stream_.AtOperator("(")) RETURN_IF_ERROR(ParseArguments(&node->arguments, &depth));
    ASSIGN_OR_RETURN(input, Built(std::move(node), depth));
  }
  return input;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTest(ExprPtr input) {
  const int line = stream_.Next().line;
  const bool is_negated = stream_.SkipName("not");
  auto node = Make<FilterExpr>(ExprKind::kTest, line);
  ASSIGN_OR_RETURN(node->name, stream_.TakeName());
  node->native = FindTest(node->name);
  int depth = input->depth;
  node->input = std::move(input);
  const bool at_operand = stream_.At(TokenKind::kString) || stream_.At(TokenKind::kInteger) ||
                          stream_.At(TokenKind::kFloat) || stream_.AtOperator("[") ||
                          stream_.AtOperator("{") ||
                          (stream_.At(TokenKind::kName) && !stream_.AtName("else") &&
                           !stream_.AtName("or") && !stream_.AtName("and"));
  if (stream_.AtOperator("(")) {
    RETURN_IF_ERROR(ParseArguments(&node->arguments, &depth));
  } else if (at_operand) {
    if (stream_.AtName("is")) return stream_.Fail("You cannot chain multiple tests with is");
    ASSIGN_OR_RETURN(ExprPtr operand, ParsePrimary());
    ASSIGN_OR_RETURN(operand, ParsePostfix(std::move(operand)));
    depth = std::max(depth, operand->depth);
    node->arguments.positional.push_back(std::move(operand));
  }
  ASSIGN_OR_RETURN(ExprPtr test, Built(std::move(node), depth));
  if (!is_negated) return test;
  auto negation = Make<UnaryExpr>(ExprKind::kNot, line);
  depth = test->depth;
  negation->operand = std::move(test);
  return Built(std::move(negation), depth);
}

absl::StatusOr<Target> ExpressionParser::ParseTargetPart(bool with_attribute) {
  const Nested nested(&nesting_);
  if (nested.TooDeep()) return stream_.Fail("the assignment nests too deep");
  Target target;
  target.line = stream_.line();
  if (stream_.SkipOperator("(")) {
    ASSIGN_OR_RETURN(target, ParseTarget(with_attribute));
    RETURN_IF_ERROR(stream_.ExpectOperator(")"));
    return target;
  }
  ASSIGN_OR_RETURN(target.name, stream_.TakeName());
  static constexpr absl::string_view kConstants[] = {"true", "false", "none",
                                                     "True", "False", "None"};
  if (std::find(std::begin(kConstants), std::end(kConstants), target.name) !=
      std::end(kConstants)) {
    return stream_.Fail(absl::StrCat("can't assign to '", target.name, "'"));
  }
  if (!with_attribute || !stream_.SkipOperator(".")) return target;
  ASSIGN_OR_RETURN(target.attribute, stream_.TakeName());
  return target;
}

absl::StatusOr<Target> ExpressionParser::ParseTarget(bool with_attribute, absl::string_view end) {
  Target tuple;
  tuple.line = stream_.line();
  do {
    if (AtTupleEnd(end) || stream_.AtOperator("=")) break;
    ASSIGN_OR_RETURN(Target part, ParseTargetPart(with_attribute));
    tuple.parts.push_back(std::move(part));
    tuple.is_tuple = tuple.is_tuple || stream_.AtOperator(",");
  } while (stream_.SkipOperator(","));
  if (tuple.is_tuple) return tuple;
  if (tuple.parts.empty()) return stream_.FailExpected("name");
  Target only = std::move(tuple.parts[0]);
  return only;
}

}  // namespace tessera::jinja

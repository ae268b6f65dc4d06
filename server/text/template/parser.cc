#include "server/text/template/parser.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status.h"
#include "server/text/template/expression_parser.h"

namespace tessera::jinja {
namespace {

// The largest depth of nested blocks.
constexpr int kMaxBlockNesting = 60;

class Parser final {
 public:
  explicit Parser(std::vector<Token> tokens) : stream_(std::move(tokens)), expressions_(&stream_) {}

  absl::StatusOr<Body> Run() { return ParseBody({}); }

 private:
  using EndTags = std::vector<absl::string_view>;

  // Parses statements until one of the end tags, whose name is then the current token. Without end
  // tags, parses the rest of the template.
  absl::StatusOr<Body> ParseBody(const EndTags& end_tags) {
    if (++block_nesting_ > kMaxBlockNesting) return stream_.Fail("blocks nest too deep");
    Body body;
    while (!stream_.AtEnd()) {
      const Token& token = stream_.Next();
      if (token.kind == TokenKind::kData) {
        auto text = std::make_unique<TextStatement>(StatementKind::kText, token.line);
        text->text = token.text;
        body.push_back(std::move(text));
      } else if (token.kind == TokenKind::kVariableBegin) {
        auto print = std::make_unique<PrintStatement>(StatementKind::kPrint, token.line);
        ASSIGN_OR_RETURN(print->value, expressions_.ParseTuple());
        RETURN_IF_ERROR(stream_.Expect(TokenKind::kVariableEnd));
        body.push_back(std::move(print));
      } else {
        if (AtOneOf(end_tags)) {
          --block_nesting_;
          return body;
        }
        ASSIGN_OR_RETURN(StatementPtr statement, ParseStatement());
        RETURN_IF_ERROR(stream_.Expect(TokenKind::kBlockEnd));
        body.push_back(std::move(statement));
      }
    }
    --block_nesting_;
    if (end_tags.empty()) return body;
    return stream_.Fail(
        absl::StrCat("Unexpected end of template. Jinja was looking for the following tags: '",
                     absl::StrJoin(end_tags, "' or '"), "'."));
  }

  bool AtOneOf(const EndTags& tags) const {
    return std::any_of(tags.begin(), tags.end(),
                       [&](absl::string_view tag) { return stream_.AtName(tag); });
  }

  // Parses the end of the current tag and the body after it. The name of the end tag is then the
  // current token.
  absl::StatusOr<Body> ParseBlock(const EndTags& end_tags) {
    stream_.SkipOperator(":");
    RETURN_IF_ERROR(stream_.Expect(TokenKind::kBlockEnd));
    return ParseBody(end_tags);
  }

  // Does the same as ParseBlock with one end tag, and skips the name of the end tag.
  absl::StatusOr<Body> ParseWholeBlock(absl::string_view end_tag) {
    ASSIGN_OR_RETURN(Body body, ParseBlock({end_tag}));
    stream_.Next();
    return body;
  }

  absl::StatusOr<StatementPtr> ParseStatement() {
    if (!stream_.At(TokenKind::kName)) return stream_.Fail("tag name expected");
    const Token& tag = stream_.Next();
    const absl::string_view name = tag.text;
    if (name == "if") return ParseIf(tag.line);
    if (name == "for") return ParseFor(tag.line);
    if (name == "set") return ParseSet(tag.line);
    if (name == "macro") return ParseMacro(tag.line);
    if (name == "call") return ParseCallBlock(tag.line);
    if (name == "filter") return ParseFilterBlock(tag.line);
    if (name == "with") return ParseWith(tag.line);
    if (name == "print") return ParsePrint(tag.line);
    if (name == "generation") return ParseGeneration(tag.line);
    if (name == "block") return ParseNamedBlock(tag.line);
    if (name == "break" || name == "continue") return ParseJump(tag);
    static constexpr absl::string_view kUnsupported[] = {"include",    "import", "from",  "extends",
                                                         "autoescape", "do",     "trans", "debug"};
    const bool is_known =
        std::find(std::begin(kUnsupported), std::end(kUnsupported), name) != std::end(kUnsupported);
    if (is_known) {
      return ErrorAtLine(tag.line,
                         absl::StrCat("the tag '", name, "' is not supported in chat templates"));
    }
    return ErrorAtLine(tag.line, absl::StrCat("Encountered unknown tag '", name, "'."));
  }

  absl::StatusOr<StatementPtr> ParseIf(int line) {
    auto node = std::make_unique<IfStatement>(StatementKind::kIf, line);
    do {
      ASSIGN_OR_RETURN(ExprPtr condition, expressions_.ParseTuple(/*with_conditional=*/false));
      ASSIGN_OR_RETURN(Body body, ParseBlock({"elif", "else", "endif"}));
      node->branches.emplace_back(std::move(condition), std::move(body));
    } while (stream_.SkipName("elif"));
    if (stream_.Next().text == "else") {
      ASSIGN_OR_RETURN(node->else_body, ParseWholeBlock("endif"));
    }
    return node;
  }

  absl::StatusOr<StatementPtr> ParseFor(int line) {
    auto node = std::make_unique<ForStatement>(StatementKind::kFor, line);
    ASSIGN_OR_RETURN(node->target, expressions_.ParseTarget(/*with_attribute=*/false, "in"));
    if (AssignsTo(node->target, "loop")) {
      return ErrorAtLine(line, "Can't assign to special loop variable in for-loop target");
    }
    RETURN_IF_ERROR(stream_.ExpectName("in"));
    ASSIGN_OR_RETURN(node->sequence, expressions_.ParseTuple(false, "recursive"));
    if (stream_.SkipName("if")) {
      ASSIGN_OR_RETURN(node->filter, expressions_.ParseExpression());
    }
    node->is_recursive = stream_.SkipName("recursive");
    ++loop_nesting_;
    ASSIGN_OR_RETURN(node->body, ParseBlock({"endfor", "else"}));
    --loop_nesting_;
    if (stream_.Next().text == "else") {
      ASSIGN_OR_RETURN(node->else_body, ParseWholeBlock("endfor"));
    }
    return node;
  }

  static bool AssignsTo(const Target& target, absl::string_view name) {
    if (target.name == name && target.attribute.empty()) return true;
    return std::any_of(target.parts.begin(), target.parts.end(),
                       [&](const Target& part) { return AssignsTo(part, name); });
  }

  absl::StatusOr<StatementPtr> ParseSet(int line) {
    ASSIGN_OR_RETURN(Target target, expressions_.ParseTarget(/*with_attribute=*/true));
    if (loop_nesting_ > 0 && AssignsTo(target, "loop")) {
      return ErrorAtLine(line, "Can't assign to special loop variable in for-loop target");
    }
    if (stream_.SkipOperator("=")) {
      auto node = std::make_unique<SetStatement>(StatementKind::kSet, line);
      node->target = std::move(target);
      ASSIGN_OR_RETURN(node->value, expressions_.ParseTuple());
      return node;
    }
    auto node = std::make_unique<SetBlockStatement>(StatementKind::kSetBlock, line);
    node->target = std::move(target);
    ASSIGN_OR_RETURN(node->filter, expressions_.ParseFilters(nullptr, /*starts_inline=*/false));
    ASSIGN_OR_RETURN(node->body, ParseWholeBlock("endset"));
    return node;
  }

  absl::Status ParseParameters(MacroStatement* macro) {
    RETURN_IF_ERROR(stream_.ExpectOperator("("));
    while (!stream_.SkipOperator(")")) {
      if (!macro->parameters.empty()) RETURN_IF_ERROR(stream_.ExpectOperator(","));
      Parameter parameter;
      ASSIGN_OR_RETURN(parameter.name, stream_.TakeName());
      const bool after_default =
          !macro->parameters.empty() && macro->parameters.back().fallback != nullptr;
      if (stream_.SkipOperator("=")) {
        ASSIGN_OR_RETURN(parameter.fallback, expressions_.ParseExpression());
      } else if (after_default) {
        return stream_.Fail("non-default argument follows default argument");
      }
      macro->parameters.push_back(std::move(parameter));
    }
    return absl::OkStatus();
  }

  // Parses the body of a macro or call block. A `break` in the body cannot refer to a loop around
  // it.
  absl::Status ParseMacroBody(absl::string_view end_tag, MacroStatement* macro) {
    const auto before = expressions_.special_reads();
    const int loops_around = std::exchange(loop_nesting_, 0);
    ASSIGN_OR_RETURN(macro->body, ParseWholeBlock(end_tag));
    loop_nesting_ = loops_around;
    const auto& after = expressions_.special_reads();
    macro->uses_caller = after.caller > before.caller;
    macro->uses_varargs = after.varargs > before.varargs;
    macro->uses_kwargs = after.kwargs > before.kwargs;
    return absl::OkStatus();
  }

  absl::StatusOr<StatementPtr> ParseMacro(int line) {
    auto node = std::make_unique<MacroStatement>(StatementKind::kMacro, line);
    ASSIGN_OR_RETURN(node->name, stream_.TakeName());
    RETURN_IF_ERROR(ParseParameters(node.get()));
    RETURN_IF_ERROR(ParseMacroBody("endmacro", node.get()));
    return node;
  }

  absl::StatusOr<StatementPtr> ParseCallBlock(int line) {
    auto node = std::make_unique<CallBlockStatement>(StatementKind::kCallBlock, line);
    node->body = std::make_unique<MacroStatement>(StatementKind::kMacro, line);
    node->body->name = "caller";
    if (stream_.AtOperator("(")) RETURN_IF_ERROR(ParseParameters(node->body.get()));
    ASSIGN_OR_RETURN(node->call, expressions_.ParseExpression());
    if (node->call->kind != ExprKind::kCall) return ErrorAtLine(line, "expected call");
    RETURN_IF_ERROR(ParseMacroBody("endcall", node->body.get()));
    return node;
  }

  absl::StatusOr<StatementPtr> ParseFilterBlock(int line) {
    auto node = std::make_unique<FilterBlockStatement>(StatementKind::kFilterBlock, line);
    ASSIGN_OR_RETURN(node->filter, expressions_.ParseFilters(nullptr, /*starts_inline=*/true));
    ASSIGN_OR_RETURN(node->body, ParseWholeBlock("endfilter"));
    return node;
  }

  absl::StatusOr<StatementPtr> ParseWith(int line) {
    auto node = std::make_unique<WithStatement>(StatementKind::kWith, line);
    while (!stream_.At(TokenKind::kBlockEnd)) {
      if (!node->assignments.empty()) RETURN_IF_ERROR(stream_.ExpectOperator(","));
      ASSIGN_OR_RETURN(Target target, expressions_.ParseTarget(/*with_attribute=*/false));
      RETURN_IF_ERROR(stream_.ExpectOperator("="));
      ASSIGN_OR_RETURN(ExprPtr value, expressions_.ParseExpression());
      node->assignments.emplace_back(std::move(target), std::move(value));
    }
    ASSIGN_OR_RETURN(node->body, ParseWholeBlock("endwith"));
    return node;
  }

  absl::StatusOr<StatementPtr> ParsePrint(int line) {
    auto node = std::make_unique<PrintStatement>(StatementKind::kPrint, line);
    auto values = std::make_unique<ItemsExpr>(ExprKind::kConcat, line);
    while (!stream_.At(TokenKind::kBlockEnd)) {
      if (!values->items.empty()) RETURN_IF_ERROR(stream_.ExpectOperator(","));
      ASSIGN_OR_RETURN(ExprPtr value, expressions_.ParseExpression());
      values->items.push_back(std::move(value));
    }
    node->value = std::move(values);
    return node;
  }

  // Parses {% generation %}, which marks the assistant's text for training. Rendering prints the
  // body unchanged.
  absl::StatusOr<StatementPtr> ParseGeneration(int line) {
    auto node = std::make_unique<ScopeStatement>(StatementKind::kScope, line);
    const int loops_around = std::exchange(loop_nesting_, 0);
    ASSIGN_OR_RETURN(node->body, ParseWholeBlock("endgeneration"));
    loop_nesting_ = loops_around;
    return node;
  }

  absl::StatusOr<StatementPtr> ParseNamedBlock(int line) {
    auto node = std::make_unique<ScopeStatement>(StatementKind::kScope, line);
    ASSIGN_OR_RETURN(const std::string name, stream_.TakeName());
    while (stream_.SkipName("scoped") || stream_.SkipName("required")) continue;
    const int loops_around = std::exchange(loop_nesting_, 0);
    ASSIGN_OR_RETURN(node->body, ParseWholeBlock("endblock"));
    loop_nesting_ = loops_around;
    stream_.SkipName(name);
    return node;
  }

  absl::StatusOr<StatementPtr> ParseJump(const Token& tag) {
    if (loop_nesting_ == 0)
      return ErrorAtLine(tag.line, absl::StrCat("'", tag.text, "' outside loop"));
    const bool is_break = tag.text == "break";
    return std::make_unique<JumpStatement>(
        is_break ? StatementKind::kBreak : StatementKind::kContinue, tag.line);
  }

  TokenStream stream_;
  ExpressionParser expressions_;
  int block_nesting_ = 0;
  int loop_nesting_ = 0;
};

}  // namespace

absl::StatusOr<Body> ParseTemplate(absl::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace tessera::jinja

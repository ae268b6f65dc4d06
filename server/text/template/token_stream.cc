#include "absl/strings/str_cat.h"
#include "server/text/template/expression_parser.h"

namespace tessera::jinja {

std::string DescribeToken(const Token& token) {
  switch (token.kind) {
    case TokenKind::kData:
      return "template data";
    case TokenKind::kVariableBegin:
      return "begin of print statement";
    case TokenKind::kVariableEnd:
      return "end of print statement";
    case TokenKind::kBlockBegin:
      return "begin of statement block";
    case TokenKind::kBlockEnd:
      return "end of statement block";
    case TokenKind::kName:
    case TokenKind::kOperator:
      return token.text;
    case TokenKind::kString:
      return "string";
    case TokenKind::kInteger:
      return "integer";
    case TokenKind::kFloat:
      return "float";
    case TokenKind::kEnd:
      return "end of template";
  }
  return "";
}

absl::Status TokenStream::FailExpected(absl::string_view what) const {
  return Fail(absl::StrCat("expected '", what, "', got '", DescribeToken(current()), "'"));
}

const Token& TokenStream::Next() {
  const Token& token = tokens_[next_];
  if (token.kind != TokenKind::kEnd) ++next_;
  return token;
}

bool TokenStream::SkipOperator(absl::string_view symbol) {
  const bool found = AtOperator(symbol);
  if (found) Next();
  return found;
}

bool TokenStream::SkipName(absl::string_view name) {
  const bool found = AtName(name);
  if (found) Next();
  return found;
}

absl::Status TokenStream::ExpectOperator(absl::string_view symbol) {
  return SkipOperator(symbol) ? absl::OkStatus() : FailExpected(symbol);
}

absl::Status TokenStream::ExpectName(absl::string_view name) {
  return SkipName(name) ? absl::OkStatus() : FailExpected(name);
}

absl::Status TokenStream::Expect(TokenKind kind) {
  if (!At(kind)) {
    Token wanted;
    wanted.kind = kind;
    return FailExpected(DescribeToken(wanted));
  }
  Next();
  return absl::OkStatus();
}

absl::StatusOr<std::string> TokenStream::TakeName() {
  if (!At(TokenKind::kName)) return FailExpected("name");
  return Next().text;
}

}  // namespace tessera::jinja

// Cuts a template's source into tokens as jinja2 does with Hugging Face's settings (trim_blocks and
// lstrip_blocks are on). The lexer applies the marks - and + of tags, and resolves raw blocks and
// comments. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tessera::jinja {

enum class TokenKind : uint8_t {
  kData,           // text outside of tags, which is printed unchanged
  kVariableBegin,  // {{
  kVariableEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;  // the data, name, operator, or string without quotes and with escapes resolved
  int64_t integer = 0;
  double real = 0;

  bool IsOperator(absl::string_view symbol) const {
    return kind == TokenKind::kOperator && text == symbol;
  }
  bool IsName(absl::string_view name) const { return kind == TokenKind::kName && text == name; }
};

// An error at a line of the template: "line 3: ...".
absl::Status ErrorAtLine(int line, absl::string_view why);

// Returns the tokens of a template; the last token is kEnd. Source that is not UTF-8 is an error.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source);

// The text of a string literal without its quotes, with Python's escapes resolved.
absl::StatusOr<std::string> UnescapeString(absl::string_view literal);

}  // namespace tessera::jinja

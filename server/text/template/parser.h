// Parses a template's source into its syntax tree. The language is jinja2 3.1 with the loop
// controls `break` and `continue`, without the statements that need other templates (include,
// import, from, extends) and without autoescaping. Pure function; any thread.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/ast.h"

namespace tessera::jinja {

// Errors name the line and what was expected.
absl::StatusOr<Body> ParseTemplate(absl::string_view source);

}  // namespace tessera::jinja

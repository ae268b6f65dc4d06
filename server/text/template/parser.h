// Parses a template's source into its tree: the language of jinja2 3.1 with the loop controls
// `break` and `continue`, without what needs other templates (include, import, from, extends) and
// without autoescaping.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/ast.h"

namespace tessera::jinja {

// Errors name the line and say what was expected.
absl::StatusOr<Body> ParseTemplate(absl::string_view source);

}  // namespace tessera::jinja

// Runs a template's statements: text and printed values go to the output, the rest changes scopes
// or the flow.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/text/template/ast.h"
#include "server/text/template/scope.h"

namespace tessera::jinja {

// Renders `body` with `state->scope` as the innermost scope. Errors name the template's line.
absl::StatusOr<std::string> RunTemplate(const Body& body, RenderState* state);

}  // namespace tessera::jinja

// Runs the statements of a template. Text and printed values are appended to the output; the other
// statements change scopes or the control flow. Used by one rendering, on its thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/text/template/ast.h"
#include "server/text/template/scope.h"

namespace tessera::jinja {

// Renders `body` with `state->scope` as the innermost scope. Errors name the template's line.
absl::StatusOr<std::string> RunTemplate(const Body& body, RenderState* state);

}  // namespace tessera::jinja

// The global functions that every template sees: range, dict, namespace, cycler and joiner of
// jinja2, raise_exception and strftime_now of Hugging Face.
#pragma once

#include "absl/time/time.h"
#include "server/text/template/scope.h"

namespace tessera::jinja {

// `now` is what strftime_now formats, in the local time zone.
void AddBuiltins(absl::Time now, Scope* scope);

}  // namespace tessera::jinja

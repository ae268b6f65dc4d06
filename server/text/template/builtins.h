// The global functions of every template: range, dict, namespace, cycler and joiner, which jinja2
// has, and raise_exception and strftime_now, which Hugging Face adds. Used by one rendering, on its
// thread.
#pragma once

#include "absl/time/time.h"
#include "server/text/template/scope.h"

namespace tessera::jinja {

// Adds the functions to *scope. strftime_now formats `now` in the local time zone.
void AddBuiltins(absl::Time now, Scope* scope);

}  // namespace tessera::jinja

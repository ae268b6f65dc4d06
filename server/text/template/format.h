// Python's two ways of formatting text: `text % values` and `text.format(...)`. Used by one
// rendering, on its thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/budget.h"
#include "server/text/template/callable.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

// `format % arguments`. A tuple has one value for each directive, a mapping has values by name, and
// any other argument is the only value. REQUIRES: `format` is a string.
absl::StatusOr<Value> FormatPercent(Budget& budget, const Value& format, const Value& arguments);

// Implements `format.format(...)`.
absl::StatusOr<Value> FormatBraces(Budget& budget, absl::string_view format, const CallArgs& args);

// Implements Python's `format(value, spec)`.
absl::StatusOr<std::string> FormatSpec(Budget& budget, const Value& value, absl::string_view spec);

}  // namespace tessera::jinja

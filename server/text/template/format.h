// Python's two ways to fill a text with values: `text % values` and `text.format(...)`.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/budget.h"
#include "server/text/template/callable.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

// `format % arguments`: a tuple gives one value for each directive, a mapping names them, anything
// else is the only one. REQUIRES: format is a string.
absl::StatusOr<Value> FormatPercent(Budget& budget, const Value& format, const Value& arguments);

// `format.format(...)`.
absl::StatusOr<Value> FormatBraces(Budget& budget, absl::string_view format, const CallArgs& args);

// Python's `format(value, spec)`.
absl::StatusOr<std::string> FormatSpec(Budget& budget, const Value& value, absl::string_view spec);

}  // namespace tessera::jinja

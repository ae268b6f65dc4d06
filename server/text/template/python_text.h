// Converts values to text as Python does: str() for `{{ value }}`, and repr() for items inside
// printed lists and mappings. Used by one rendering, on its thread.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/budget.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

absl::Status AppendStr(Budget& budget, const Value& value, std::string* out);
absl::StatusOr<std::string> Str(Budget& budget, const Value& value);

absl::Status AppendRepr(Budget& budget, const Value& value, std::string* out);
absl::StatusOr<std::string> Repr(Budget& budget, const Value& value);

// repr() of a str. The quotes are ', or " if the text contains ' but not ". Unprintable code points
// are escaped.
void AppendStringRepr(absl::string_view text, std::string* out);
// The shortest decimal number that parses to `value`, in Python's notation: 1.0, 1e+16, 1e-05, inf,
// nan.
std::string FloatRepr(double value);

}  // namespace tessera::jinja

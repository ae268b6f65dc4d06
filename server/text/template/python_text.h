// How Python prints values: str() as in `{{ value }}`, and repr() as inside printed lists and
// mappings.
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

// repr() of a str: quoted by ' unless only ' occurs in it, unprintable code points escaped.
void AppendStringRepr(absl::string_view text, std::string* out);
// The shortest decimal that reads back as `value`, laid out as Python does: 1.0, 1e+16, 1e-05, inf,
// nan.
std::string FloatRepr(double value);

}  // namespace tessera::jinja

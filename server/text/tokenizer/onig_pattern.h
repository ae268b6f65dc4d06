// Translates a tokenizer pattern from Oniguruma (Ruby syntax), which Hugging Face uses, to PCRE2,
// which this room uses. The two differ in the characters of \s, \w, \h and \v, in the meaning of
// (?m), ^, $ and {n,m}+, in script names, and in the Unicode version of the classes. The result is
// a PCRE2 pattern (for the options UTF, UCP and MULTILINE) that matches as Oniguruma does, or an
// error that names the unsupported construct. Pure function; any thread.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera {

absl::StatusOr<std::string> TranslateOnigPattern(std::string_view pattern);

}  // namespace tessera

// Hugging Face compiles tokenizer patterns with Oniguruma (Ruby syntax); this room matches with
// PCRE2. The languages are close but not the same: what \s, \w, \h and \v contain, what (?m), ^ and
// $ mean, {n,m}+, script names, and which Unicode version the classes follow. The translation gives
// a PCRE2 pattern (options UTF, UCP and MULTILINE) that matches as Oniguruma does, or an error that
// names the construct. Pure function; any thread.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera {

absl::StatusOr<std::string> TranslateOnigPattern(std::string_view pattern);

}  // namespace tessera

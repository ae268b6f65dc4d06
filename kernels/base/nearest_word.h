// Suggestions for misspelt names of flags, commands and keys. Pure function; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace tessera {

// Returns the candidate with the smallest edit distance to `word`, or "" if no candidate is near:
// the distance may be half the length of `word`, and at least 2. Words of more than 128 bytes have
// no near candidate, which bounds the cost.
std::string NearestWord(absl::string_view word, const std::vector<std::string>& candidates);

}  // namespace tessera

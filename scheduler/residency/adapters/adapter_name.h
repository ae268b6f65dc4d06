// The grammar of the names and revisions of adapters. Names stand in the recipes of blends
// ("zorvan-1*0.6+keltish-1@v2*0.4:r8"), in lists, in labels of metrics and in the command line
// (NAME=WEIGHT), so they have no characters that are punctuation there. Any thread.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace tessera {

inline constexpr size_t kMaxAdapterNameBytes = 255;

// A name has 1 to 255 bytes of UTF-8: letters, digits, spaces and - _ . / : ( ). Its first
// character is a letter, a digit, _ or (; its last is no space. Returns what is wrong with a name
// and what to give, as the end of a sentence that begins with the name's place; "": nothing.
std::string WrongWithAdapterName(absl::string_view name);

}  // namespace tessera

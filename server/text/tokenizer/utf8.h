// UTF-8 for the server. It validates input and reports the offset of the first fault, and it
// decodes the bytes that models emit without emitting a part of a code point. Pure functions; any
// thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tessera {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8Kind {
  kValid,       // a whole code point
  kInvalid,     // bytes that no further byte can complete to a code point
  kIncomplete,  // the text ends inside bytes that may become a code point
};

// The unit at a position of a text: `length` bytes of `kind`. An invalid unit is a maximal subpart:
// the bytes that Unicode (and Rust's from_utf8_lossy) replace by one U+FFFD.
struct Utf8Unit {
  Utf8Kind kind = Utf8Kind::kInvalid;
  size_t length = 0;
  char32_t code_point = 0;  // the code point of a valid unit
};

// REQUIRES: position < text.size().
Utf8Unit NextUtf8(std::string_view text, size_t position);

// Returns OK, or INVALID_ARGUMENT with the byte offset of the first fault.
absl::Status ValidateUtf8(std::string_view text);
bool IsValidUtf8(std::string_view text);

// REQUIRES: code_point is a scalar value (at most 0x10FFFF and not a surrogate).
void AppendUtf8(char32_t code_point, std::string* out);

// Appends `bytes` as text with U+FFFD for each invalid unit. An incomplete unit at the end is not
// consumed unless `final` is true. Returns the number of consumed bytes.
size_t AppendLossy(std::string_view bytes, bool final, std::string* out);

// The last code point of `text`. REQUIRES: text is valid UTF-8 and not empty.
char32_t LastCodePoint(std::string_view text);

// Character classes as Rust's regex and char define them; Hugging Face's added tokens and
// pre-tokenizers use these definitions.
bool IsUnicodeSpace(char32_t code_point);
bool IsUnicodeWord(char32_t code_point);
bool IsUnicodeNumeric(char32_t code_point);
bool IsUnicodePunctuation(char32_t code_point);

}  // namespace tessera

// UTF-8 as the server needs it: refuse bad input with the place of the fault, and turn the bytes
// that models emit into text without ever showing half a code point. Pure functions; any thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tessera {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8Kind {
  kValid,       // a whole code point
  kInvalid,     // can never become one, whatever follows
  kIncomplete,  // the text ends inside what may become one
};

// What stands at a position: `length` bytes of `kind`. An invalid unit is a maximal subpart, the
// run of bytes that Unicode (and Rust's from_utf8_lossy) replaces by one U+FFFD.
struct Utf8Unit {
  Utf8Kind kind = Utf8Kind::kInvalid;
  size_t length = 0;
  char32_t code_point = 0;  // of a valid unit
};

// REQUIRES: position < text.size().
Utf8Unit NextUtf8(std::string_view text, size_t position);

// OK, or INVALID_ARGUMENT with the byte offset of the first fault.
absl::Status ValidateUtf8(std::string_view text);
bool IsValidUtf8(std::string_view text);

// REQUIRES: a scalar value (at most 0x10FFFF, not a surrogate).
void AppendUtf8(char32_t code_point, std::string* out);

// Appends `bytes` as text, invalid units as U+FFFD. An incomplete unit at the end is left alone
// unless `final`. Returns how many bytes were consumed.
size_t AppendLossy(std::string_view bytes, bool final, std::string* out);

// The code point that ends `text`. REQUIRES: text is valid and not empty.
char32_t LastCodePoint(std::string_view text);

// Classes as Rust's regex and char see them (Hugging Face's added tokens and pre-tokenizers are
// written with those).
bool IsUnicodeSpace(char32_t code_point);
bool IsUnicodeWord(char32_t code_point);
bool IsUnicodeNumeric(char32_t code_point);
bool IsUnicodePunctuation(char32_t code_point);

}  // namespace tessera

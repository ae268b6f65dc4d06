// The operations of Python's str on UTF-8 text: counting, slicing, classifying and changing the
// case of code points. All functions but IsValidUtf8 REQUIRE valid UTF-8; a template's source and
// input are checked before. Pure functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace tessera::jinja {

bool IsValidUtf8(absl::string_view text);
// Reads the code point at *position and moves past it. REQUIRES: *position < text.size().
char32_t NextCodePoint(absl::string_view text, size_t* position);
void AppendCodePoint(char32_t code_point, std::string* out);
// REQUIRES: code_point is no surrogate and at most 0x10FFFF.
std::string CodePointText(char32_t code_point);
size_t CountCodePoints(absl::string_view text);
// The byte offset of the code point `index`, counted from byte `from`; text.size() if the text has
// fewer code points.
size_t ByteOffset(absl::string_view text, size_t index, size_t from = 0);
// Returns a view of each code point.
std::vector<absl::string_view> SplitCodePoints(absl::string_view text);

bool IsSpace(char32_t c);
bool IsAlpha(char32_t c);
bool IsDecimal(char32_t c);
bool IsNumeric(char32_t c);
bool IsUpper(char32_t c);
bool IsLower(char32_t c);
bool IsPrintable(char32_t c);
bool IsIdentifierStart(char32_t c);
bool IsIdentifierPart(char32_t c);

std::string Upper(absl::string_view text);
std::string Lower(absl::string_view text);
std::string Capitalize(absl::string_view text);
// Python's str.title: a letter after a non-letter becomes upper case, all other letters lower case.
std::string Title(absl::string_view text);
std::string SwapCase(absl::string_view text);

enum class Side : uint8_t { kLeft, kRight, kBoth };
// Removes the code points of `chars` at the ends of the text; removes white space if `chars` is
// null.
absl::string_view Strip(absl::string_view text, Side side,
                        const absl::string_view* chars = nullptr);
// Python's str.splitlines.
std::vector<absl::string_view> SplitLines(absl::string_view text, bool keep_ends);
// Python's str.split() and str.rsplit() without a separator; max_splits < 0: no limit.
std::vector<absl::string_view> SplitWhitespace(absl::string_view text, int64_t max_splits);
std::vector<absl::string_view> SplitWhitespaceFromRight(absl::string_view text, int64_t max_splits);

// FindText returns the byte offset of the first `needle` at or after `begin`, FindLastText that of
// the last `needle`; both return npos if there is none. The time is linear in the length of the
// text.
size_t FindText(absl::string_view text, absl::string_view needle, size_t begin = 0);
size_t FindLastText(absl::string_view text, absl::string_view needle);

}  // namespace tessera::jinja

// Python's view of text over UTF-8: code points are counted, sliced, classified and cased as
// Python's str does. All functions REQUIRE valid UTF-8 (IsValidUtf8), which the template's source
// and input are checked to be.
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
// Where code point number `index` begins, counted from byte `from`; text.size() if there are fewer.
size_t ByteOffset(absl::string_view text, size_t index, size_t from = 0);
// One view for each code point.
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
// Python's str.title: every letter that follows no letter is upper, the others lower.
std::string Title(absl::string_view text);
std::string SwapCase(absl::string_view text);

enum class Side : uint8_t { kLeft, kRight, kBoth };
// Without the code points of `chars` at its ends; of whitespace if `chars` is null.
absl::string_view Strip(absl::string_view text, Side side,
                        const absl::string_view* chars = nullptr);
// Python's str.splitlines.
std::vector<absl::string_view> SplitLines(absl::string_view text, bool keep_ends);
// Python's str.split() and str.rsplit() without a separator; max_splits < 0: no limit.
std::vector<absl::string_view> SplitWhitespace(absl::string_view text, int64_t max_splits);
std::vector<absl::string_view> SplitWhitespaceFromRight(absl::string_view text, int64_t max_splits);

// The first or last place of `needle` in [begin, end) of `text`, in bytes; npos if absent. Linear
// in the text's length.
size_t FindText(absl::string_view text, absl::string_view needle, size_t begin = 0);
size_t FindLastText(absl::string_view text, absl::string_view needle);

}  // namespace tessera::jinja

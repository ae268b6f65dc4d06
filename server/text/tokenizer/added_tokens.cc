#include "server/text/tokenizer/added_tokens.h"

#include <algorithm>

#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

size_t BeginOfTrailingSpace(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!IsUnicodeSpace(NextUtf8(text, begin).code_point)) break;
    end = begin;
  }
  return end;
}

size_t EndOfLeadingSpace(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    const Utf8Unit unit = NextUtf8(text, end);
    if (!IsUnicodeSpace(unit.code_point)) break;
    end += unit.length;
  }
  return end;
}

bool IsSingleWord(std::string_view before, std::string_view after) {
  if (!before.empty() && IsUnicodeWord(LastCodePoint(before))) return false;
  return after.empty() || !IsUnicodeWord(NextUtf8(after, 0).code_point);
}

}  // namespace

std::vector<AddedTokenSplitter::Part> AddedTokenSplitter::Split(std::string_view text) const {
  std::vector<Part> parts;
  size_t done = 0;
  for (size_t from = 0; from < text.size();) {
    const AhoCorasick::Found found = automaton_.FindLeftmostLongest(text, from);
    if (found.pattern == AhoCorasick::kNone) break;
    from = found.end;
    const AddedToken& token = tokens_[found.pattern];
    size_t begin = found.begin;
    size_t end = found.end;
    if (token.single_word && !IsSingleWord(text.substr(0, begin), text.substr(end))) continue;
    if (token.lstrip) begin = std::max(done, BeginOfTrailingSpace(text.substr(0, begin)));
    if (token.rstrip) end += EndOfLeadingSpace(text.substr(end));
    if (done < begin) parts.push_back({-1, done, begin});
    parts.push_back({static_cast<TokenId>(token.id), begin, end});
    done = end;
  }
  if (done < text.size()) parts.push_back({-1, done, text.size()});
  return parts;
}

}  // namespace tessera

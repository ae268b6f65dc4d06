#include "server/text/tokenizer/byte_level.h"

#include <array>
#include <cstdint>

#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

// A printable Latin-1 byte is written as itself. The other bytes, in ascending order, are written
// as U+0100 and the code points after it.
struct Alphabet {
  std::array<uint16_t, 256> character;  // the character of each byte
  std::array<int16_t, 512> byte;        // the byte of each character; -1: not in the alphabet

  constexpr Alphabet() : character(), byte() {
    for (int16_t& b : byte) b = -1;
    uint16_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character[b] = printable ? static_cast<uint16_t>(b) : next++;
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
};
constexpr Alphabet kAlphabet;

}  // namespace

void AppendByteLevel(std::string_view bytes, std::string* out) {
  for (const char c : bytes) {
    const uint16_t character = kAlphabet.character[static_cast<unsigned char>(c)];
    if (character < 0x80) {
      out->push_back(static_cast<char>(character));
    } else {
      out->push_back(static_cast<char>(0xC0 | (character >> 6)));
      out->push_back(static_cast<char>(0x80 | (character & 0x3F)));
    }
  }
}

std::optional<std::string> ByteLevelToBytes(std::string_view token) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const Utf8Unit unit = NextUtf8(token, at);
    if (unit.kind != Utf8Kind::kValid || unit.code_point >= kAlphabet.byte.size()) {
      return std::nullopt;
    }
    const int16_t byte = kAlphabet.byte[unit.code_point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    at += unit.length;
  }
  return bytes;
}

}  // namespace tessera

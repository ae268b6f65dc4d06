// GPT-2's byte alphabet: the vocabulary of a byte-level tokenizer writes each byte as one printable
// character. Pure functions; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tessera {

// Appends the character of each byte of `bytes`.
void AppendByteLevel(std::string_view bytes, std::string* out);

// Converts a token's characters back to bytes. Returns nullopt when a character is not in the
// alphabet.
std::optional<std::string> ByteLevelToBytes(std::string_view token);

}  // namespace tessera

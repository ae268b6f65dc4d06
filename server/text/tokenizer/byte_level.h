// GPT-2's byte alphabet: each byte stands as one printable character in vocabularies of byte-level
// tokenizers. Pure functions; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tessera {

// Appends each byte of `bytes` as its character.
void AppendByteLevel(std::string_view bytes, std::string* out);

// The bytes that a token's characters stand for; empty when a character is not of the alphabet.
std::optional<std::string> ByteLevelToBytes(std::string_view token);

}  // namespace tessera

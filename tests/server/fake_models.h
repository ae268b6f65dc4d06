// Served models without weights. Their tokenizer has one token per byte (ids 0 to 255), <s> (256,
// put before every text) and </s> (257, end of sequence), so that text and tokens can be told apart
// by eye.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/call/served_model.h"

namespace tessera::testing {

inline constexpr int64_t kFakeContext = 4096;
inline constexpr TokenId kFakeBos = 256;
inline constexpr TokenId kFakeEos = 257;
inline constexpr TokenId kFakeLong = 258;  // a token of kFakeLongBytes bytes
inline constexpr int64_t kFakeLongBytes = 64;

// Writes the byte tokenizer into `dir`, with a chat template when asked.
void WriteByteTokenizer(const std::string& dir, bool with_chat_template);
// A folder of its own under the test's temporary directory.
std::string MakeTempDir(const std::string& name);

// Two models: "bytes" (the default, with a chat template) and "plain" (without).
std::vector<ServedModel> FakeModels();

}  // namespace tessera::testing

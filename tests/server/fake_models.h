// Served models without weights, for tests; any thread. Their tokenizer has one token per byte (ids
// 0 to 255), <s> (256, added before every text), </s> (257, end of sequence) and a long token
// (258), so that a reader of a test can see which tokens a text has.
#pragma once

#include <cstdint>
#include <memory>
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
// Creates a new folder in the test's temporary directory.
std::string MakeTempDir(const std::string& name);

// Returns two models: "bytes" (the default, with a chat template) and "plain" (without a template).
std::vector<ServedModel> FakeModels();

// Returns chat templates with one template, the default.
std::shared_ptr<const ChatTemplates> TemplatesOf(const std::string& source);
// A template that would run for hours.
inline constexpr char kEndlessTemplate[] =
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";

}  // namespace tessera::testing

// Loads arbitrary bytes as a tokenizer: as a tokenizer.json if they start with '{', else as
// SentencePiece's tokenizer.model, with and without `legacy`. A loaded tokenizer encodes a text
// made from the input, decodes the ids, and decodes them as a stream.
#include <algorithm>
#include <string>
#include <vector>

#include "kernels/base/log.h"
#include "server/text/tokenizer/detokenizer.h"
#include "server/text/tokenizer/json_tokenizer.h"
#include "server/text/tokenizer/spm_tokenizer.h"
#include "server/text/tokenizer/utf8.h"

namespace {

void Use(const tessera::Tokenizer& tokenizer, const std::string& text) {
  const std::vector<tessera::TokenId> ids = tokenizer.Encode(text, /*add_special=*/true);
  for (const tessera::TokenId id : ids) {
    CHECK(id >= 0 && id < tokenizer.vocab_size());
    CHECK(tokenizer.TokenText(id).size() <= (1u << 20));
  }
  if (!tokenizer.normalizes_special() && tessera::IsValidUtf8(text)) {
    const auto same = [](std::string_view part) { return std::string(part); };
    CHECK(tokenizer.EncodeRestored(text, same) == tokenizer.Encode(text, /*add_special=*/false));
  }
  for (const bool skip_special : {false, true}) {
    const std::string whole = tokenizer.Decode(ids, skip_special);
    CHECK(tessera::IsValidUtf8(whole));
    tessera::IncrementalDetokenizer detokenizer(&tokenizer, {}, skip_special);
    std::string streamed;
    for (const tessera::TokenId id : ids) {
      const std::string delta = detokenizer.Push(id);
      CHECK(tessera::IsValidUtf8(delta));
      streamed += delta;
    }
    streamed += detokenizer.Flush();
    CHECK(streamed == whole);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const bool is_json = size > 0 && input[0] == '{';
  tessera::TokenizerConfig config;
  config.legacy = size % 2 == 0;
  const auto tokenizer =
      is_json ? tessera::NewJsonTokenizer(input, config) : tessera::NewSpmTokenizer(input, config);
  if (!tokenizer.ok()) {
    CHECK(!tokenizer.status().message().empty());
    return 0;
  }
  const size_t end = std::min<size_t>(size, 256);
  Use(**tokenizer, input.substr(0, end));
  Use(**tokenizer, input.substr(size - end));
  Use(**tokenizer, "Hello  world's e\xCC\x81 \xF0\x9F\xA6\x99 12345\r\n <s>");
  return 0;
}

// Ids to text, one token at a time: what Hugging Face's decode does to a whole list, kept as a
// state of a few bytes. Text comes out as soon as no later token can change it. Decoding a whole
// list is the same machine followed by Flush, so that streaming and whole agree by construction.
// One owner, any thread; cost per token is amortised O(1).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "kernels/base/types.h"
#include "server/text/tokenizer/token_table.h"

namespace tessera {

class DecodeStream final {
 public:
  // REQUIRES: *table outlives the stream.
  DecodeStream(const TokenTable* table, bool skip_special)
      : table_(table), skip_special_(skip_special), strip_left_(table->rules().strip_begin) {}

  // Appends the text that has become final. Unknown ids add nothing.
  void Push(TokenId id, std::string* out);
  // Appends what Flush would append now.
  void AppendHeld(std::string* out) const;
  // Appends the rest. The stream is at its end.
  void Flush(std::string* out);

 private:
  void PushText(std::string_view text, std::string* out);
  void EndByteRun(std::string* out);
  void AppendStripped(std::string_view text, std::string* out);

  const TokenTable* table_;
  bool skip_special_;
  bool first_ = true;
  size_t strip_left_;    // how many may still be stripped at the beginning
  size_t num_held_ = 0;  // code points held because they may be stripped at the end
  std::string pending_;  // bytes that are not text yet
};

}  // namespace tessera

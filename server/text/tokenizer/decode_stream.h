// Decodes token ids to text, one token at a time, with the result of Hugging Face's `decode`. The
// state is a few bytes. Text is emitted as soon as no later token can change it. Decoding a whole
// list uses the same class followed by Flush, so that streamed and whole decoding agree. One owner,
// on any thread; a token costs amortised O(1).
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

  // Appends the text that becomes final with this token. An unknown id adds no text.
  void Push(TokenId id, std::string* out);
  // Appends what Flush would append now.
  void AppendHeld(std::string* out) const;
  // Appends the remaining text. Push must not be called afterwards.
  void Flush(std::string* out);

 private:
  void PushText(std::string_view text, std::string* out);
  void EndByteRun(std::string* out);
  void AppendStripped(std::string_view text, std::string* out);

  const TokenTable* table_;
  bool skip_special_;
  bool first_ = true;
  size_t strip_left_;    // number of strip strings that may still be removed at the start
  size_t num_held_ = 0;  // number of strip strings held back: they may be removed at the end
  std::string pending_;  // bytes that do not yet form valid text
};

}  // namespace tessera

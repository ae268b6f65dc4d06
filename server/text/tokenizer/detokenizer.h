// Decodes the tokens of one sequence while they are generated. A delta never contains a part of a
// code point and is never changed later: all deltas and the flush, joined, are
// Decode(prompt + generated) minus Decode(prompt). Text that a later token could still change is
// held back: at most one code point with a byte-level vocabulary; a run of byte tokens with a
// SentencePiece vocabulary, because Hugging Face decodes a run that is not UTF-8 to one U+FFFD per
// byte. One owner, on any thread; a token costs amortised O(1).
#pragma once

#include <span>
#include <string>

#include "kernels/base/types.h"
#include "server/text/tokenizer/decode_stream.h"
#include "server/text/tokenizer/tokenizer.h"

namespace tessera {

class IncrementalDetokenizer final {
 public:
  // `prompt` decides whether the output starts with a space; the text of the prompt itself is not
  // returned. REQUIRES: *tokenizer outlives the detokenizer.
  IncrementalDetokenizer(const Tokenizer* tokenizer, std::span<const TokenId> prompt,
                         bool skip_special = true);

  // Returns the text that becomes final with these tokens.
  std::string Push(std::span<const TokenId> ids);
  std::string Push(TokenId id) { return Push(std::span<const TokenId>(&id, 1)); }

  // Returns what Flush would return now. A stop string in this text ends the sequence
  // (StopMatcher::WouldMatch).
  std::string Held() const;

  // Returns the remaining text. Push must not be called afterwards.
  std::string Flush();

 private:
  // Returns `text` without the prefix that it shares with prompt_held_.
  std::string WithoutPrompt(std::string text) const;

  DecodeStream stream_;
  // Text of the prompt that was held back when the prompt ended; empty after the first output text.
  std::string prompt_held_;
};

}  // namespace tessera

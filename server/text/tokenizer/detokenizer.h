// Text while it is generated: token ids in, text out. What comes out is never half a code point and
// never changes later: all deltas and the flush, joined, are Decode(prompt + generated) minus
// Decode(prompt). Text that a later token could still change is held back (at most a code point in
// byte-level vocabularies; a run of byte tokens in SentencePiece ones, because Hugging Face makes a
// run that is not UTF-8 one U+FFFD per byte). One owner, any thread; amortised O(1) a token.
#pragma once

#include <span>
#include <string>

#include "kernels/base/types.h"
#include "server/text/tokenizer/decode_stream.h"
#include "server/text/tokenizer/tokenizer.h"

namespace tessera {

class IncrementalDetokenizer final {
 public:
  // `prompt` is the context that decides about leading spaces; its own text does not come out.
  // REQUIRES: *tokenizer outlives the detokenizer.
  IncrementalDetokenizer(const Tokenizer* tokenizer, std::span<const TokenId> prompt,
                         bool skip_special = true);

  // The text that these tokens settle.
  std::string Push(std::span<const TokenId> ids);
  std::string Push(TokenId id) { return Push(std::span<const TokenId>(&id, 1)); }

  // What Flush would give now: the text if generation ended here. A stop string in it is a stop
  // (StopMatcher::WouldMatch).
  std::string Held() const;

  // The rest. Nothing may be pushed afterwards.
  std::string Flush();

 private:
  // `text` without what the prompt's own held text already showed.
  std::string WithoutPrompt(std::string text) const;

  DecodeStream stream_;
  std::string
      prompt_held_;  // text of the prompt that was not settled yet; empty once something came out
};

}  // namespace tessera

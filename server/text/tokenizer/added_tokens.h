// Added and special tokens. The splitter cuts their strings out of a text before (or after) the
// text is normalized, and each string becomes one token. The flags are Hugging Face's. A splitter
// is immutable; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/types.h"
#include "server/text/tokenizer/aho_corasick.h"

namespace tessera {

struct AddedToken {
  int64_t id = -1;  // -1: the id that the vocabulary gives to `content`
  std::string content;
  bool single_word = false;  // matches only if it is not part of a longer word
  bool lstrip = false;       // the match includes the white space before the token
  bool rstrip = false;       // the match includes the white space after the token
  bool normalized = true;    // the normalized content is searched in the normalized text
  bool special = false;      // left out of decoded text if special tokens are skipped
};

class AddedTokenSplitter final {
 public:
  // A part of a text: an added token, or text without added tokens (id < 0).
  struct Part {
    TokenId id = -1;
    size_t begin = 0;
    size_t end = 0;
  };

  // patterns[i] is the string to search for tokens[i]. REQUIRES: both lists have the same size; all
  // ids are set.
  AddedTokenSplitter(std::vector<AddedToken> tokens, const std::vector<std::string>& patterns)
      : tokens_(std::move(tokens)), automaton_(patterns) {}

  // Returns the parts of the text in order. They cover the text, except for stripped white space
  // between two tokens. REQUIRES: `text` is valid UTF-8.
  std::vector<Part> Split(std::string_view text) const;

 private:
  std::vector<AddedToken> tokens_;
  AhoCorasick automaton_;
};

}  // namespace tessera

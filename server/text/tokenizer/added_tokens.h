// Added and special tokens: strings that are cut out of a text before (or after) it is normalized
// and count as one token each, with Hugging Face's flags. Immutable once built; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/types.h"
#include "server/text/tokenizer/aho_corasick.h"

namespace tessera {

struct AddedToken {
  int64_t id = -1;  // -1: whatever the vocabulary says
  std::string content;
  bool single_word = false;  // only where it is not part of a longer word
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = true;    // is looked for in the normalized text, itself normalized
  bool special = false;      // is left out of decoded text
};

class AddedTokenSplitter final {
 public:
  // A part of a text: an added token, or (id < 0) what lies between.
  struct Part {
    TokenId id = -1;
    size_t begin = 0;
    size_t end = 0;
  };

  // patterns[i] is the string that stands for tokens[i] in the text. REQUIRES: same sizes, ids set.
  AddedTokenSplitter(std::vector<AddedToken> tokens, const std::vector<std::string>& patterns)
      : tokens_(std::move(tokens)), automaton_(patterns) {}

  // The parts cover the text, in order, except for stripped white space that two tokens share.
  // REQUIRES: valid UTF-8.
  std::vector<Part> Split(std::string_view text) const;

 private:
  std::vector<AddedToken> tokens_;
  AhoCorasick automaton_;
};

}  // namespace tessera

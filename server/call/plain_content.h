// Keeps the strings of special tokens in a client's text from becoming special tokens when a chat
// template writes the text into a prompt. Each such string is hidden from the template by a
// placeholder, one rare letter, which survives what templates do with text (trim, split, JSON,
// repr). The placeholders are restored when the prompt is encoded. A template may still join parts
// of a client's text to the string of a special token; the caller finds that out by a second
// rendering, of blanked text. A call owns the object; one thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"

namespace tessera {

class Tokenizer;

class PlainContent final {
 public:
  // The number of different strings that Hide can replace.
  static constexpr char32_t kMaxHidden = 4095;

  // REQUIRES: *tokenizer outlives the object; !tokenizer->normalizes_special().
  explicit PlainContent(const Tokenizer* tokenizer);

  // Returns the text with a placeholder in place of each special token. Equal strings have equal
  // placeholders. REQUIRES: `text` is valid UTF-8.
  std::string Hide(std::string_view text);
  // Whether Hide had more than kMaxHidden different strings and left some in the text.
  bool overflowed() const { return overflowed_; }
  // Returns the text with another character in place of each punctuation mark and each non-ASCII
  // character that a special token has. No special token can be joined from what is left, unless
  // the token has letters and digits only or a template adds the marks.
  std::string BlankMarks(std::string_view text) const;
  // Returns the text with another character in place of each one that is no white space.
  static std::string BlankAll(std::string_view text);
  // Returns the text with the hidden strings in place of their placeholders.
  std::string Restore(std::string_view text) const;

 private:
  // Appends the placeholder of `hidden`.
  void AppendPlaceholder(std::string_view hidden, std::string* out);

  const Tokenizer* const tokenizer_;
  absl::flat_hash_set<char32_t> marks_;             // the characters that BlankMarks replaces
  std::vector<std::string> hidden_;                 // by placeholder
  absl::flat_hash_map<std::string, size_t> index_;  // index of a string in hidden_
  bool overflowed_ = false;
};

// Returns the JSON text with `map` applied to each string in it, including the keys of objects.
// REQUIRES: `json` is valid JSON.
std::string MapJsonStrings(std::string_view json,
                           const std::function<std::string(std::string_view)>& map);

}  // namespace tessera

// A compiled tokenizer pattern (PCRE2 with JIT). A Regex is immutable; any thread may match with
// it. Backtracking is bounded: at the limit the search ends, and the rest of the text counts as
// unmatched. Only regex.cc includes PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};

class Regex final {
 public:
  // `pattern` has Oniguruma's (Ruby's) syntax, as in a tokenizer.json.
  static absl::StatusOr<Regex> Compile(std::string_view pattern);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

 private:
  friend class RegexMatcher;
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

// Scratch memory for matching one pattern on one thread. Reuse a matcher for many texts.
class RegexMatcher final {
 public:
  // REQUIRES: *regex outlives the matcher. `regex` may be null if FindAll is never called.
  explicit RegexMatcher(const Regex* regex);
  ~RegexMatcher();
  RegexMatcher(const RegexMatcher&) = delete;
  RegexMatcher& operator=(const RegexMatcher&) = delete;

  // Appends all matches from left to right, as Oniguruma's find_iter returns them. REQUIRES: `text`
  // is valid UTF-8.
  void FindAll(std::string_view text, std::vector<TextRange>* matches);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera

// A tokenizer pattern: compiled once (PCRE2, JIT), matched from any thread. Matching is bounded: a
// pattern that backtracks without end gives up, and the rest of the text counts as unmatched. PCRE2
// never leaves regex.cc.
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
  // `pattern` is in Oniguruma's (Ruby's) syntax, as tokenizer.json has it.
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

// One thread's scratch memory for matching one pattern; make one per pass over many texts.
class RegexMatcher final {
 public:
  // REQUIRES: *regex outlives the matcher. May be null when FindAll is never called.
  explicit RegexMatcher(const Regex* regex);
  ~RegexMatcher();
  RegexMatcher(const RegexMatcher&) = delete;
  RegexMatcher& operator=(const RegexMatcher&) = delete;

  // Appends the successive matches, left to right, as Oniguruma's find_iter gives them.
  // REQUIRES: text is valid UTF-8.
  void FindAll(std::string_view text, std::vector<TextRange>* matches);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera

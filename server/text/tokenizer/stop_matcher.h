// Stop strings in a stream of text. The match that completes first wins; of those that complete at
// the same byte, the longest. Text that may still become part of a stop string is held back,
// nothing more. A byte costs amortised O(1) however many stop strings there are. A StopSet is
// immutable and may serve many streams; a StopMatcher has one owner.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/text/tokenizer/aho_corasick.h"

namespace tessera {

class StopSet final {
 public:
  // Empty strings are ignored.
  explicit StopSet(std::vector<std::string> stops) : stops_(std::move(stops)), automaton_(stops_) {}

  const std::string& stop(size_t index) const { return stops_[index]; }
  const AhoCorasick& automaton() const { return automaton_; }

 private:
  const std::vector<std::string> stops_;
  const AhoCorasick automaton_;
};

class StopMatcher final {
 public:
  // REQUIRES: *set outlives the matcher.
  StopMatcher(const StopSet* set, bool include_stop) : set_(set), include_stop_(include_stop) {}

  struct Result {
    std::string
        text;  // safe to show: up to the stop (with it, when include_stop), once there is one
    std::optional<size_t> match;  // index of the stop string; the stream is at its end
  };

  // REQUIRES: no match was reported yet.
  Result Feed(std::string_view delta);

  // True when feeding `tentative` would match: text that the detokenizer still holds.
  bool WouldMatch(std::string_view tentative) const;

  // The text held back, when generation ends without a stop string.
  std::string Flush();

 private:
  const StopSet* set_;
  bool include_stop_;
  AhoCorasick::Node node_ = AhoCorasick::kRoot;
  std::string held_;  // the longest end of the text that begins a stop string
};

}  // namespace tessera

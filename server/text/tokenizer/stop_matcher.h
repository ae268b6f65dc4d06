// Searches a stream of text for stop strings. The match that completes first wins; among matches
// that complete at the same byte, the longest wins. Only text that may still become part of a stop
// string is held back. A byte costs amortised O(1), however many stop strings there are. A StopSet
// is immutable and may serve many streams on any threads; a StopMatcher has one owner.
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
    // The text that may be shown now. After a match it ends before the stop string, or after the
    // stop string if include_stop is set.
    std::string text;
    std::optional<size_t> match;  // index of the stop string that was found; ends the stream
  };

  // Adds `delta` to the text of the stream. REQUIRES: no match was reported before.
  Result Feed(std::string_view delta);

  // Returns true if Feed(tentative) would report a match. Used for text that the detokenizer still
  // holds back.
  bool WouldMatch(std::string_view tentative) const;

  // Returns the text that is held back. Called when generation ends without a stop string.
  std::string Flush();

 private:
  const StopSet* set_;
  bool include_stop_;
  AhoCorasick::Node node_ = AhoCorasick::kRoot;
  std::string held_;  // the longest suffix of the text that is a prefix of a stop string
};

}  // namespace tessera

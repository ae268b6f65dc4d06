#include "server/text/tokenizer/stop_matcher.h"

#include <utility>

namespace tessera {

StopMatcher::Result StopMatcher::Feed(std::string_view delta) {
  const AhoCorasick& automaton = set_->automaton();
  Result result;
  if (automaton.empty()) {
    result.text = delta;
    return result;
  }
  result.text = std::move(held_);
  const size_t before = result.text.size();
  held_.clear();
  for (size_t i = 0; i < delta.size(); ++i) {
    node_ = automaton.Step(node_, static_cast<unsigned char>(delta[i]));
    const int32_t match = automaton.match(node_);
    if (match == AhoCorasick::kNone) continue;
    result.text.append(delta.substr(0, i + 1));
    if (!include_stop_) result.text.resize(before + i + 1 - automaton.pattern_size(match));
    result.match = static_cast<size_t>(match);
    node_ = AhoCorasick::kRoot;
    return result;
  }
  result.text.append(delta);
  const size_t safe = result.text.size() - automaton.depth(node_);
  held_ = result.text.substr(safe);
  result.text.resize(safe);
  return result;
}

bool StopMatcher::WouldMatch(std::string_view tentative) const {
  const AhoCorasick& automaton = set_->automaton();
  AhoCorasick::Node node = node_;
  for (const char c : tentative) {
    node = automaton.Step(node, static_cast<unsigned char>(c));
    if (automaton.match(node) != AhoCorasick::kNone) return true;
  }
  return false;
}

std::string StopMatcher::Flush() {
  node_ = AhoCorasick::kRoot;
  return std::exchange(held_, std::string());
}

}  // namespace tessera

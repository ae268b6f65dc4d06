#include "server/text/tokenizer/aho_corasick.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace tessera {
namespace {

// The sorted patterns below a node: the patterns in [begin, end) share the first `depth` bytes.
struct Range {
  size_t begin;
  size_t end;
};

}  // namespace

AhoCorasick::AhoCorasick(const std::vector<std::string>& patterns) {
  std::vector<uint32_t> order(patterns.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return patterns[a] < patterns[b]; });
  for (const std::string& pattern : patterns) {
    pattern_sizes_.push_back(static_cast<uint32_t>(pattern.size()));
  }

  std::vector<Range> ranges{{0, order.size()}};
  std::vector<Node> parent{kRoot};
  labels_.push_back(0);
  depth_.push_back(0);
  for (Node node = 0; node < ranges.size(); ++node) {
    child_begin_.push_back(static_cast<Node>(ranges.size()));
    const size_t depth = depth_[node];
    const size_t end = ranges[node].end;
    size_t i = ranges[node].begin;
    int32_t own = kNone;
    while (i < end && patterns[order[i]].size() == depth) {
      if (own == kNone && depth > 0) own = static_cast<int32_t>(order[i]);
      ++i;
    }
    match_.push_back(own);
    while (i < end) {
      const unsigned char label = static_cast<unsigned char>(patterns[order[i]][depth]);
      size_t last = i + 1;
      while (last < end && static_cast<unsigned char>(patterns[order[last]][depth]) == label)
        ++last;
      ranges.push_back({i, last});
      parent.push_back(node);
      labels_.push_back(label);
      depth_.push_back(static_cast<uint32_t>(depth + 1));
      i = last;
    }
  }
  child_begin_.push_back(static_cast<Node>(ranges.size()));

  fail_.assign(ranges.size(), kRoot);
  for (Node child = child_begin_[kRoot]; child < child_begin_[kRoot + 1]; ++child) {
    root_children_[labels_[child]] = child;
  }
  // In breadth-first order a parent precedes its children and a shorter suffix precedes a longer
  // one, so one pass computes all failure links.
  for (Node node = 1; node < ranges.size(); ++node) {
    if (parent[node] != kRoot) fail_[node] = Step(fail_[parent[node]], labels_[node]);
    if (match_[node] == kNone) match_[node] = match_[fail_[node]];
  }
}

AhoCorasick::Node AhoCorasick::Child(Node node, unsigned char byte) const {
  if (node == kRoot) return root_children_[byte];
  const Node begin = child_begin_[node];
  const Node end = child_begin_[node + 1];
  if (begin == end) return kRoot;
  const void* hit = std::memchr(labels_.data() + begin, byte, end - begin);
  if (hit == nullptr) return kRoot;
  return static_cast<Node>(static_cast<const unsigned char*>(hit) - labels_.data());
}

AhoCorasick::Node AhoCorasick::Step(Node node, unsigned char byte) const {
  for (;;) {
    const Node child = Child(node, byte);
    if (child != kRoot || node == kRoot) return child;
    node = fail_[node];
  }
}

AhoCorasick::Found AhoCorasick::FindLeftmostLongest(std::string_view text, size_t from) const {
  Found best;
  if (empty()) return best;
  Node node = kRoot;
  for (size_t i = from; i < text.size(); ++i) {
    node = Step(node, static_cast<unsigned char>(text[i]));
    // The suffix of `node` starts at i + 1 - depth, and no later match can start before it. So a
    // match that starts before the suffix is final.
    if (best.pattern != kNone && i + 1 - depth_[node] > best.begin) return best;
    const int32_t pattern = match_[node];
    if (pattern == kNone) continue;
    const size_t begin = i + 1 - pattern_sizes_[pattern];
    if (best.pattern == kNone || begin <= best.begin) best = {begin, i + 1, pattern};
  }
  return best;
}

}  // namespace tessera

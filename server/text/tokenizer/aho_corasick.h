// Searches a text for many strings at once: a trie with failure links (Aho-Corasick). Nodes are
// stored in breadth-first order, so that the children of a node are adjacent and a step is one
// memchr. A byte of text costs amortised O(1), whatever the strings are; memory is about 20 bytes
// per byte of pattern. Used for stop strings (streams) and added tokens (whole texts). Immutable;
// any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

class AhoCorasick final {
 public:
  using Node = uint32_t;
  static constexpr Node kRoot = 0;
  static constexpr int32_t kNone = -1;

  // Empty patterns never match; of equal patterns the first one is reported.
  // REQUIRES: the patterns' bytes sum to less than 2^31.
  explicit AhoCorasick(const std::vector<std::string>& patterns);

  // Returns the node that follows `node` after reading `byte`. A node stands for the longest suffix
  // of the text read so far that is a prefix of some pattern.
  Node Step(Node node, unsigned char byte) const;
  // The length of the node's suffix.
  size_t depth(Node node) const { return depth_[node]; }
  // The index of the longest pattern that ends at this node, or kNone.
  int32_t match(Node node) const { return match_[node]; }
  size_t pattern_size(int32_t pattern) const { return pattern_sizes_[pattern]; }
  bool empty() const { return labels_.size() <= 1; }

  struct Found {
    size_t begin = 0;
    size_t end = 0;
    int32_t pattern = kNone;
  };
  // Finds the leftmost match in text[from..], and of several matches with that start the longest.
  // Without a match, Found::pattern is kNone.
  Found FindLeftmostLongest(std::string_view text, size_t from) const;

 private:
  Node Child(Node node, unsigned char byte) const;  // kRoot: there is no such child

  // These vectors are indexed by node, in breadth-first order; node 0 is the root.
  std::vector<unsigned char> labels_;  // the byte of the edge from the parent
  std::vector<Node> child_begin_;      // children are [child_begin_[n], child_begin_[n + 1])
  std::vector<Node> fail_;
  std::vector<uint32_t> depth_;
  std::vector<int32_t> match_;
  std::vector<uint32_t> pattern_sizes_;
  std::array<Node, 256> root_children_{};
};

}  // namespace tessera

// SharedPrefixes finds the segments of a step that share a prefix of their keys: whole attention
// blocks, from position 0 on, that lie in the same pages. Attention then loads such a block once
// for the query rows of all these segments. AttentionWork owns the object; one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/step/attention_plan.h"

namespace tessera::cpu {

// A segment that may share blocks. All rows of the segment see the first num_blocks whole blocks of
// its first stream, which starts at position 0.
struct PrefixCandidate {
  int32_t segment = 0;
  const KvStream* stream = nullptr;
  int32_t num_blocks = 0;
};

// The blocks [block_begin, block_end) have the same keys in all members, of which there are at
// least two. SharedPrefixes::members returns the members.
struct SharedBlocks {
  int32_t block_begin = 0;
  int32_t block_end = 0;
  int32_t member_begin = 0;
  int32_t member_end = 0;
};

// The buffers are kept from step to step.
class SharedPrefixes final {
 public:
  // Returns all shared blocks. The shared blocks of a candidate are its first blocks, without a
  // gap, and each of them is in exactly one SharedBlocks. The result is valid until the next call.
  const std::vector<SharedBlocks>& Find(const BatchView& batch, int32_t page_tokens,
                                        const std::vector<PrefixCandidate>& candidates);
  // Returns the members as indices of candidates, ascending. REQUIRES: the last Find returned
  // `shared`.
  absl::Span<const int32_t> members(const SharedBlocks& shared) const {
    return absl::MakeConstSpan(members_).subspan(
        static_cast<size_t>(shared.member_begin),
        static_cast<size_t>(shared.member_end - shared.member_begin));
  }

 private:
  class Finder;

  std::vector<int32_t> order_;       // candidates, ordered so that each group is a range
  std::vector<SharedBlocks> open_;   // groups to extend; their members are ranges of order_
  std::vector<SharedBlocks> found_;  // the result; its members are ranges of members_
  std::vector<int32_t> members_;
};

}  // namespace tessera::cpu

// Which segments of a step have the same keys in front: whole attention blocks that lie in the same
// pages for several of them. Such a block is loaded once for all their query rows. Pure; any
// thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/step/attention_plan.h"

namespace tessera::cpu {

// A segment that may share: its first stream, and how many whole blocks from position 0 on all of
// its rows see.
struct PrefixCandidate {
  int32_t segment = 0;
  const KvStream* stream = nullptr;
  int32_t num_blocks = 0;
};

// Blocks [block_begin, block_end) are the same keys for members() of it, two or more.
struct SharedBlocks {
  int32_t block_begin = 0;
  int32_t block_end = 0;
  int32_t member_begin = 0;
  int32_t member_end = 0;
};

// Its memory is kept from step to step.
class SharedPrefixes final {
 public:
  // A candidate's shared blocks are its first ones, without a gap, each in one SharedBlocks.
  const std::vector<SharedBlocks>& Find(const BatchView& batch, int32_t page_tokens,
                                        const std::vector<PrefixCandidate>& candidates);
  // Of what Find returned last: indices of candidates, ascending.
  absl::Span<const int32_t> members(const SharedBlocks& shared) const {
    return absl::MakeConstSpan(members_).subspan(
        static_cast<size_t>(shared.member_begin),
        static_cast<size_t>(shared.member_end - shared.member_begin));
  }

 private:
  class Finder;

  std::vector<int32_t> order_;       // candidates; those that share lie side by side
  std::vector<SharedBlocks> open_;   // members: ranges of order_
  std::vector<SharedBlocks> found_;  // members: ranges of members_
  std::vector<int32_t> members_;
};

}  // namespace tessera::cpu

// Which segments of a step have the same keys in front: whole attention blocks that lie in the same
// pages for several of them. Such a block is loaded once for all their query rows. Pure; any
// thread.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention_plan.h"

namespace tessera::cpu {

// A segment that may share: its first stream, and how many whole blocks from position 0 on all of
// its rows see.
struct PrefixCandidate {
  int32_t segment = 0;
  const KvStream* stream = nullptr;
  int32_t num_blocks = 0;
};

// Blocks [block_begin, block_end) are the same keys for all of `members`, two or more indices of
// candidates, ascending.
struct SharedBlocks {
  int32_t block_begin = 0;
  int32_t block_end = 0;
  std::vector<int32_t> members;
};

// A candidate's shared blocks are its first ones, without a gap, each in one SharedBlocks.
std::vector<SharedBlocks> FindSharedBlocks(const BatchView& batch, int32_t page_tokens,
                                           const std::vector<PrefixCandidate>& candidates);

}  // namespace tessera::cpu

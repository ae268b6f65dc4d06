#include "kernels/cpu/shared_prefix.h"

#include <algorithm>
#include <numeric>

#include "kernels/device/backend.h"

namespace tessera::cpu {
namespace {

// page_tokens consecutive keys that lie in more than this many pieces are not shared.
constexpr int kMaxPieces = 8;

// The places in pages where consecutive keys of a stream lie. A piece is contiguous, even if it
// spans several KV runs. `count` may exceed kMaxPieces; then only the first pieces are stored.
struct Pieces {
  KeyPiece pieces[kMaxPieces];
  int count = 0;
};

}  // namespace

class SharedPrefixes::Finder {
 public:
  Finder(SharedPrefixes* memory, const BatchView& batch, int32_t page_tokens,
         const std::vector<PrefixCandidate>& candidates)
      : memory_(*memory), batch_(batch), page_tokens_(page_tokens), candidates_(candidates) {}

  void Find() {
    memory_.order_.resize(candidates_.size());
    std::iota(memory_.order_.begin(), memory_.order_.end(), 0);
    Split(0, 0, static_cast<int32_t>(candidates_.size()));
    while (!memory_.open_.empty()) {
      const SharedBlocks group = memory_.open_.back();
      memory_.open_.pop_back();
      Extend(group);
    }
  }

 private:
  // Divides order_[begin, end) into groups of candidates with the same keys in `block`, and adds
  // each group of at least two to open_.
  void Split(int32_t block, int32_t begin, int32_t end) {
    int32_t* const order = memory_.order_.data();
    // Candidates with the same keys in the block have the same first page.
    std::sort(order + begin, order + end, [&](int32_t a, int32_t b) {
      const int64_t x = FirstPage(a, block);
      const int64_t y = FirstPage(b, block);
      return x != y ? x < y : a < b;
    });
    while (begin < end) {
      const int32_t first = order[begin];
      int32_t* others = order + begin + 1;
      int32_t* same_page = others;
      while (same_page < order + end && FirstPage(*same_page, block) == FirstPage(first, block)) {
        ++same_page;
      }
      if (block < candidates_[static_cast<size_t>(first)].num_blocks) {
        others = std::partition(others, same_page,
                                [&](int32_t member) { return SameBlock(first, member, block); });
      }
      const int32_t group_end = static_cast<int32_t>(others - order);
      if (group_end - begin > 1) memory_.open_.push_back({block, block + 1, begin, group_end});
      begin = group_end;
    }
  }

  // Extends a group by all following blocks that all its members share, and adds it to found_. Of
  // the members, those that share the next block become new groups.
  void Extend(SharedBlocks group) {
    while (AllShare(group)) ++group.block_end;
    std::vector<int32_t>& members = memory_.members_;
    const int32_t member_begin = static_cast<int32_t>(members.size());
    members.insert(members.end(), memory_.order_.begin() + group.member_begin,
                   memory_.order_.begin() + group.member_end);
    std::sort(members.begin() + member_begin, members.end());
    memory_.found_.push_back(
        {group.block_begin, group.block_end, member_begin, static_cast<int32_t>(members.size())});
    Split(group.block_end, group.member_begin, group.member_end);
  }

  // Returns whether the block after the group's last block is the same for all members.
  bool AllShare(const SharedBlocks& group) const {
    const int32_t* const order = memory_.order_.data();
    for (int32_t i = group.member_begin; i < group.member_end; ++i) {
      if (group.block_end >= candidates_[static_cast<size_t>(order[i])].num_blocks) return false;
      if (!SameBlock(order[group.member_begin], order[i], group.block_end)) return false;
    }
    return true;
  }

  // Returns the page of the first key of a candidate's block, or -1 if the candidate has no such
  // block.
  int64_t FirstPage(int32_t candidate, int32_t block) const {
    const PrefixCandidate& of = candidates_[static_cast<size_t>(candidate)];
    if (block >= of.num_blocks) return -1;
    const int32_t position = block * kAttentionBlock;
    int64_t page = -1;
    ForEachPiece(batch_, *of.stream, page_tokens_, position, position + 1,
                 [&page](const KeyPiece& piece) { page = piece.page; });
    return page;
  }

  bool SameBlock(int32_t a, int32_t b, int32_t block) const {
    const KvStream& x = *candidates_[static_cast<size_t>(a)].stream;
    const KvStream& y = *candidates_[static_cast<size_t>(b)].stream;
    if (a == b) return true;
    if (x.pos_delta != y.pos_delta || x.temperature != y.temperature || x.scale != y.scale) {
      return false;
    }
    for (int32_t i = 0; i < kAttentionBlock; i += page_tokens_) {
      const int32_t position = block * kAttentionBlock + i;
      if (!SameKeys(x, y, position, position + page_tokens_)) return false;
    }
    return true;
  }

  // Returns the keys at positions [begin, end) as pieces, which are runs of consecutive tokens in
  // one page. `pieces` holds the first kMaxPieces of them, `count` is the number of all.
  Pieces PiecesOf(const KvStream& stream, int32_t begin, int32_t end) const {
    Pieces all;
    ForEachPiece(batch_, stream, page_tokens_, begin, end, [&all](const KeyPiece& piece) {
      KeyPiece* const last = &all.pieces[std::clamp(all.count, 1, kMaxPieces) - 1];
      if (all.count > 0 && last->page == piece.page && last->token + last->count == piece.token) {
        last->count += piece.count;
        return;
      }
      if (all.count < kMaxPieces) all.pieces[all.count] = piece;
      ++all.count;
    });
    return all;
  }

  bool SameKeys(const KvStream& x, const KvStream& y, int32_t begin, int32_t end) const {
    const Pieces a = PiecesOf(x, begin, end);
    const Pieces b = PiecesOf(y, begin, end);
    if (a.count != b.count || a.count > kMaxPieces) return false;
    for (int i = 0; i < a.count; ++i) {
      const KeyPiece& p = a.pieces[i];
      const KeyPiece& q = b.pieces[i];
      if (p.page != q.page || p.token != q.token || p.count != q.count) return false;
    }
    return true;
  }

  SharedPrefixes& memory_;
  const BatchView& batch_;
  const int32_t page_tokens_;
  const std::vector<PrefixCandidate>& candidates_;
};

const std::vector<SharedBlocks>& SharedPrefixes::Find(
    const BatchView& batch, int32_t page_tokens, const std::vector<PrefixCandidate>& candidates) {
  found_.clear();
  members_.clear();
  if (candidates.size() > 1) Finder(this, batch, page_tokens, candidates).Find();
  return found_;
}

}  // namespace tessera::cpu

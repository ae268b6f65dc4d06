#include "kernels/cpu/shared_prefix.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/backend.h"

namespace tessera::cpu {
namespace {

// A page's worth of keys in more pieces is not shared.
constexpr int kMaxPieces = 8;

class Finder {
 public:
  Finder(const BatchView& batch, int32_t page_tokens,
         const std::vector<PrefixCandidate>& candidates)
      : batch_(batch), page_tokens_(page_tokens), candidates_(candidates) {}

  std::vector<SharedBlocks> Find() {
    std::vector<int32_t> all(candidates_.size());
    std::iota(all.begin(), all.end(), 0);
    Split(0, all);
    while (!open_.empty()) {
      SharedBlocks group = std::move(open_.back());
      open_.pop_back();
      Extend(std::move(group));
    }
    return std::move(found_);
  }

 private:
  // Opens a group for those of `members` whose block is the same.
  void Split(int32_t block, const std::vector<int32_t>& members) {
    std::vector<SharedBlocks> groups;
    for (const int32_t member : members) {
      if (block >= candidates_[static_cast<size_t>(member)].num_blocks) continue;
      SharedBlocks* home = nullptr;
      for (SharedBlocks& group : groups) {
        if (home == nullptr && SameBlock(group.members.front(), member, block)) home = &group;
      }
      if (home == nullptr) home = &groups.emplace_back(SharedBlocks{block, block + 1, {}});
      home->members.push_back(member);
    }
    for (SharedBlocks& group : groups) {
      if (group.members.size() > 1) open_.push_back(std::move(group));
    }
  }

  // As far as all members go together; those that still share something behind it become new
  // groups.
  void Extend(SharedBlocks group) {
    while (AllShare(group, group.block_end)) ++group.block_end;
    Split(group.block_end, group.members);
    found_.push_back(std::move(group));
  }

  bool AllShare(const SharedBlocks& group, int32_t block) const {
    for (const int32_t member : group.members) {
      if (block >= candidates_[static_cast<size_t>(member)].num_blocks) return false;
      if (!SameBlock(group.members.front(), member, block)) return false;
    }
    return true;
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

  // Keys that lie side by side, in however many runs.
  struct Pieces {
    KeyPiece pieces[kMaxPieces];
    int count = 0;
  };
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

  const BatchView& batch_;
  const int32_t page_tokens_;
  const std::vector<PrefixCandidate>& candidates_;
  std::vector<SharedBlocks> open_;
  std::vector<SharedBlocks> found_;
};

}  // namespace

std::vector<SharedBlocks> FindSharedBlocks(const BatchView& batch, int32_t page_tokens,
                                           const std::vector<PrefixCandidate>& candidates) {
  if (candidates.size() < 2) return {};
  return Finder(batch, page_tokens, candidates).Find();
}

}  // namespace tessera::cpu

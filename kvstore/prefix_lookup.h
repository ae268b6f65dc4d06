// A PrefixLookup finds the longest prefix of a sequence's tokens whose pages are in the prefix
// index, and computes the names of pages (page_hash.h). A page has an exact name and one name in
// each class that the sequence accepts (KvClass): a chain of hashes over all pages from page 0,
// under the class's root. A lookup takes a page by its exact name first, then by its name in one
// class.
//
// KvManager owns a PrefixLookup; engine thread only. Its buffers are reused from one lookup to the
// next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "absl/types/span.h"
#include "kernels/base/types.h"
#include "kernels/step/page_layout.h"
#include "kvstore/kv_state.h"
#include "kvstore/page_hash.h"
#include "kvstore/prefix_index.h"

namespace tessera {

// The first page of a group that the next token, at position num_tokens, attends to: that token
// attends to positions > num_tokens - window.
inline int64_t FirstNeededPage(const GroupLayout& group, int64_t num_tokens) {
  if (group.window == 0) return 0;
  return std::max<int64_t>(0, num_tokens - group.window + 1) / group.page_tokens;
}

class PrefixLookup final {
 public:
  explicit PrefixLookup(const PrefixIndex* index) : index_(index) {}

  struct Query {
    const PageLayout* layout = nullptr;
    int32_t first_owner = 0;  // Page::owner of group 0
    KvState* state = nullptr;
    absl::Span<const TokenId> tokens;
    const KvScratch* scratch = nullptr;  // null: the lookup sees the store without a plan's changes
  };
  // Returns the match without evictable_pages, which the caller sets from the pool.
  KvMatch Find(const Query& query);
  // Returns a group's page of the hit of the last Find; kNullPage if the group does not have the
  // page. REQUIRES: the page is in the hit.
  PageId found(int64_t page, int32_t group, int32_t num_groups) const {
    return found_[page * num_groups + group];
  }
  // Returns the group's page with the exact name or, if there is none, with the name in the class.
  // kv_class: kNoKvClass, or an index in state.accepted. REQUIRES: the names of the page are
  // computed.
  PageId FindPage(const KvState& state, int32_t kv_class, int64_t page, int32_t owner) const;

  // Returns the name of a whole page, and computes the missing names of the chain.
  const PageHash& Name(KvState* state, int32_t kv_class, absl::Span<const TokenId> tokens,
                       int64_t page_tokens, int64_t page) {
    const bool is_exact = kv_class == kNoKvClass;
    std::vector<PageHash>& hashes = is_exact ? state->hashes : state->accepted[kv_class].hashes;
    if (std::ssize(hashes) <= page) {
      const PageHash& root = is_exact ? state->root : state->accepted[kv_class].root;
      MakeNames(root, tokens, page_tokens, page, &hashes);
    }
    return hashes[page];
  }
  // Whether the page name is announced: an admitted sequence, or a sequence of the plan that writes
  // `scratch`, will compute the page. `scratch` may be null.
  bool IsAnnounced(const PageHash& name, int32_t model, const KvScratch* scratch) const;

 private:
  struct Reach {
    int64_t hit_pages = 0;
    int64_t announced_pages = 0;
  };
  // Computes the names of pages up to last_page that `hashes` lacks.
  void MakeNames(const PageHash& root, absl::Span<const TokenId> tokens, int64_t page_tokens,
                 int64_t last_page, std::vector<PageHash>* hashes);
  // Looks up pages by their exact names and, with kInClass, by their names in the class. kInClass
  // is a template parameter, so that a lookup without a class takes no time for it.
  template <bool kInClass>
  Reach Look(const Query& query, int32_t kv_class, int64_t max_pages);

  const PrefixIndex* const index_;
  PageHasher hasher_;
  std::vector<PageId> found_;          // [pages, groups] pages of the last hit
  std::vector<PageId> looked_up_;      // [pages, groups] pages that the last Look found
  std::vector<int64_t> found_in_row_;  // [groups] number of consecutive pages found
  // [groups] number of consecutive pages that are found or announced.
  std::vector<int64_t> announced_in_row_;
};

}  // namespace tessera

#include "kvstore/prefix_lookup.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace tessera {

void PrefixLookup::MakeNames(const PageHash& root, absl::Span<const TokenId> tokens,
                             int64_t page_tokens, int64_t last_page,
                             std::vector<PageHash>* hashes) {
  while (std::ssize(*hashes) <= last_page) {
    const PageHash parent = hashes->empty() ? root : hashes->back();
    hashes->push_back(
        hasher_.Page(parent, tokens.subspan(hashes->size() * page_tokens, page_tokens)));
  }
}

bool PrefixLookup::IsAnnounced(const PageHash& name, int32_t model,
                               const KvScratch* scratch) const {
  return index_->num_announced(name, model) > 0 ||
         (scratch != nullptr && scratch->announced.contains({name, model}));
}

PageId PrefixLookup::FindPage(const KvState& state, int32_t kv_class, int64_t page,
                              int32_t owner) const {
  const PageId exact = index_->Find(state.hashes[page], owner);
  if (exact != kNullPage || kv_class == kNoKvClass) return exact;
  return index_->Find(state.accepted[kv_class].hashes[page], owner);
}

// One pass over the pages: a prefix of i + 1 pages is a hit if every group has the pages that the
// next token needs, which end with page i.
template <bool kInClass>
PrefixLookup::Reach PrefixLookup::Look(const Query& query, int32_t kv_class, int64_t max_pages) {
  Reach reach;
  looked_up_.clear();
  KvState* const state = query.state;
  const PageLayout& layout = *query.layout;
  const KvScratch* const scratch = query.scratch;
  const int64_t page_tokens = layout.page_tokens();
  const int32_t num_groups = layout.num_groups();
  found_in_row_.assign(num_groups, 0);
  announced_in_row_.assign(num_groups, 0);

  bool possible = true;
  for (int64_t i = 0; i < max_pages && possible; ++i) {
    const PageHash& exact = Name(state, kNoKvClass, query.tokens, page_tokens, i);
    [[maybe_unused]] const PageHash* in_class = nullptr;
    bool announced = IsAnnounced(exact, state->model, scratch);
    if constexpr (kInClass) {
      in_class = &Name(state, kv_class, query.tokens, page_tokens, i);
      announced = announced || IsAnnounced(*in_class, state->model, scratch);
    }
    bool hit = true;
    bool announced_hit = true;
    for (int32_t g = 0; g < num_groups; ++g) {
      const GroupLayout& group = layout.groups[g];
      PageId page = index_->Find(exact, query.first_owner + g);
      if constexpr (kInClass) {
        if (page == kNullPage) page = index_->Find(*in_class, query.first_owner + g);
      }
      looked_up_.push_back(page);
      found_in_row_[g] = page != kNullPage ? found_in_row_[g] + 1 : 0;
      announced_in_row_[g] = page != kNullPage || announced ? announced_in_row_[g] + 1 : 0;
      const int64_t needed = i + 1 - FirstNeededPage(group, (i + 1) * page_tokens);
      hit = hit && found_in_row_[g] >= needed;
      announced_hit = announced_hit && announced_in_row_[g] >= needed;
      if (group.window == 0 && announced_in_row_[g] == 0) possible = false;
    }
    if (hit) reach.hit_pages = i + 1;
    if (announced_hit) reach.announced_pages = i + 1;
  }
  return reach;
}

KvMatch PrefixLookup::Find(const Query& query) {
  KvMatch match;
  found_.clear();
  if (!query.state->cacheable || query.tokens.empty()) return match;
  const int64_t page_tokens = query.layout->page_tokens();
  const int64_t max_pages = static_cast<int64_t>(query.tokens.size() - 1) / page_tokens;
  Reach best = Look<false>(query, kNoKvClass, max_pages);
  std::swap(found_, looked_up_);
  match.exact_tokens = best.hit_pages * page_tokens;

  const auto num_classes = static_cast<int32_t>(std::ssize(query.state->accepted));
  for (int32_t c = 0; c < num_classes && best.hit_pages < max_pages; ++c) {
    const Reach reach = Look<true>(query, c, max_pages);
    if (reach.hit_pages > best.hit_pages) {
      best.hit_pages = reach.hit_pages;
      match.kv_class = c;
      std::swap(found_, looked_up_);
    }
    if (reach.announced_pages > best.announced_pages) {
      best.announced_pages = reach.announced_pages;
      match.announced_class = c;
    }
  }
  match.hit_tokens = best.hit_pages * page_tokens;
  match.announced_tokens = best.announced_pages * page_tokens;
  return match;
}

}  // namespace tessera

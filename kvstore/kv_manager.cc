#include "kvstore/kv_manager.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "kernels/base/log.h"
#include "kvstore/page_op_ledger.h"
#include "kvstore/page_pool.h"
#include "kvstore/prefix_index.h"
#include "kvstore/prefix_lookup.h"

namespace tessera {
namespace {

class PagedKvManager final : public KvManager {
 public:
  PagedKvManager(int64_t num_slabs, int64_t slab_bytes, int32_t max_slabs_per_page)
      : slab_bytes_(slab_bytes),
        pool_(num_slabs, max_slabs_per_page,
              [this](PageId id, const Page& page) { index_.Erase(page.hash, page.owner, id); }),
        page_ops_(&pool_),
        lookup_(&index_) {}

  int32_t AddModel(const PageLayout& layout) override;
  KvMatch Match(KvState* state, absl::Span<const TokenId> tokens,
                const KvScratch* scratch) const override;
  void Foresee(KvState* state, absl::Span<const TokenId> tokens, const KvMatch& match,
               KvScratch* scratch) const override;
  void Admit(KvState* state, absl::Span<const TokenId> tokens) override;
  bool Grow(KvState* state, int64_t num_tokens) override;
  void Advance(KvState* state, absl::Span<const TokenId> tokens, int64_t num_tokens) override;
  void MarkApproximate(KvState* state, absl::Span<const TokenId> tokens, int64_t from_token,
                       int32_t kv_class) override;
  void Release(KvState* state) override;
  bool EnsureWritable(KvState* state, int64_t token_begin, int64_t token_end) override;
  std::vector<PageOp> TakePageOps(int32_t model) override { return page_ops_.Take(model); }
  void ReleasePageOps(absl::Span<const PageOp> ops) override { page_ops_.Release(ops); }
  int64_t SlabsFor(int32_t model, int64_t num_tokens, int64_t step_tokens) const override;
  bool Findable(int32_t model, int32_t group, const PageHash& hash) const override;
  PageHash AnnouncedName(const KvState& state, const KvMatch& match, int64_t page,
                         const KvScratch* scratch) const override;
  bool WatchAnnounced(int32_t model, const PageHash& hash) override {
    return index_.Watch(hash, model);
  }
  std::vector<std::pair<PageHash, int32_t>> TakeSettled() override { return index_.TakeSettled(); }
  const PageLayout& layout(int32_t model) const override { return models_[model].layout; }
  int64_t ExclusivePages(const KvState& state) const override;
  KvUsage usage() const override;
  KvStats stats() const override;
  bool AllocateAdapter(int32_t model, int64_t num_pages, int32_t adapter,
                       std::vector<PageId>* pages) override;
  void FreeAdapter(absl::Span<const PageId> pages) override;
  bool SetAsideForAdapters(int32_t model, int64_t num_pages) override;
  bool adapters_apart() const override { return set_aside_.has_value(); }
  int64_t AvailableAdapterPages(int32_t model) const override;
  int64_t FreePages(int32_t model) const override { return pool_.num_free(models_[model].order); }
  int64_t AvailablePages(int32_t model) const override {
    return pool_.num_available(models_[model].order);
  }
  std::optional<uint64_t> OldestIdleTicks() const override;
  void EvictOldest(int32_t model) override;
  uint64_t ticks() const override { return pool_.ticks(); }
  void DropCached() override { pool_.DropEvictable(); }
  void CheckInvariants(absl::Span<const KvState* const> live) const override;

 private:
  struct Model {
    PageLayout layout;
    int order = 0;            // log2 of slabs_per_page
    int32_t first_owner = 0;  // Page::owner of group 0
  };

  KvMatch FindPrefix(const Model& model, KvState* state, absl::Span<const TokenId> tokens,
                     const KvScratch* scratch) const;
  // The name under which the state announces and publishes a page; null: there is none. REQUIRES:
  // MakePublicName has made it.
  const PageHash* PublicName(const KvState& state, int64_t page) const;
  // Makes that name. REQUIRES: the page is before EndOfPublic.
  const PageHash& MakePublicName(KvState* state, absl::Span<const TokenId> tokens,
                                 int64_t page) const;
  // The first page before `end` that the state keeps private; `end` if it keeps none private.
  int64_t EndOfPublic(const KvState& state, int64_t end) const;
  void Withdraw(const KvState& state, int64_t begin, int64_t end);
  bool HasName(const KvState& state, int64_t page, const PageHash& hash) const;
  void CheckState(const KvState& state) const;

  const int64_t slab_bytes_;
  std::vector<Model> models_;
  int32_t num_owners_ = 0;
  PrefixIndex index_;
  PagePool pool_;
  PageOpLedger page_ops_;
  std::optional<std::vector<PageId>> set_aside_;  // adapters' pages of a fixed split that are free
  // Const lookups change these: memory that the next lookup uses again, and counts.
  mutable PrefixLookup lookup_;
  mutable KvStats stats_;  // without evicted_pages, which the pool counts
};

int32_t PagedKvManager::AddModel(const PageLayout& layout) {
  CHECK_EQ(layout.slab_bytes, slab_bytes_);
  CHECK(std::has_single_bit(static_cast<uint32_t>(layout.slabs_per_page))) << layout.slabs_per_page;
  CHECK(!layout.groups.empty());
  Model model;
  model.layout = layout;
  model.order = std::countr_zero(static_cast<uint32_t>(layout.slabs_per_page));
  model.first_owner = num_owners_;
  CHECK_LT(model.order, pool_.num_orders());
  for (const GroupLayout& group : layout.groups) {
    CHECK_EQ(group.page_tokens, layout.page_tokens());
    CHECK_GT(group.page_tokens, 0);
    CHECK_GE(group.window, 0);
    CHECK_LE(group.page_bytes(), layout.page_bytes());
  }
  num_owners_ += layout.num_groups();
  models_.push_back(std::move(model));
  page_ops_.AddModel();
  return static_cast<int32_t>(models_.size()) - 1;
}

KvMatch PagedKvManager::FindPrefix(const Model& model, KvState* state,
                                   absl::Span<const TokenId> tokens,
                                   const KvScratch* scratch) const {
  KvMatch match = lookup_.Find({&model.layout, model.first_owner, state, tokens, scratch});
  const int64_t hit_pages = match.hit_tokens / model.layout.page_tokens();
  const int32_t num_groups = model.layout.num_groups();
  for (int32_t g = 0; g < num_groups; ++g) {
    int64_t i = FirstNeededPage(model.layout.groups[g], match.hit_tokens);
    for (; i < hit_pages; ++i) {
      const PageId page = lookup_.found(i, g, num_groups);
      const bool taken = scratch != nullptr && scratch->taken.contains(page);
      match.evictable_pages += pool_.page(page).refs == 0 && !taken ? 1 : 0;
    }
  }
  return match;
}

KvMatch PagedKvManager::Match(KvState* state, absl::Span<const TokenId> tokens,
                              const KvScratch* scratch) const {
  CHECK(!state->admitted);
  ++stats_.num_matches;
  return FindPrefix(models_[state->model], state, tokens, scratch);
}

void PagedKvManager::Foresee(KvState* state, absl::Span<const TokenId> tokens, const KvMatch& match,
                             KvScratch* scratch) const {
  if (!state->cacheable) return;
  const Model& model = models_[state->model];
  const int64_t page_tokens = model.layout.page_tokens();
  const int64_t hit_pages = match.hit_tokens / page_tokens;
  // A hit without evictable pages takes nothing: no page has to be looked up again.
  const int64_t num_looked_up = match.evictable_pages > 0 ? hit_pages : 0;
  for (int32_t g = 0; g < model.layout.num_groups(); ++g) {
    int64_t i = FirstNeededPage(model.layout.groups[g], match.hit_tokens);
    for (; i < num_looked_up; ++i) {
      const PageId page = lookup_.FindPage(*state, match.kv_class, i, model.first_owner + g);
      CHECK_NE(page, kNullPage) << "page " << i << " of the hit is gone";
      if (pool_.page(page).refs == 0) scratch->taken.insert(page);
    }
  }
  const int64_t num_whole = static_cast<int64_t>(tokens.size()) / page_tokens;
  for (int64_t i = hit_pages; i < num_whole; ++i) {
    // If the hit needs a class, no page after the hit is exact.
    const PageHash& name = lookup_.Name(state, match.kv_class, tokens, page_tokens, i);
    scratch->announced.insert({name, state->model});
  }
}

void PagedKvManager::Admit(KvState* state, absl::Span<const TokenId> tokens) {
  CHECK(!state->admitted);
  const Model& model = models_[state->model];
  const int64_t page_tokens = model.layout.page_tokens();
  const int32_t num_groups = model.layout.num_groups();
  const KvMatch match = FindPrefix(model, state, tokens, nullptr);
  const int64_t hit_tokens = match.hit_tokens;
  const int64_t hit_pages = hit_tokens / page_tokens;

  state->admitted = true;
  state->num_tokens = hit_tokens;
  state->kv_class = match.kv_class;
  state->exact_tokens = match.kv_class == kNoKvClass ? kAllExact : match.exact_tokens;
  state->groups.resize(num_groups);
  for (int32_t g = 0; g < num_groups; ++g) {
    KvGroupState& table = state->groups[g];
    const int64_t first = FirstNeededPage(model.layout.groups[g], hit_tokens);
    table.first_live_page = static_cast<int32_t>(first);
    table.pages.assign(hit_pages, kNullPage);
    for (int64_t i = first; i < hit_pages; ++i) {
      table.pages[i] = lookup_.found(i, g, num_groups);
      pool_.Ref(table.pages[i]);
    }
  }
  if (!state->cacheable) return;

  stats_.hit_tokens += hit_tokens;
  stats_.lookup_tokens += static_cast<int64_t>(tokens.size());
  const int64_t num_whole = static_cast<int64_t>(tokens.size()) / page_tokens;
  for (int64_t i = hit_pages; i < num_whole; ++i) {
    index_.Announce(MakePublicName(state, tokens, i), state->model);
  }
  state->num_announced_pages = num_whole - hit_pages;
}

std::optional<uint64_t> PagedKvManager::OldestIdleTicks() const {
  if (pool_.evictable_slabs() == 0) return std::nullopt;
  return pool_.oldest_idle_ticks();
}

void PagedKvManager::EvictOldest(int32_t model) {
  CHECK(pool_.EvictForOrder(models_[model].order));
}

int64_t PagedKvManager::AvailableAdapterPages(int32_t model) const {
  if (set_aside_.has_value()) return static_cast<int64_t>(set_aside_->size());
  return AvailablePages(model);
}

bool PagedKvManager::AllocateAdapter(int32_t model, int64_t num_pages, int32_t adapter,
                                     std::vector<PageId>* pages) {
  if (AvailableAdapterPages(model) < num_pages) return false;
  if (set_aside_.has_value()) {
    pages->assign(set_aside_->end() - num_pages, set_aside_->end());
    set_aside_->resize(set_aside_->size() - static_cast<size_t>(num_pages));
    return true;
  }
  for (int64_t i = 0; i < num_pages; ++i) {
    pages->push_back(pool_.Allocate(models_[model].order, PageKind::kAdapter, adapter));
    CHECK_NE(pages->back(), kNullPage);
  }
  return true;
}

void PagedKvManager::FreeAdapter(absl::Span<const PageId> pages) {
  if (set_aside_.has_value()) {
    set_aside_->insert(set_aside_->end(), pages.begin(), pages.end());
    return;
  }
  for (const PageId page : pages) pool_.Unref(page);
}

bool PagedKvManager::SetAsideForAdapters(int32_t model, int64_t num_pages) {
  const int order = models_[model].order;
  if (pool_.num_available(order) < num_pages) return false;
  set_aside_.emplace();
  for (int64_t i = 0; i < num_pages; ++i) {
    set_aside_->push_back(pool_.Allocate(order, PageKind::kAdapter, /*owner=*/-1));
  }
  return true;
}

bool PagedKvManager::Grow(KvState* state, int64_t num_tokens) {
  CHECK(state->admitted);
  const Model& model = models_[state->model];
  const int64_t num_pages = CeilDiv<int64_t>(num_tokens, model.layout.page_tokens());
  const int64_t num_more = num_pages - static_cast<int64_t>(state->groups[0].pages.size());
  if (num_more <= 0) return true;
  const int64_t num_needed = num_more * model.layout.num_groups();
  if (pool_.num_available(model.order) < num_needed) return false;
  for (int64_t i = 0; i < num_more; ++i) {
    for (int32_t g = 0; g < model.layout.num_groups(); ++g) {
      const PageId page = pool_.Allocate(model.order, PageKind::kKv, model.first_owner + g);
      CHECK_NE(page, kNullPage);
      state->groups[g].pages.push_back(page);
    }
  }
  return true;
}

void PagedKvManager::Advance(KvState* state, absl::Span<const TokenId> tokens, int64_t num_tokens) {
  CHECK(state->admitted);
  CHECK_GE(num_tokens, state->num_tokens);
  CHECK_LE(num_tokens, static_cast<int64_t>(tokens.size()));
  const Model& model = models_[state->model];
  const int64_t page_tokens = model.layout.page_tokens();
  const int64_t first_written = state->num_tokens / page_tokens;
  const int64_t first_partial = num_tokens / page_tokens;
  const int64_t end_public = first_written < first_partial ? EndOfPublic(*state, first_partial) : 0;
  const int64_t end_written = CeilDiv(num_tokens, page_tokens);
  CHECK_LE(end_written, static_cast<int64_t>(state->groups[0].pages.size()));

  const int32_t num_groups = model.layout.num_groups();
  for (int64_t i = first_written; i < end_written; ++i) {
    const PageHash* const name = i < end_public ? &MakePublicName(state, tokens, i) : nullptr;
    for (int32_t g = 0; g < num_groups; ++g) {
      const PageId page = state->groups[g].pages[i];
      CHECK(!pool_.IsShared(page)) << "page " << page << " was written while shared";
      if (name == nullptr) continue;
      const bool is_first = index_.Insert(*name, model.first_owner + g, page);
      if (is_first) pool_.Publish(page, *name);
    }
    if (i >= first_partial || state->num_announced_pages == 0) continue;
    Withdraw(*state, i, i + 1);
    --state->num_announced_pages;
  }
  state->num_tokens = num_tokens;

  for (int32_t g = 0; g < num_groups; ++g) {
    KvGroupState& table = state->groups[g];
    const int64_t first_needed = FirstNeededPage(model.layout.groups[g], num_tokens);
    for (; table.first_live_page < first_needed; ++table.first_live_page) {
      page_ops_.GiveBack(state->model,
                         std::exchange(table.pages[table.first_live_page], kNullPage));
    }
  }
}

const PageHash* PagedKvManager::PublicName(const KvState& state, int64_t page) const {
  if (state.IsExactPage(page, models_[state.model].layout.page_tokens())) {
    return &state.hashes[page];
  }
  return state.kv_class == kNoKvClass ? nullptr : &state.accepted[state.kv_class].hashes[page];
}

const PageHash& PagedKvManager::MakePublicName(KvState* state, absl::Span<const TokenId> tokens,
                                               int64_t page) const {
  const int64_t page_tokens = models_[state->model].layout.page_tokens();
  const bool is_exact = state->IsExactPage(page, page_tokens);
  CHECK(is_exact || state->kv_class != kNoKvClass) << "page " << page << " has no public name";
  return lookup_.Name(state, is_exact ? kNoKvClass : state->kv_class, tokens, page_tokens, page);
}

int64_t PagedKvManager::EndOfPublic(const KvState& state, int64_t end) const {
  if (!state.cacheable) return 0;
  if (state.exact_tokens == kAllExact || state.kv_class != kNoKvClass) return end;
  return std::min(end, state.exact_tokens / models_[state.model].layout.page_tokens());
}

void PagedKvManager::Withdraw(const KvState& state, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) index_.Withdraw(*PublicName(state, i), state.model);
}

void PagedKvManager::MarkApproximate(KvState* state, absl::Span<const TokenId> tokens,
                                     int64_t from_token, int32_t kv_class) {
  CHECK(state->admitted);
  CHECK_GE(from_token, 0);
  CHECK(kv_class >= kNoKvClass && kv_class < std::ssize(state->accepted)) << kv_class;
  CHECK(state->exact_tokens == kAllExact || state->kv_class == kv_class) << state->kv_class;
  const int64_t page_tokens = models_[state->model].layout.page_tokens();
  const int64_t exact_tokens = std::min(state->exact_tokens, from_token);
  const int64_t first_announced = state->num_tokens / page_tokens;
  const int64_t end_announced = first_announced + state->num_announced_pages;
  // Announced pages that cease to be exact.
  const int64_t first = std::max(first_announced, exact_tokens / page_tokens);
  const int64_t end = std::min(end_announced, state->exact_tokens / page_tokens);

  Withdraw(*state, first, end);
  state->exact_tokens = exact_tokens;
  state->kv_class = kv_class;
  if (kv_class == kNoKvClass) {
    state->num_announced_pages = std::min(end_announced, first) - first_announced;
    return;
  }
  for (int64_t i = first; i < end; ++i) {
    index_.Announce(MakePublicName(state, tokens, i), state->model);
  }
}

PageHash PagedKvManager::AnnouncedName(const KvState& state, const KvMatch& match, int64_t page,
                                       const KvScratch* scratch) const {
  const PageHash& exact = state.hashes.at(page);
  if (match.announced_class == kNoKvClass) return exact;
  if (lookup_.IsAnnounced(exact, state.model, scratch)) return exact;
  return state.accepted[match.announced_class].hashes.at(page);
}

void PagedKvManager::Release(KvState* state) {
  if (!state->admitted) return;
  const Model& model = models_[state->model];
  const int64_t num_pages = static_cast<int64_t>(state->groups[0].pages.size());
  for (int64_t i = num_pages - 1; i >= 0; --i) {
    for (int32_t g = model.layout.num_groups() - 1; g >= 0; --g) {
      const PageId page = state->groups[g].pages[i];
      if (page != kNullPage) page_ops_.GiveBack(state->model, page);
    }
  }
  const int64_t first_announced = state->num_tokens / model.layout.page_tokens();
  Withdraw(*state, first_announced, first_announced + state->num_announced_pages);
  state->groups.clear();
  state->num_announced_pages = 0;
  state->num_tokens = 0;
  state->exact_tokens = kAllExact;
  state->kv_class = kNoKvClass;
  state->admitted = false;
}

bool PagedKvManager::EnsureWritable(KvState* state, int64_t token_begin, int64_t token_end) {
  CHECK(state->admitted);
  CHECK(0 <= token_begin && token_begin <= token_end && token_end <= state->num_tokens)
      << token_begin << " " << token_end << " " << state->num_tokens;
  if (token_begin == token_end) return true;
  const Model& model = models_[state->model];
  const int64_t page_tokens = model.layout.page_tokens();
  const int64_t first = token_begin / page_tokens;
  const int64_t end = CeilDiv(token_end, page_tokens);
  const int32_t num_groups = model.layout.num_groups();

  int64_t num_shared = 0;
  for (const KvGroupState& table : state->groups) {
    for (int64_t i = std::max<int64_t>(first, table.first_live_page); i < end; ++i) {
      num_shared += pool_.IsShared(table.pages[i]) ? 1 : 0;
    }
  }
  if (pool_.num_available(model.order) < num_shared) return false;

  for (int32_t g = 0; g < num_groups; ++g) {
    KvGroupState& table = state->groups[g];
    for (int64_t i = std::max<int64_t>(first, table.first_live_page); i < end; ++i) {
      const PageId shared = table.pages[i];
      if (!pool_.IsShared(shared)) continue;
      PageOp copy;
      copy.kind = PageOpKind::kCopy;
      copy.group = g;
      copy.src = shared;  // the op takes over this sequence's reference
      copy.dst = pool_.Allocate(model.order, PageKind::kKv, model.first_owner + g);
      CHECK_NE(copy.dst, kNullPage);
      copy.num_tokens =
          static_cast<int32_t>(std::min(page_tokens, state->num_tokens - i * page_tokens));
      copy.layer_end = model.layout.groups[g].num_layers;
      page_ops_.Queue(state->model, copy);
      table.pages[i] = copy.dst;
    }
  }
  return true;
}

int64_t PagedKvManager::SlabsFor(int32_t model, int64_t num_tokens, int64_t step_tokens) const {
  const PageLayout& layout = models_[model].layout;
  const int64_t page_tokens = layout.page_tokens();
  const int64_t all_pages = CeilDiv(num_tokens, page_tokens);
  int64_t num_pages = 0;
  for (const GroupLayout& group : layout.groups) {
    // A step's first token sees window - 1 tokens before it; the run of both may start and end
    // inside a page.
    const int64_t span = group.window - 1 + std::max<int64_t>(1, step_tokens);
    const int64_t live_pages = (span + page_tokens - 2) / page_tokens + 1;
    num_pages += group.window == 0 ? all_pages : std::min(all_pages, live_pages);
  }
  return num_pages << models_[model].order;
}

bool PagedKvManager::Findable(int32_t model, int32_t group, const PageHash& hash) const {
  return index_.Find(hash, models_[model].first_owner + group) != kNullPage;
}

int64_t PagedKvManager::ExclusivePages(const KvState& state) const {
  int64_t num_pages = 0;
  for (const KvGroupState& table : state.groups) {
    for (size_t i = table.first_live_page; i < table.pages.size(); ++i) {
      num_pages += pool_.page(table.pages[i]).refs == 1 ? 1 : 0;
    }
  }
  return num_pages;
}

KvUsage PagedKvManager::usage() const {
  KvUsage usage;
  usage.total_slabs = pool_.num_slabs();
  usage.free_slabs = pool_.free_slabs();
  usage.cached_slabs = pool_.evictable_slabs();
  usage.kv_slabs = pool_.referenced_slabs(PageKind::kKv);
  usage.adapter_slabs = pool_.referenced_slabs(PageKind::kAdapter);
  usage.staging_slabs = pool_.referenced_slabs(PageKind::kStaging);
  return usage;
}

KvStats PagedKvManager::stats() const {
  KvStats stats = stats_;
  stats.evicted_pages = pool_.num_evicted();
  return stats;
}

void PagedKvManager::CheckInvariants(absl::Span<const KvState* const> live) const {
  pool_.CheckInvariants();
  CHECK_EQ(index_.num_pages(), pool_.num_published());
  absl::flat_hash_map<PageId, int32_t> refs;
  absl::flat_hash_map<std::pair<PageHash, int32_t>, int32_t> announced;
  for (const KvState* state : live) {
    CheckState(*state);
    for (const KvGroupState& table : state->groups) {
      for (const PageId page : table.pages) refs[page] += page != kNullPage ? 1 : 0;
    }
    const int64_t first_announced = state->num_tokens / models_[state->model].layout.page_tokens();
    for (int64_t i = 0; i < state->num_announced_pages; ++i) {
      const PageHash* const name = PublicName(*state, first_announced + i);
      CHECK(name != nullptr) << "page " << first_announced + i;
      ++announced[{*name, state->model}];
    }
  }
  page_ops_.CountRefs(&refs);
  refs.erase(kNullPage);
  int64_t num_referenced = 0;
  for (const auto& [id, count] : refs) {
    CHECK_EQ(pool_.page(id).refs, count) << "page " << id;
    num_referenced += int64_t{1} << pool_.page(id).order;
  }
  CHECK_EQ(num_referenced, pool_.referenced_slabs(PageKind::kKv));
  CHECK_EQ(static_cast<int64_t>(announced.size()), index_.num_announced_names());
  for (const auto& [key, count] : announced) {
    CHECK_EQ(index_.num_announced(key.first, key.second), count);
  }
}

// After its exact prefix, a sequence may hold exact pages and pages of its class.
bool PagedKvManager::HasName(const KvState& state, int64_t page, const PageHash& hash) const {
  const auto has = [&](const std::vector<PageHash>& hashes) {
    return page < std::ssize(hashes) && hashes[page] == hash;
  };
  if (has(state.hashes)) return true;
  return !state.IsExactPage(page, models_[state.model].layout.page_tokens()) &&
         state.kv_class != kNoKvClass && has(state.accepted[state.kv_class].hashes);
}

void PagedKvManager::CheckState(const KvState& state) const {
  CHECK(state.admitted);
  CHECK(state.kv_class >= kNoKvClass && state.kv_class < std::ssize(state.accepted));
  CHECK(state.exact_tokens != kAllExact || state.kv_class == kNoKvClass);
  const Model& model = models_[state.model];
  const int64_t page_tokens = model.layout.page_tokens();
  CHECK_EQ(static_cast<int32_t>(state.groups.size()), model.layout.num_groups());
  const auto num_pages = static_cast<int64_t>(state.groups[0].pages.size());
  CHECK_LE(state.num_tokens, num_pages * page_tokens);
  int32_t owner = model.first_owner;
  for (const KvGroupState& table : state.groups) {
    const GroupLayout& group = model.layout.groups[owner - model.first_owner];
    CHECK_EQ(static_cast<int64_t>(table.pages.size()), num_pages);
    CHECK_EQ(table.first_live_page, FirstNeededPage(group, state.num_tokens));
    for (int64_t i = 0; i < num_pages; ++i) {
      const PageId id = table.pages[i];
      CHECK_EQ(id != kNullPage, i >= table.first_live_page);
      if (id == kNullPage) continue;
      const Page& page = pool_.page(id);
      CHECK(page.kind == PageKind::kKv && page.order == model.order) << "page " << id;
      CHECK_EQ(page.owner, owner) << "page " << id;
      const bool is_whole = i < state.num_tokens / page_tokens;
      CHECK(is_whole || !pool_.IsShared(id)) << "page " << id << " may be written while shared";
      if (!page.published) continue;
      CHECK(HasName(state, i, page.hash)) << "page " << id;
      CHECK_EQ(index_.Find(page.hash, page.owner), id);
    }
    ++owner;
  }
}

}  // namespace

int64_t KvManager::PagesToGrow(const KvState& state, int64_t num_tokens) const {
  const PageLayout& its_layout = layout(state.model);
  const int64_t num_pages = CeilDiv<int64_t>(num_tokens, its_layout.page_tokens());
  const int64_t num_held =
      state.groups.empty() ? 0 : static_cast<int64_t>(state.groups[0].pages.size());
  return std::max<int64_t>(0, num_pages - num_held) * its_layout.num_groups();
}

std::unique_ptr<KvManager> NewKvManager(int64_t num_slabs, int64_t slab_bytes,
                                        int32_t max_slabs_per_page) {
  return std::make_unique<PagedKvManager>(num_slabs, slab_bytes, max_slabs_per_page);
}

}  // namespace tessera

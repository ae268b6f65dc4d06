#include "tests/kvstore/naive_kv.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "kernels/base/log.h"

namespace tessera::testing {
namespace {

constexpr int64_t kCellsPerSlab = 8;
constexpr int64_t kMaxGroups = 8;
constexpr int64_t kScribble = -1;
constexpr int64_t kPrivateContent = -2;  // approximate, in no class

}  // namespace

NaiveKv::NaiveKv(KvManager* kv, int64_t num_slabs, int32_t max_slabs_per_page, bool exact_lru)
    : kv_(kv),
      num_slabs_(num_slabs),
      max_slabs_per_page_(max_slabs_per_page),
      exact_lru_(exact_lru),
      memory_(num_slabs * kCellsPerSlab) {}

int32_t NaiveKv::Extend(int32_t parent, TokenId token) {
  const auto [it, is_new] = prefix_of_.try_emplace({parent, token}, 0);
  if (is_new) {
    it->second = static_cast<int32_t>(parents_.size());
    parents_.push_back({parent, token});
  }
  return it->second;
}

int32_t NaiveKv::Root(int32_t model, int32_t salt) { return Extend(-1 - model, salt); }

// No token is negative.
int32_t NaiveKv::ClassRoot(int32_t exact_root, int32_t kv_class) {
  return Extend(exact_root, -1 - kv_class);
}

NaiveKv::Key NaiveKv::KeyOf(const NaiveSequence& s, int32_t group, int64_t page,
                            int32_t kv_class) const {
  const auto& prefixes = kv_class == kNoKvClass ? s.prefixes : s.class_prefixes[kv_class];
  return {s.state.model, group, prefixes[(page + 1) * layout(s).page_tokens() - 1]};
}

bool NaiveKv::IsExact(const NaiveSequence& s, int64_t page) const {
  const int64_t page_tokens = layout(s).page_tokens();
  for (int64_t p = page * page_tokens; p < (page + 1) * page_tokens; ++p) {
    if (p >= s.exact_tokens) return false;
  }
  return true;
}

std::optional<int32_t> NaiveKv::PublicClass(const NaiveSequence& s, int64_t page) const {
  if (!s.state.cacheable) return std::nullopt;
  if (IsExact(s, page)) return kNoKvClass;
  if (s.kv_class == kNoKvClass) return std::nullopt;
  return s.kv_class;
}

NaiveKv::Entry* NaiveKv::FindPage(const NaiveSequence& s, int32_t group, int64_t page,
                                  int32_t kv_class) {
  Entry* const exact = Find(KeyOf(s, group, page, kNoKvClass));
  if (exact != nullptr || kv_class == kNoKvClass) return exact;
  return Find(KeyOf(s, group, page, kv_class));
}

NaiveKv::Entry* NaiveKv::Find(const Key& key) {
  const auto it = findable_.find(key);
  return it == findable_.end() ? nullptr : &it->second;
}

int64_t NaiveKv::FirstNeeded(const GroupLayout& group, int64_t num_tokens) {
  if (group.window == 0) return 0;
  int64_t position = 0;
  while (position < num_tokens && position <= num_tokens - group.window) ++position;
  return position / group.page_tokens;
}

NaiveKv::Announced NaiveKv::AllAnnounced() const {
  Announced announced;
  for (const NaiveSequence* s : live_) {
    for (int64_t i = s->state.num_tokens / layout(*s).page_tokens(); i < s->announced_end; ++i) {
      const std::optional<int32_t> kv_class = PublicClass(*s, i);
      if (!kv_class.has_value()) continue;
      announced.insert({s->state.model, std::get<2>(KeyOf(*s, 0, i, *kv_class))});
    }
  }
  return announced;
}

// Whether every group has the pages that the token after the prefix needs.
bool NaiveKv::Has(const NaiveSequence& s, int64_t num_pages, int32_t kv_class,
                  const Announced& announced) {
  const auto is_announced = [&](int32_t group, int64_t page, int32_t in_class) {
    return announced.contains({s.state.model, std::get<2>(KeyOf(s, group, page, in_class))});
  };
  for (int32_t g = 0; g < layout(s).num_groups(); ++g) {
    const int64_t first = FirstNeeded(layout(s).groups[g], num_pages * layout(s).page_tokens());
    for (int64_t i = first; i < num_pages; ++i) {
      if (FindPage(s, g, i, kv_class) != nullptr) continue;
      if (!is_announced(g, i, kNoKvClass) && !is_announced(g, i, kv_class)) return false;
    }
  }
  return true;
}

int64_t NaiveKv::Longest(const NaiveSequence& s, int32_t kv_class, const Announced& announced) {
  int64_t pages = static_cast<int64_t>(s.tokens.size() - 1) / layout(s).page_tokens();
  while (!Has(s, pages, kv_class, announced)) --pages;
  return pages;
}

NaiveKv::Hits NaiveKv::FindHits(const NaiveSequence& s) {
  Hits hits;
  if (!s.state.cacheable || s.tokens.empty()) return hits;
  const Announced announced = AllAnnounced();
  hits.exact_pages = hits.hit_pages = Longest(s, kNoKvClass, {});
  hits.announced_pages = Longest(s, kNoKvClass, announced);
  for (int32_t c = 0; c < std::ssize(s.class_prefixes); ++c) {
    const int64_t hit_pages = Longest(s, c, {});
    const int64_t announced_pages = Longest(s, c, announced);
    if (hit_pages > hits.hit_pages) hits.kv_class = c;
    if (announced_pages > hits.announced_pages) hits.announced_class = c;
    hits.hit_pages = std::max(hits.hit_pages, hit_pages);
    hits.announced_pages = std::max(hits.announced_pages, announced_pages);
  }
  for (int32_t g = 0; g < layout(s).num_groups(); ++g) {
    const int64_t first =
        FirstNeeded(layout(s).groups[g], hits.hit_pages * layout(s).page_tokens());
    for (int64_t i = first; i < hits.hit_pages; ++i) {
      hits.num_evictable += FindPage(s, g, i, hits.kv_class)->refs == 0 ? 1 : 0;
    }
  }
  return hits;
}

int64_t NaiveKv::NumAvailable(int32_t slabs_per_page) const {
  std::vector<bool> held(num_slabs_, false);
  for (const auto& [page, slabs] : taken_) {
    for (int32_t i = 0; i < slabs; ++i) held[page + i] = true;
  }
  int64_t count = 0;
  const int64_t end = num_slabs_ / max_slabs_per_page_ * max_slabs_per_page_;
  for (int64_t slab = max_slabs_per_page_; slab < end; slab += slabs_per_page) {
    const auto begin = held.begin() + slab;
    count += std::none_of(begin, begin + slabs_per_page, [](bool is_held) { return is_held; });
  }
  return count;
}

KvMatch NaiveKv::Match(NaiveSequence* s) {
  ++num_verbs_;
  const Hits hits = FindHits(*s);
  const KvMatch match = kv_->Match(&s->state, s->tokens);
  CHECK_EQ(match.hit_tokens, hits.hit_pages * layout(*s).page_tokens());
  CHECK_EQ(match.exact_tokens, hits.exact_pages * layout(*s).page_tokens());
  CHECK_EQ(match.announced_tokens, hits.announced_pages * layout(*s).page_tokens());
  CHECK_EQ(match.kv_class, hits.kv_class);
  CHECK_EQ(match.announced_class, hits.announced_class);
  CHECK_EQ(match.evictable_pages, hits.num_evictable);
  CheckInvariants();
  return match;
}

void NaiveKv::Admit(NaiveSequence* s) {
  ++num_verbs_;
  const int64_t page_tokens = layout(*s).page_tokens();
  const Hits hits = FindHits(*s);
  const int64_t hit_tokens = hits.hit_pages * page_tokens;
  const int64_t evicted_before = kv_->stats().evicted_pages;

  kv_->Admit(&s->state, s->tokens);
  CHECK(s->state.admitted);
  CHECK_EQ(s->state.num_tokens, hit_tokens);
  CHECK_EQ(kv_->stats().evicted_pages, evicted_before);
  live_.push_back(s);
  s->kv_class = hits.kv_class;
  if (s->kv_class != kNoKvClass) {
    s->exact_tokens = hits.exact_pages * page_tokens;
    ++num_class_hits_;
    num_mixed_hits_ += s->exact_tokens > 0 ? 1 : 0;
  }
  for (int32_t g = 0; g < layout(*s).num_groups(); ++g) {
    const KvGroupState& table = s->state.groups[g];
    CHECK_EQ(static_cast<int64_t>(table.pages.size()), hits.hit_pages);
    const int64_t first = FirstNeeded(layout(*s).groups[g], hit_tokens);
    CHECK_EQ(table.first_live_page, first);
    for (int64_t i = 0; i < hits.hit_pages; ++i) {
      if (i < first) {
        CHECK_EQ(table.pages[i], kNullPage);
        continue;
      }
      Entry* entry = FindPage(*s, g, i, hits.kv_class);
      CHECK_EQ(table.pages[i], entry->page);
      ++entry->refs;
      taken_[table.pages[i]] = layout(*s).slabs_per_page;
    }
  }
  s->announced_end = s->state.cacheable ? static_cast<int64_t>(s->tokens.size()) / page_tokens : 0;
  CheckSequence(*s, 0, hit_tokens);
  CheckInvariants();
}

bool NaiveKv::Grow(NaiveSequence* s, int64_t num_tokens) {
  ++num_verbs_;
  const int64_t page_tokens = layout(*s).page_tokens();
  const size_t old_pages = s->state.groups[0].pages.size();
  const int64_t num_pages = (num_tokens + page_tokens - 1) / page_tokens;
  const int64_t num_more = std::max<int64_t>(0, num_pages - static_cast<int64_t>(old_pages));
  const bool expected =
      NumAvailable(layout(*s).slabs_per_page) >= num_more * layout(*s).num_groups();
  const int64_t evicted_before = kv_->stats().evicted_pages;
  CHECK_EQ(kv_->Grow(&s->state, num_tokens), expected);
  const size_t new_pages = old_pages + (expected ? num_more : 0);
  for (const KvGroupState& table : s->state.groups) CHECK_EQ(table.pages.size(), new_pages);
  AdoptNewPages(s, old_pages, evicted_before);
  CheckInvariants();
  return expected;
}

void NaiveKv::AdoptNewPages(NaiveSequence* s, size_t first_page, int64_t evicted_before) {
  const int32_t slabs = layout(*s).slabs_per_page;
  const int64_t num_free = kv_->usage().total_slabs - HeldSlabs() - CachedSlabs();
  int64_t num_new = 0;
  for (const KvGroupState& table : s->state.groups) {
    for (size_t i = first_page; i < table.pages.size(); ++i) {
      Take(table.pages[i], slabs);
      ++num_new;
    }
  }
  CheckEvicted(kv_->stats().evicted_pages - evicted_before,
               std::max<int64_t>(0, num_new - num_free));
}

// REQUIRES: the page was just handed out.
void NaiveKv::Take(PageId page, int32_t slabs) {
  CHECK(page >= max_slabs_per_page_ && page + slabs <= num_slabs_) << page;
  CHECK_EQ(page % slabs, 0);
  const auto above = taken_.lower_bound(page);
  CHECK(above == taken_.end() || above->first >= page + slabs) << page << " is held";
  CHECK(above == taken_.begin() || std::prev(above)->first + std::prev(above)->second <= page);
  taken_[page] = slabs;
}

// Forgets the pages that the store evicted. Checks their number and that nobody holds them; with
// pages of one size, also that they are the least recently released.
void NaiveKv::CheckEvicted(int64_t num_evicted, int64_t num_expected) {
  if (exact_lru_) CHECK_EQ(num_evicted, num_expected);
  if (num_evicted == 0) return;
  int64_t youngest_gone = 0;
  int64_t oldest_kept = now_ + 1;
  for (auto it = findable_.begin(); it != findable_.end();) {
    const Entry& entry = it->second;
    const auto& [model, group, prefix] = it->first;
    const bool kept = kv_->Findable(model, group, entry.hash);
    CHECK(kept || entry.refs == 0) << "a page in use was evicted";
    if (kept) {
      if (entry.refs == 0) oldest_kept = std::min(oldest_kept, entry.released);
      ++it;
      continue;
    }
    youngest_gone = std::max(youngest_gone, entry.released);
    --num_evicted;
    key_of_page_.erase(entry.page);
    it = findable_.erase(it);
  }
  CHECK_EQ(num_evicted, 0);
  if (exact_lru_) CHECK_LT(youngest_gone, oldest_kept);
}

void NaiveKv::Advance(NaiveSequence* s, int64_t num_written, int64_t num_tokens) {
  ++num_verbs_;
  const PageLayout& shape = layout(*s);
  const int64_t page_tokens = shape.page_tokens();
  for (int32_t g = 0; g < shape.num_groups(); ++g) {
    for (int64_t p = s->state.num_tokens; p < num_written; ++p) {
      const PageId page = s->state.groups[g].pages[p / page_tokens];
      CHECK(key_of_page_.count(page) == 0) << "a findable page is written";
      Cell(shape, page, p % page_tokens) = Content(*s, g, p);
    }
  }
  const int64_t old_tokens = s->state.num_tokens;
  const std::vector<KvGroupState> before = s->state.groups;
  kv_->Advance(&s->state, s->tokens, num_tokens);
  CHECK_EQ(s->state.num_tokens, num_tokens);

  for (int64_t i = old_tokens / page_tokens; i < num_tokens / page_tokens; ++i) {
    for (int32_t g = 0; g < shape.num_groups(); ++g) {
      const std::optional<int32_t> kv_class = PublicClass(*s, i);
      if (!kv_class.has_value()) continue;
      const Key key = KeyOf(*s, g, i, *kv_class);
      const PageId page = before[g].pages[i];
      Entry entry{page, {}, 1, 0, -1};
      if (*kv_class == kNoKvClass) {
        entry.hash = s->state.hashes[i];
      } else {
        entry.hash = s->state.accepted[*kv_class].hashes[i];
        entry.exact_prefix = std::get<2>(KeyOf(*s, g, i, kNoKvClass));
      }
      const bool is_first = findable_.try_emplace(key, entry).second;
      if (is_first) key_of_page_[page] = key;
    }
  }
  for (int32_t g = 0; g < shape.num_groups(); ++g) {
    const KvGroupState& table = s->state.groups[g];
    const int64_t first = FirstNeeded(shape.groups[g], num_tokens);
    CHECK_EQ(table.first_live_page, first);
    for (int64_t i = 0; i < static_cast<int64_t>(table.pages.size()); ++i) {
      CHECK_EQ(table.pages[i], i < first ? kNullPage : before[g].pages[i]);
      if (i < first && before[g].pages[i] != kNullPage) GiveBack(before[g].pages[i]);
    }
  }
  CheckInvariants();
}

void NaiveKv::MarkApproximate(NaiveSequence* s, int64_t from_token, int32_t kv_class) {
  ++num_verbs_;
  kv_->MarkApproximate(&s->state, s->tokens, from_token, kv_class);
  s->exact_tokens = std::min(s->exact_tokens, from_token);
  s->kv_class = kv_class;
  CheckInvariants();
}

void NaiveKv::Release(NaiveSequence* s) {
  ++num_verbs_;
  const bool was_live = s->state.admitted;
  const std::vector<KvGroupState> before = s->state.groups;
  kv_->Release(&s->state);
  CHECK(!s->state.admitted && s->state.groups.empty() && s->state.num_tokens == 0);
  if (!was_live) return;
  for (size_t i = before[0].pages.size(); i-- > 0;) {
    for (size_t g = before.size(); g-- > 0;) {
      if (before[g].pages[i] != kNullPage) GiveBack(before[g].pages[i]);
    }
  }
  s->announced_end = 0;
  s->exact_tokens = kAllExact;
  s->kv_class = kNoKvClass;
  s->scribbled.clear();
  std::erase(live_, s);
  CheckInvariants();
}

void NaiveKv::GiveBack(PageId page) {
  const auto writes_it = [page](const Copy& copy) { return copy.op.dst == page; };
  for (std::vector<Copy>& step : steps_) {
    const auto copy = std::find_if(step.begin(), step.end(), writes_it);
    if (copy == step.end()) continue;
    CHECK(!std::exchange(copy->given_back, true));
    ++num_waited_for_;
    return;
  }
  const auto copy = std::find_if(copies_.begin(), copies_.end(), writes_it);
  if (copy != copies_.end()) {
    const PageId source = copy->op.src;
    copies_.erase(copy);
    Unref(source);
  }
  Unref(page);
}

void NaiveKv::Unref(PageId page) {
  const auto key = key_of_page_.find(page);
  if (key == key_of_page_.end()) {  // private: free
    CHECK_EQ(taken_.erase(page), 1u);
    return;
  }
  Entry* entry = Find(key->second);
  if (--entry->refs > 0) return;
  entry->released = ++now_;
  CHECK_EQ(taken_.erase(page), 1u);
}

bool NaiveKv::Scribble(NaiveSequence* s, int64_t begin, int64_t end) {
  ++num_verbs_;
  const PageLayout& shape = layout(*s);
  const int64_t page_tokens = shape.page_tokens();
  const std::vector<KvGroupState> before = s->state.groups;
  const int64_t end_page = (end + page_tokens - 1) / page_tokens;
  int64_t num_shared = 0;
  for (const KvGroupState& table : before) {
    for (int64_t i = begin / page_tokens; i < end_page; ++i) {
      num_shared += begin < end && key_of_page_.count(table.pages[i]) > 0 ? 1 : 0;
    }
  }
  const bool expected = NumAvailable(shape.slabs_per_page) >= num_shared;
  const int64_t num_free = kv_->usage().total_slabs - HeldSlabs() - CachedSlabs();
  const int64_t evicted_before = kv_->stats().evicted_pages;
  CHECK_EQ(kv_->EnsureWritable(&s->state, begin, end), expected);
  for (int32_t g = 0; g < shape.num_groups(); ++g) {
    const std::vector<PageId>& pages = s->state.groups[g].pages;
    for (size_t i = 0; i < pages.size(); ++i) {
      const PageId old = before[g].pages[i];
      const bool in_range = static_cast<int64_t>(i) >= begin / page_tokens &&
                            static_cast<int64_t>(i) < end_page && begin < end;
      const bool replaced = expected && in_range && key_of_page_.count(old) > 0;
      CHECK_EQ(pages[i] != old, replaced);
      if (!replaced) continue;
      Take(pages[i], shape.slabs_per_page);
      PageOp op;
      op.src = old;
      op.dst = pages[i];
      copies_.push_back({s->state.model, op});
    }
  }
  CheckEvicted(kv_->stats().evicted_pages - evicted_before,
               expected ? std::max<int64_t>(0, num_shared - num_free) : 0);
  CheckInvariants();
  if (!expected) return false;
  // Half of the time the copies wait, and other verbs come between.
  if (++num_scribbles_ % 2 == 0) return true;
  RunPageOps(s->state.model);
  for (int64_t p = begin; p < end; ++p) {
    s->scribbled.insert(p);
    for (int32_t g = 0; g < shape.num_groups(); ++g) {
      const PageId page = s->state.groups[g].pages[p / page_tokens];
      if (page == kNullPage) continue;
      CHECK(key_of_page_.count(page) == 0) << "a findable page is overwritten";
      Cell(shape, page, p % page_tokens) = kScribble;
    }
  }
  return true;
}

void NaiveKv::TakePageOps(int32_t model) {
  if (steps_.size() == kMaxSteps) RetireStep();
  ++num_verbs_;
  const std::vector<PageOp> ops = kv_->TakePageOps(model);
  std::vector<Copy> mine;
  std::erase_if(copies_, [&](const Copy& copy) {
    if (copy.model == model) mine.push_back(copy);
    return copy.model == model;
  });
  CHECK_EQ(ops.size(), mine.size());
  for (size_t i = 0; i < ops.size(); ++i) {
    CHECK(ops[i].kind == PageOpKind::kCopy);
    CHECK_EQ(ops[i].src, mine[i].op.src);
    CHECK_EQ(ops[i].dst, mine[i].op.dst);
    mine[i].op = ops[i];
  }
  steps_.push_back(std::move(mine));
  CheckInvariants();
}

void NaiveKv::RetireStep() {
  if (steps_.empty()) return;
  ++num_verbs_;
  const std::vector<Copy> copies = std::move(steps_.front());
  steps_.pop_front();
  std::vector<PageOp> ops;
  for (const Copy& copy : copies) {
    const PageLayout& shape = kv_->layout(copy.model);
    ops.push_back(copy.op);
    for (int64_t i = 0; i < copy.op.num_tokens; ++i) {
      Cell(shape, copy.op.dst, copy.op.dst_token + i) =
          Cell(shape, copy.op.src, copy.op.src_token + i);
    }
  }
  kv_->ReleasePageOps(ops);
  for (const Copy& copy : copies) {
    Unref(copy.op.src);
    if (copy.given_back) Unref(copy.op.dst);
  }
  CheckInvariants();
}

void NaiveKv::RunPageOps(int32_t model) {
  TakePageOps(model);
  while (!steps_.empty()) RetireStep();
}

void NaiveKv::DropCached() {
  ++num_verbs_;
  kv_->DropCached();
  std::erase_if(findable_, [this](const auto& item) {
    if (item.second.refs == 0) key_of_page_.erase(item.second.page);
    return item.second.refs == 0;
  });
  CheckInvariants();
}

int64_t& NaiveKv::Cell(const PageLayout& layout, PageId page, int64_t token) {
  const int64_t tokens_per_slab = CeilDiv<int64_t>(layout.page_tokens(), layout.slabs_per_page);
  CHECK_LE(tokens_per_slab, kCellsPerSlab);
  return memory_[(page + token / tokens_per_slab) * kCellsPerSlab + token % tokens_per_slab];
}

int64_t NaiveKv::ExactContent(const NaiveSequence& s, int32_t group, int64_t position) const {
  return s.prefixes[position] * kMaxGroups + group;
}

// The contents that the sequence writes at a position.
int64_t NaiveKv::Content(const NaiveSequence& s, int32_t group, int64_t position) const {
  if (position < s.exact_tokens) return ExactContent(s, group, position);
  if (s.kv_class == kNoKvClass) return kPrivateContent;
  return s.class_prefixes[s.kv_class][position] * kMaxGroups + group;
}

void NaiveKv::CheckSequence(const NaiveSequence& s, int64_t begin, int64_t end) {
  const PageLayout& shape = layout(s);
  for (int32_t g = 0; g < shape.num_groups(); ++g) {
    const KvGroupState& table = s.state.groups[g];
    for (int64_t p = std::max<int64_t>(begin, table.first_live_page * shape.page_tokens()); p < end;
         ++p) {
      const PageId page = table.pages[p / shape.page_tokens()];
      const int64_t has = Cell(shape, page, p % shape.page_tokens());
      const int64_t want = s.scribbled.count(p) > 0 ? kScribble : Content(s, g, p);
      // After its exact prefix, a sequence may hold exact pages, and tokens that it wrote before it
      // was marked.
      const bool is_better = p >= s.exact_tokens && has == ExactContent(s, g, p);
      CHECK(has == want || is_better) << "position " << p << ": " << has << ", not " << want;
    }
  }
}

void NaiveKv::CheckContents() {
  while (!copies_.empty()) RunPageOps(copies_[0].model);
  while (!steps_.empty()) RetireStep();
  for (const NaiveSequence* s : live_) CheckSequence(*s, 0, s->state.num_tokens);
  for (const auto& [key, entry] : findable_) CheckPage(key, entry);
}

// The last token of a page in a class is approximate; the tokens before it may be exact.
void NaiveKv::CheckPage(const Key& key, const Entry& entry) {
  const auto& [model, group, last_prefix] = key;
  const PageLayout& shape = kv_->layout(model);
  CHECK(kv_->Findable(model, group, entry.hash));
  int32_t prefix = last_prefix;
  int32_t exact_prefix = entry.exact_prefix;
  for (int64_t i = shape.page_tokens() - 1; i >= 0; --i) {
    const int64_t has = Cell(shape, entry.page, i);
    const bool may_be_exact = exact_prefix >= 0 && i < shape.page_tokens() - 1;
    CHECK(has == prefix * kMaxGroups + group ||
          (may_be_exact && has == exact_prefix * kMaxGroups + group));
    prefix = parents_[prefix].first;
    if (exact_prefix >= 0) exact_prefix = parents_[exact_prefix].first;
  }
}

int64_t NaiveKv::HeldSlabs() const {
  int64_t held = 0;
  for (const auto& [page, slabs] : taken_) held += slabs;
  return held;
}

int64_t NaiveKv::CachedSlabs() const {
  int64_t cached = 0;
  for (const auto& [key, entry] : findable_) {
    cached += entry.refs == 0 ? kv_->layout(std::get<0>(key)).slabs_per_page : 0;
  }
  return cached;
}

void NaiveKv::CheckInvariants() const {
  std::vector<const KvState*> states;
  for (const NaiveSequence* s : live_) {
    states.push_back(&s->state);
    CHECK_EQ(s->state.exact_tokens, s->exact_tokens);
    CHECK_EQ(s->state.kv_class, s->kv_class);
  }
  kv_->CheckInvariants(states);
  const KvUsage usage = kv_->usage();
  CHECK_EQ(usage.kv_slabs, HeldSlabs());
  CHECK_EQ(usage.cached_slabs, CachedSlabs());
  CHECK_EQ(usage.free_slabs, usage.total_slabs - HeldSlabs() - CachedSlabs());
}

}  // namespace tessera::testing

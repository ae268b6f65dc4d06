#include "kvstore/page_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "kernels/base/log.h"
#include "tests/kvstore/kv_test_util.h"

namespace tessera {
namespace {

using Pages = std::vector<PageId>;

class PagePoolTest : public ::testing::Test {
 protected:
  void Make(int64_t num_slabs, int32_t max_slabs_per_page) {
    pool_ = std::make_unique<PagePool>(num_slabs, max_slabs_per_page,
                                       [this](PageId id, const Page&) { evicted_.push_back(id); });
  }
  PageId Take(int order = 0) {
    const PageId id = pool_->Allocate(order, PageKind::kKv, 7);
    pool_->CheckInvariants();
    return id;
  }
  PageId TakePublished(int order = 0) {
    const PageId id = Take(order);
    if (id != kNullPage) pool_->Publish(id, {++num_hashes_, 0});
    return id;
  }
  void Unref(PageId id) {
    pool_->Unref(id);
    pool_->CheckInvariants();
  }
  Pages Evicted() { return std::exchange(evicted_, {}); }

  std::unique_ptr<PagePool> pool_;
  Pages evicted_;
  uint64_t num_hashes_ = 0;
};

TEST_F(PagePoolTest, HandsOutEverySlabOnceAndNeverTheNullPage) {
  Make(8, 1);
  EXPECT_EQ(pool_->num_slabs(), 7);
  EXPECT_EQ(pool_->num_available(0), 7);
  std::set<PageId> pages;
  for (int i = 0; i < 7; ++i) pages.insert(Take());
  EXPECT_EQ(pages.size(), 7u);
  EXPECT_EQ(pages.count(kNullPage), 0u);
  EXPECT_EQ(Take(), kNullPage);
  EXPECT_EQ(pool_->num_available(0), 0);
  EXPECT_EQ(pool_->referenced_slabs(PageKind::kKv), 7);
  EXPECT_EQ(pool_->page(3).owner, 7);
}

TEST_F(PagePoolTest, UnpublishedPagesAreFreeAtOnce) {
  Make(4, 1);
  const PageId page = Take();
  pool_->Ref(page);
  Unref(page);
  EXPECT_EQ(pool_->free_slabs(), 2);
  Unref(page);
  EXPECT_EQ(pool_->free_slabs(), 3);
  EXPECT_TRUE(evicted_.empty());
}

TEST_F(PagePoolTest, EvictsTheLeastRecentlyUsed) {
  Make(5, 1);
  Pages pages;
  for (int i = 0; i < 4; ++i) pages.push_back(TakePublished());
  for (int i : {2, 0, 3, 1}) Unref(pages[i]);
  EXPECT_EQ(pool_->evictable_slabs(), 4);
  EXPECT_EQ(pool_->num_available(0), 4);
  pool_->Ref(pages[0]);  // used again: evicted last after it is given back
  Unref(pages[0]);
  Take();
  Take();
  Take();
  EXPECT_EQ(Evicted(), (Pages{pages[2], pages[3], pages[1]}));
  EXPECT_EQ(pool_->num_evicted(), 3);
}

TEST_F(PagePoolTest, ReferencedPagesAreNotEvicted) {
  Make(3, 1);
  const PageId held = TakePublished();
  const PageId other = TakePublished();
  EXPECT_EQ(Take(), kNullPage);
  Unref(other);
  EXPECT_EQ(Take(), other);
  EXPECT_EQ(Take(), kNullPage);
  EXPECT_EQ(pool_->page(held).refs, 1);
}

TEST_F(PagePoolTest, FreeMemoryGoesBeforeEviction) {
  Make(9, 4);  // region 1 only
  const PageId cached = TakePublished();
  Unref(cached);
  EXPECT_NE(Take(1), kNullPage);
  EXPECT_NE(Take(), kNullPage);
  EXPECT_TRUE(evicted_.empty());
  EXPECT_EQ(Take(), cached);
  EXPECT_EQ(Evicted(), Pages{cached});
}

TEST_F(PagePoolTest, PagesAreAlignedAndSlabsOfAnIncompleteRegionUnused) {
  Make(19, 4);
  EXPECT_EQ(pool_->num_slabs(), 12);
  EXPECT_EQ(pool_->num_available(0), 12);
  EXPECT_EQ(pool_->num_available(1), 6);
  EXPECT_EQ(pool_->num_available(2), 3);
  for (int order : {0, 1, 2, 0, 1, 0}) {
    const PageId page = Take(order);
    EXPECT_GE(page, 4);
    EXPECT_EQ(page % (1 << order), 0);
  }
}

TEST_F(PagePoolTest, SmallPagesPreferSplitRegions) {
  Make(20, 4);  // four regions
  const PageId first = Take();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Take() / 4, first / 4);
  EXPECT_EQ(pool_->num_available(2), 3);
  const PageId fifth = Take();
  EXPECT_NE(fifth / 4, first / 4);
  Unref(first);
  EXPECT_EQ(Take(), first);  // the hole in the full region, not a fresh region
  EXPECT_EQ(pool_->num_available(2), 2);
}

TEST_F(PagePoolTest, BuddiesMerge) {
  Make(12, 4);
  Pages pages;
  for (int i = 0; i < 8; ++i) pages.push_back(Take());
  EXPECT_EQ(Take(2), kNullPage);
  for (PageId page : pages) Unref(page);
  EXPECT_EQ(pool_->num_available(2), 2);
  EXPECT_NE(Take(2), kNullPage);
  EXPECT_NE(Take(2), kNullPage);
}

TEST_F(PagePoolTest, ALargePageEvictsTheRegionUnusedForLongest) {
  Make(16, 4);  // regions 1, 2, 3
  std::map<PageId, Pages> regions;
  for (int i = 0; i < 12; ++i) {
    const PageId page = TakePublished();
    regions[page / 4].push_back(page);
  }
  ASSERT_EQ(regions.size(), 3u);
  // The oldest page lies in region 1, but a page of region 1 is held; region 3 became wholly
  // evictable before region 2.
  Unref(regions[1][0]);
  Unref(regions[1][1]);
  Unref(regions[2][0]);
  for (PageId page : regions[3]) Unref(page);
  for (size_t i = 1; i < 4; ++i) Unref(regions[2][i]);
  EXPECT_EQ(pool_->num_available(2), 2);
  EXPECT_EQ(Take(2), 12);
  EXPECT_EQ(Evicted(), regions[3]);
  EXPECT_EQ(Take(2), 8);
  EXPECT_EQ(Evicted(), regions[2]);
  EXPECT_EQ(Take(2), kNullPage);
  EXPECT_EQ(Take(), regions[1][0]);
}

TEST_F(PagePoolTest, ASmallPageMayEvictAnOlderLargeOne) {
  Make(12, 4);
  const PageId large = TakePublished(2);
  Pages small;
  for (int i = 0; i < 4; ++i) small.push_back(TakePublished());
  Unref(small[0]);
  Unref(large);
  Unref(small[1]);
  EXPECT_EQ(Take(), small[0]);
  EXPECT_EQ(Take() / 4, large / 4);
  EXPECT_EQ(Evicted(), (Pages{small[0], large}));
  EXPECT_EQ(pool_->free_slabs(), 3);
}

TEST_F(PagePoolTest, TheAgeOfTheCacheIsThatOfItsOldestPageOfAnySize) {
  Make(16, 4);
  EXPECT_EQ(pool_->oldest_idle_ticks(), 0u);
  const PageId large = TakePublished(2);
  const PageId small = TakePublished();
  const PageId held = TakePublished();  // keeps the region of `small` from being evictable whole
  Unref(small);
  Unref(large);
  const uint64_t age = pool_->oldest_idle_ticks();
  pool_->Ref(large);
  Unref(large);
  EXPECT_GT(pool_->oldest_idle_ticks(), age);  // the age of the small page
  pool_->Ref(small);
  Unref(small);
  EXPECT_GT(pool_->oldest_idle_ticks(), 0u);  // now the age of the large page
  const uint64_t large_age = pool_->oldest_idle_ticks();
  pool_->Ref(large);
  EXPECT_LT(pool_->oldest_idle_ticks(), large_age);
  pool_->Ref(held);
  pool_->CheckInvariants();
}

TEST_F(PagePoolTest, DropEvictableKeepsHeldPages) {
  Make(16, 4);
  const PageId held = TakePublished();
  const PageId dropped = TakePublished();
  const PageId large = TakePublished(2);
  Unref(dropped);
  Unref(large);
  pool_->DropEvictable();
  pool_->CheckInvariants();
  EXPECT_EQ(Evicted().size(), 2u);
  EXPECT_EQ(pool_->evictable_slabs(), 0);
  EXPECT_EQ(pool_->free_slabs(), 11);
  EXPECT_EQ(pool_->page(held).refs, 1);
  EXPECT_EQ(pool_->num_evicted(), 0);
}

TEST_F(PagePoolTest, CountsSlabsByKind) {
  Make(16, 4);
  pool_->Allocate(0, PageKind::kAdapter, 0);
  pool_->Allocate(1, PageKind::kStaging, 0);
  pool_->Allocate(2, PageKind::kWeights, 0);
  pool_->Allocate(0, PageKind::kKv, 0);
  EXPECT_EQ(pool_->referenced_slabs(PageKind::kAdapter), 1);
  EXPECT_EQ(pool_->referenced_slabs(PageKind::kStaging), 2);
  EXPECT_EQ(pool_->referenced_slabs(PageKind::kWeights), 4);
  EXPECT_EQ(pool_->referenced_slabs(PageKind::kKv), 1);
  EXPECT_EQ(pool_->free_slabs(), 4);
  pool_->CheckInvariants();
}

// A second pool that follows the header's rules by scanning: available pages and victims.
struct NaivePool {
  struct Held {
    int order = 0;
    int refs = 0;
    bool published = false;
  };
  int64_t num_slabs = 0;  // with the null page
  int max_order = 0;
  std::map<PageId, Held> pages;
  std::map<std::pair<int, int>, int64_t> last_referenced;  // (order, block) -> when
  int64_t now = 0;

  // Pages that overlap block `index` of `order`.
  Pages In(int order, int index) const {
    Pages in;
    for (const auto& [id, page] : pages) {
      const bool apart = id + (1 << page.order) <= index << order || id >= (index + 1) << order;
      if (!apart) in.push_back(id);
    }
    return in;
  }
  bool Unreferenced(int order, int index) const {
    for (PageId id : In(order, index)) {
      if (pages.at(id).refs > 0) return false;
    }
    return true;
  }
  int64_t Available(int order) const {
    int64_t count = 0;
    for (int index = (1 << max_order) >> order; (index + 1) << order <= num_slabs; ++index) {
      count += Unreferenced(order, index) ? 1 : 0;
    }
    return count;
  }
  // A page stops being referenced: all blocks around it were in use until now.
  void Touch(PageId id, int order) {
    ++now;
    for (int o = order; o <= max_order; ++o) last_referenced[{o, id >> o}] = now;
  }
  // Victims for a page of `order` when no free block of it is left.
  Pages Victims(int order) const {
    int64_t oldest = now + 1;
    Pages victims;
    for (int o = order; o <= max_order; ++o) {
      for (int index = (1 << max_order) >> o; (index + 1) << o <= num_slabs; ++index) {
        const Pages in = In(o, index);
        const bool inside = in.size() == 1 && pages.at(in[0]).order > o;
        if (in.empty() || inside || !Unreferenced(o, index)) continue;
        if (last_referenced.at({o, index}) >= oldest) continue;
        oldest = last_referenced.at({o, index});
        victims = in;
      }
    }
    return victims;
  }
  bool HasFree(int order) const {
    for (int index = (1 << max_order) >> order; (index + 1) << order <= num_slabs; ++index) {
      if (In(order, index).empty()) return true;
    }
    return false;
  }
};

void RunRandomPool(int max_order, int64_t num_slabs, int64_t num_steps, uint32_t seed) {
  Pages evicted;
  PagePool pool(num_slabs, 1 << max_order,
                [&evicted](PageId id, const Page&) { evicted.push_back(id); });
  NaivePool naive;
  naive.num_slabs = num_slabs >> max_order << max_order;
  naive.max_order = max_order;
  std::mt19937 random(seed);
  const auto pick = [&random](size_t bound) { return random() % bound; };
  uint64_t num_hashes = 0;
  std::vector<PageId> references;  // one entry per reference we hold
  const auto any_page = [&]() -> PageId {
    if (naive.pages.empty()) return kNullPage;
    return std::next(naive.pages.begin(), static_cast<long>(pick(naive.pages.size())))->first;
  };
  for (int64_t step = 0; step < num_steps; ++step) {
    const size_t verb = pick(100);
    if (verb < 40) {
      const int order = static_cast<int>(pick(max_order + 1));
      const bool has_free = naive.HasFree(order);
      Pages expected = has_free ? Pages{} : naive.Victims(order);
      evicted.clear();
      const PageId id = pool.Allocate(order, PageKind::kKv, 0);
      ASSERT_EQ(evicted, expected) << "step " << step;
      ASSERT_EQ(id != kNullPage, has_free || !expected.empty());
      for (PageId victim : expected) naive.pages.erase(victim);
      if (id == kNullPage) continue;
      ASSERT_EQ(id % (1 << order), 0);
      ASSERT_GE(id, 1 << max_order);
      ASSERT_TRUE(naive.In(order, id >> order).empty());
      naive.pages[id] = {order, 1, false};
      references.push_back(id);
    } else if (verb < 80 && !references.empty()) {
      const size_t which = pick(references.size());
      const PageId id = references[which];
      references.erase(references.begin() + static_cast<long>(which));
      NaivePool::Held& page = naive.pages[id];
      if (--page.refs == 0) naive.Touch(id, page.order);
      if (page.refs == 0 && !page.published) naive.pages.erase(id);
      pool.Unref(id);
    } else if (verb < 90) {
      const PageId id = any_page();
      if (id == kNullPage) continue;
      ++naive.pages[id].refs;
      references.push_back(id);
      pool.Ref(id);
    } else if (verb < 99) {
      const PageId id = any_page();
      if (id == kNullPage || naive.pages[id].published || naive.pages[id].refs == 0) continue;
      naive.pages[id].published = true;
      pool.Publish(id, {++num_hashes, 0});
    } else if (pick(10) == 0) {
      pool.DropEvictable();
      std::erase_if(naive.pages, [](const auto& entry) { return entry.second.refs == 0; });
    }
    pool.CheckInvariants();
    for (int order = 0; order <= max_order; ++order) {
      ASSERT_EQ(pool.num_available(order), naive.Available(order)) << "step " << step;
    }
  }
}

TEST(PagePoolRandom, AgreesWithANaivePool) {
  const int64_t num_steps = 60000 / testing::kWorkDivisor;
  RunRandomPool(0, 24, num_steps, 1);
  RunRandomPool(1, 26, num_steps, 2);
  RunRandomPool(2, 43, num_steps, 3);
  RunRandomPool(3, 48, num_steps, 4);
}

using PagePoolDeathTest = PagePoolTest;

TEST_F(PagePoolDeathTest, MisuseIsCaught) {
  ASSERT_TRUE(InitLogging("info"));  // to stderr, where death tests look
  Make(4, 1);
  const PageId page = Take();
  pool_->Publish(page, {1, 1});
  EXPECT_DEATH(pool_->Publish(page, {1, 2}), "CHECK");
  EXPECT_DEATH(pool_->Ref(kNullPage), "CHECK");
  EXPECT_DEATH(pool_->Allocate(1, PageKind::kKv, 0), "CHECK");
  pool_->Unref(page);
  EXPECT_DEATH(pool_->Unref(page), "CHECK");
}

}  // namespace
}  // namespace tessera

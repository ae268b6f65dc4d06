#include "kvstore/kv_manager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/log.h"
#include "tests/kvstore/kv_fixture.h"

namespace tessera {
namespace {

using testing::Iota;
using testing::kSlabBytes;
using testing::KvManagerTest;
using testing::MakeLayout;
using Pages = std::vector<PageId>;
using Tokens = std::vector<TokenId>;

// Adapters share the pool: they evict cached pages, all or none.
TEST_F(KvManagerTest, AdaptersTakePagesOfThePool) {
  Make(8);
  RunAndRelease(Iota(16));  // 4 cached pages
  Pages first;
  EXPECT_FALSE(kv_->AllocateAdapter(model_, 9, 0, &first));
  EXPECT_TRUE(first.empty());
  EXPECT_EQ(kv_->FreePages(model_), 4);
  EXPECT_EQ(kv_->AvailablePages(model_), 8);
  EXPECT_TRUE(kv_->AllocateAdapter(model_, 4, 0, &first));
  Check();
  EXPECT_EQ(kv_->usage().cached_slabs, 4);
  EXPECT_EQ(kv_->FreePages(model_), 0);
  Pages second;
  EXPECT_TRUE(kv_->AllocateAdapter(model_, 3, 1, &second));
  EXPECT_EQ(kv_->usage().adapter_slabs, 7);
  EXPECT_EQ(kv_->usage().cached_slabs, 1);
  EXPECT_EQ(kv_->AvailablePages(model_), 1);
  Check();
  kv_->FreeAdapter(first);
  EXPECT_EQ(kv_->FreePages(model_), 4);
  Check();
}

TEST_F(KvManagerTest, TheOldestCachedPagesAreEvictedForAWholePage) {
  kv_ = NewKvManager(2 + 8, kSlabBytes, 2);
  const int32_t small = kv_->AddModel(MakeLayout(4, {0}, 1));
  const int32_t large = kv_->AddModel(MakeLayout(4, {0}, 2));
  model_ = small;
  EXPECT_FALSE(kv_->OldestIdleTicks().has_value());
  RunAndRelease(Iota(4));
  const uint64_t idle = kv_->OldestIdleTicks().value();
  RunAndRelease(Iota(4, 100));
  EXPECT_GT(kv_->OldestIdleTicks().value(), idle);
  EXPECT_EQ(kv_->FreePages(small), 6);
  EXPECT_EQ(kv_->FreePages(large), 3);
  // Both small pages lie in one large one.
  kv_->EvictOldest(large);
  EXPECT_EQ(kv_->FreePages(large), 4);
  EXPECT_EQ(kv_->stats().evicted_pages, 2);
  EXPECT_FALSE(kv_->OldestIdleTicks().has_value());
  Check();
}

TEST_F(KvManagerTest, PagesThatReleaseWouldGiveBackAreCounted) {
  Make(16);
  KvState* first = Run(Iota(11));
  EXPECT_EQ(kv_->ExclusivePages(*first), 3);
  KvState* second = Run(Iota(20));
  EXPECT_EQ(kv_->ExclusivePages(*first), 1);
  EXPECT_EQ(kv_->ExclusivePages(*second), 3);
  const int64_t available = kv_->AvailablePages(model_);
  Release(second);
  EXPECT_EQ(kv_->AvailablePages(model_), available + 3);
}

TEST_F(KvManagerTest, SetAsidePagesAreForAdaptersAlone) {
  Make(8);
  EXPECT_FALSE(kv_->SetAsideForAdapters(model_, 9));
  EXPECT_FALSE(kv_->adapters_apart());
  ASSERT_TRUE(kv_->SetAsideForAdapters(model_, 3));
  EXPECT_TRUE(kv_->adapters_apart());
  Check();
  Pages first;
  ASSERT_TRUE(kv_->AllocateAdapter(model_, 2, 0, &first));
  EXPECT_EQ(first.size(), 2u);
  // Sequences have the other five.
  KvState* const state = NewState();
  EXPECT_FALSE(AdmitAndGrow(state, Iota(24), 24));
  ASSERT_TRUE(kv_->Grow(state, 20));
  Pages second;
  EXPECT_FALSE(kv_->AllocateAdapter(model_, 3, 1, &second));
  kv_->FreeAdapter(first);
  EXPECT_EQ(kv_->AvailableAdapterPages(model_), 3);
  EXPECT_TRUE(kv_->AllocateAdapter(model_, 3, 1, &second));
  EXPECT_EQ(std::set<PageId>(second.begin(), second.end()).size(), 3u);
  Check();
}

TEST_F(KvManagerTest, WholePagesAreFoundAgain) {
  Make(16);
  EXPECT_EQ(Hit(Iota(11)), 0);
  KvState* first = Run(Iota(11));
  EXPECT_EQ(Hit(Iota(11)), 8);
  EXPECT_EQ(Hit(Iota(9)), 8);
  EXPECT_EQ(Hit(Iota(7)), 4);
  EXPECT_EQ(Hit(Iota(11, 1)), 0);
  KvState* second = Run(Iota(20));
  EXPECT_EQ(second->groups[0].pages[0], first->groups[0].pages[0]);
  EXPECT_EQ(second->groups[0].pages[1], first->groups[0].pages[1]);
  EXPECT_NE(second->groups[0].pages[2], first->groups[0].pages[2]);
  Release(first);
  Release(second);
  EXPECT_EQ(kv_->usage().cached_slabs, 5);
  EXPECT_EQ(Hit(Iota(40)), 20);
}

TEST_F(KvManagerTest, OneTokenIsAlwaysLeftToCompute) {
  Make(16);
  RunAndRelease(Iota(8));
  EXPECT_EQ(kv_->usage().cached_slabs, 2);
  EXPECT_EQ(Hit(Iota(8)), 4);
  EXPECT_EQ(Hit(Iota(9)), 8);
  EXPECT_EQ(Hit(Iota(4)), 0);
  EXPECT_EQ(Hit(Iota(1)), 0);
  EXPECT_EQ(Hit({}), 0);
}

TEST_F(KvManagerTest, PagesWrittenWhileDecodingAreReusable) {
  Make(16);
  KvState* state = Run(Iota(3));
  EXPECT_EQ(kv_->usage().kv_slabs, 1);
  for (int64_t n = 4; n <= 9; ++n) {
    ASSERT_TRUE(kv_->Grow(state, n));
    kv_->Advance(state, Iota(n), n);
    Check();
    EXPECT_EQ(Hit(Iota(20)), n / 4 * 4);
  }
  EXPECT_EQ(kv_->usage().kv_slabs, 3);
}

TEST_F(KvManagerTest, SaltsAndModelsAreApart) {
  Make(16);
  const int32_t other = kv_->AddModel(MakeLayout(4, {0}));
  Run(Iota(9), "a");
  EXPECT_EQ(Hit(Iota(9), "a"), 8);
  EXPECT_EQ(Hit(Iota(9), "b"), 0);
  EXPECT_EQ(Hit(Iota(9)), 0);
  model_ = other;  // the same root by mistake of the caller
  EXPECT_EQ(Hit(Iota(9), "a"), 0);
}

TEST_F(KvManagerTest, UncacheableStatesLeaveNoTrace) {
  Make(16);
  Run(Iota(8));
  KvState* state = NewState();
  state->cacheable = false;
  EXPECT_EQ(kv_->Match(state, Iota(24)).hit_tokens, 0);
  EXPECT_EQ(kv_->Match(state, Iota(24)).announced_tokens, 0);
  ASSERT_TRUE(AdmitAndGrow(state, Iota(24), 24));
  EXPECT_EQ(state->num_tokens, 0);
  Check();
  EXPECT_EQ(Announced(Iota(24)), 8);
  kv_->Advance(state, Iota(24), 24);
  Check();
  EXPECT_EQ(Hit(Iota(24)), 8);
  EXPECT_TRUE(state->hashes.empty());
  EXPECT_EQ(kv_->stats().lookup_tokens, 8);
  Release(state);
  EXPECT_EQ(kv_->usage().free_slabs, 14);
}

// A sequence that gets no room for its tokens is released and leaves no trace.
TEST_F(KvManagerTest, AdmissionIsAllOrNothing) {
  Make(7, {0, 0});
  KvState* state = NewState();
  EXPECT_FALSE(AdmitAndGrow(state, Iota(16), 16));  // 4 pages of 2 groups
  Check();
  EXPECT_EQ(kv_->usage().free_slabs, 7);
  EXPECT_EQ(Announced(Iota(16)), 12);
  Release(state);
  EXPECT_FALSE(state->admitted);
  EXPECT_TRUE(state->groups.empty());
  EXPECT_EQ(kv_->usage().free_slabs, 7);
  EXPECT_EQ(Announced(Iota(16)), 0);
  EXPECT_TRUE(AdmitAndGrow(state, Iota(16), 12));
  Check();
  EXPECT_EQ(kv_->usage().free_slabs, 1);
}

TEST_F(KvManagerTest, ARefusedAdmissionEvictsNothing) {
  Make(4);
  RunAndRelease(Iota(16));
  EXPECT_EQ(kv_->usage().cached_slabs, 4);
  KvState* state = NewState();
  EXPECT_FALSE(AdmitAndGrow(state, Iota(20, 100), 20));
  Release(state);
  EXPECT_EQ(Hit(Iota(17)), 16);
  EXPECT_EQ(kv_->stats().evicted_pages, 0);
}

TEST_F(KvManagerTest, AHitIsTakenOutOfEviction) {
  Make(4);
  RunAndRelease(Iota(12));
  KvState* state = NewState();
  EXPECT_EQ(kv_->Match(state, Iota(13)).evictable_pages, 3);
  EXPECT_EQ(kv_->AvailablePages(model_), 4);
  kv_->Admit(state, Iota(13));
  EXPECT_EQ(state->num_tokens, 12);
  EXPECT_EQ(kv_->AvailablePages(model_), 1);
  Check();
  // The hit is held by `state` now, and still found.
  const KvMatch again = kv_->Match(NewState(), Iota(13));
  EXPECT_EQ(again.hit_tokens, 12);
  EXPECT_EQ(again.evictable_pages, 0);
  EXPECT_TRUE(kv_->Grow(state, 13));
  EXPECT_FALSE(kv_->Grow(state, 17));
  EXPECT_EQ(kv_->stats().evicted_pages, 0);
}

TEST_F(KvManagerTest, AHitIsNotEvictedForItsOwnRoom) {
  Make(4);
  RunAndRelease(Iota(8));
  RunAndRelease(Iota(8, 100));
  KvState* state = Run(Iota(16));  // takes the older two, needs two more
  EXPECT_EQ(kv_->stats().hit_tokens, 8);
  EXPECT_EQ(kv_->stats().lookup_tokens, 32);
  EXPECT_EQ(kv_->stats().evicted_pages, 2);
  Release(state);
  EXPECT_EQ(Hit(Iota(17)), 16);
}

TEST_F(KvManagerTest, GrowIsAllOrNothing) {
  Make(6, {0, 0});
  KvState* state = Run(Iota(4));
  EXPECT_TRUE(kv_->Grow(state, 4));
  EXPECT_EQ(state->groups[0].pages.size(), 1u);
  EXPECT_TRUE(kv_->Grow(state, 5));
  EXPECT_FALSE(kv_->Grow(state, 13));
  Check();
  EXPECT_EQ(state->groups[0].pages.size(), 2u);
  EXPECT_EQ(kv_->usage().free_slabs, 2);
  EXPECT_TRUE(kv_->Grow(state, 12));
  EXPECT_EQ(kv_->usage().free_slabs, 0);
  Check();
}

TEST_F(KvManagerTest, PagesAreAnnouncedUntilTheyAreWritten) {
  Make(32);
  KvState* first = NewState();
  ASSERT_TRUE(AdmitAndGrow(first, Iota(14), 4));
  EXPECT_EQ(first->num_announced_pages, 3);  // the last two tokens fill no page
  Check();
  KvMatch match = kv_->Match(NewState(), Iota(20));
  EXPECT_EQ(match.hit_tokens, 0);
  EXPECT_EQ(match.announced_tokens, 12);
  EXPECT_EQ(Announced(Iota(6)), 4);
  const std::vector<PageHash> names = first->hashes;
  for (const PageHash& name : names) EXPECT_TRUE(kv_->WatchAnnounced(model_, name));
  EXPECT_FALSE(kv_->WatchAnnounced(model_ + 1, names[0]));

  kv_->Advance(first, Iota(14), 4);
  EXPECT_FALSE(kv_->WatchAnnounced(model_, names[0]));  // it is there
  using Names = std::vector<std::pair<PageHash, int32_t>>;
  EXPECT_EQ(kv_->TakeSettled(), Names({{names[0], model_}}));
  EXPECT_TRUE(kv_->WatchAnnounced(model_, names[1]));
  match = kv_->Match(NewState(), Iota(20));
  EXPECT_EQ(match.hit_tokens, 4);
  EXPECT_EQ(match.announced_tokens, 12);
  EXPECT_EQ(first->num_announced_pages, 2);
  Check();

  KvState* second = NewState();  // does not wait: both announce
  ASSERT_TRUE(AdmitAndGrow(second, Iota(14), 14));
  EXPECT_EQ(second->num_announced_pages, 2);
  Release(first);
  EXPECT_EQ(Announced(Iota(20)), 12);
  EXPECT_TRUE(kv_->WatchAnnounced(model_, names[2]));
  Release(second);
  EXPECT_FALSE(kv_->WatchAnnounced(model_, names[2]));
  EXPECT_EQ(kv_->TakeSettled().size(), 2u);  // page 1 was watched too; page 2 was given up
  EXPECT_TRUE(kv_->TakeSettled().empty());
  EXPECT_EQ(Announced(Iota(20)), 4);  // equal to the hit
}

TEST_F(KvManagerTest, DuplicatesStayPrivate) {
  Make(16);
  KvState* first = NewState();
  KvState* second = NewState();
  ASSERT_TRUE(AdmitAndGrow(first, Iota(9), 9));
  ASSERT_TRUE(AdmitAndGrow(second, Iota(9), 9));
  kv_->Advance(first, Iota(9), 9);
  const Pages before = second->groups[0].pages;
  kv_->Advance(second, Iota(9), 9);
  Check();
  EXPECT_EQ(second->groups[0].pages, before);
  Release(second);
  EXPECT_EQ(kv_->usage().cached_slabs, 0);  // freed at once
  Release(first);
  EXPECT_EQ(kv_->usage().cached_slabs, 2);
}

TEST_F(KvManagerTest, CopiesOfAPromptShareItsPages) {
  Make(8);
  const Tokens prompt = Iota(18);
  KvState* first = Run(prompt);
  std::set<PageId> last_pages = {first->groups[0].pages[4]};
  for (int copy = 1; copy < 4; ++copy) {
    KvState* state = Run(prompt);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(state->groups[0].pages[i], first->groups[0].pages[i]);
    }
    last_pages.insert(state->groups[0].pages[4]);
  }
  EXPECT_EQ(last_pages.size(), 4u);
  EXPECT_EQ(kv_->usage().kv_slabs, 8);
}

TEST_F(KvManagerTest, APreemptedSequenceFindsItsOwnPages) {
  Make(8);
  KvState* state = Run(Iota(18));
  const std::vector<PageHash> hashes = state->hashes;
  Release(state);
  EXPECT_EQ(state->hashes, hashes);
  EXPECT_EQ(state->num_tokens, 0);
  EXPECT_TRUE(state->groups.empty());
  kv_->Release(state);  // again: nothing happens
  EXPECT_EQ(kv_->Match(state, Iota(18)).hit_tokens, 16);
  EXPECT_TRUE(AdmitAndGrow(state, Iota(18), 18));
  Check();
}

TEST_F(KvManagerTest, PrefixesOutliveSuffixes) {
  Make(5);
  RunAndRelease(Iota(16));
  KvState* state = Run(Iota(4, 100));  // the fifth page
  EXPECT_EQ(Hit(Iota(17)), 16);
  for (int64_t pages = 2; pages <= 5; ++pages) {
    ASSERT_TRUE(kv_->Grow(state, pages * 4));
    EXPECT_EQ(Hit(Iota(17)), 16 - (pages - 1) * 4);
    Check();
  }
  EXPECT_FALSE(kv_->Grow(state, 24));
}

TEST_F(KvManagerTest, ATouchedPrefixMovesToTheEnd) {
  Make(4);
  RunAndRelease(Iota(8));
  RunAndRelease(Iota(8, 100));
  KvState* toucher = NewState();
  kv_->Admit(toucher, Iota(9));
  Release(toucher);
  RunAndRelease(Iota(8, 200));  // evicts the untouched
  EXPECT_EQ(Hit(Iota(9)), 8);
  EXPECT_EQ(Hit(Iota(9, 100)), 0);
}

TEST_F(KvManagerTest, DropCachedForgetsUnreferencedPagesOnly) {
  Make(16);
  KvState* held = Run(Iota(8));
  RunAndRelease(Iota(8, 100));
  kv_->DropCached();
  Check();
  EXPECT_EQ(Hit(Iota(9)), 8);
  EXPECT_EQ(Hit(Iota(9, 100)), 0);
  EXPECT_EQ(kv_->usage().free_slabs, 14);
  Release(held);
  kv_->DropCached();
  EXPECT_EQ(kv_->usage().free_slabs, 16);
  EXPECT_EQ(kv_->stats().evicted_pages, 0);
}

TEST_F(KvManagerTest, PagesBehindTheWindowAreGivenUp) {
  Make(32, {0, 6});
  const Tokens tokens = Iota(32);
  KvState* state = NewState();
  ASSERT_TRUE(AdmitAndGrow(state, tokens, 16));
  EXPECT_EQ(kv_->usage().kv_slabs, 8);
  kv_->Advance(state, tokens, 16);
  Check();
  // The token at 16 sees 11 and later: page 2 on.
  EXPECT_EQ(state->groups[0].first_live_page, 0);
  EXPECT_EQ(state->groups[1].first_live_page, 2);
  EXPECT_EQ(state->groups[1].pages[0], kNullPage);
  EXPECT_EQ(state->groups[1].pages[1], kNullPage);
  EXPECT_NE(state->groups[1].pages[2], kNullPage);
  EXPECT_EQ(kv_->usage().kv_slabs, 6);
  EXPECT_EQ(kv_->usage().cached_slabs, 2);  // still findable
  EXPECT_EQ(Hit(Iota(5)), 4);
  ASSERT_TRUE(kv_->Grow(state, 17));
  kv_->Advance(state, tokens, 17);  // the token at 17 sees 12 and later
  EXPECT_EQ(state->groups[1].first_live_page, 3);
  Check();
}

TEST_F(KvManagerTest, PrivatePagesBehindTheWindowAreFree) {
  Make(32, {6});
  KvState* state = NewState();
  state->cacheable = false;
  ASSERT_TRUE(AdmitAndGrow(state, Iota(16), 16));
  kv_->Advance(state, Iota(16), 16);
  EXPECT_EQ(kv_->usage().free_slabs, 30);
  Check();
}

TEST_F(KvManagerTest, AHitNeedsOnlyWhatTheWindowSees) {
  Make(10, {6});
  RunAndRelease(Iota(24));              // 6 pages; 0 to 3 were given up first and are the oldest
  KvState* other = Run(Iota(32, 100));  // 8 pages: evicts 0, 1, 2 and 3
  Check();
  EXPECT_EQ(kv_->stats().evicted_pages, 4);
  EXPECT_EQ(Hit(Iota(25)), 24);  // the token at 24 sees 19 and later: pages 4 and 5
  EXPECT_EQ(Hit(Iota(24)), 0);   // the token at 20 sees 15 and later: page 3 is gone
  Release(other);
  kv_->DropCached();
  RunAndRelease(Iota(25));
  KvState* state = NewState();
  ASSERT_TRUE(AdmitAndGrow(state, Iota(25), 25));
  Check();
  EXPECT_EQ(state->num_tokens, 24);
  EXPECT_EQ(state->groups[0].first_live_page, 4);
  EXPECT_EQ(state->groups[0].pages[3], kNullPage);
  EXPECT_EQ(kv_->usage().kv_slabs, 3);
}

TEST_F(KvManagerTest, AHitIsWhatAllGroupsHave) {
  Make(11, {0, 6});
  RunAndRelease(Iota(16));
  // Given up before the end: window pages 0 and 1. Released then: 3, 3, 2, 2, 1, 0 (window's
  // first).
  KvState* other = Run(Iota(8, 100));  // 4 pages; 3 were free
  EXPECT_EQ(kv_->stats().evicted_pages, 1);
  EXPECT_EQ(Hit(Iota(17)), 16);  // this prefix does not need window page 0
  EXPECT_EQ(Hit(Iota(5)), 0);    // this prefix does
  ASSERT_TRUE(kv_->Grow(other, 12));
  EXPECT_EQ(kv_->stats().evicted_pages, 3);  // window pages 1 and 3
  EXPECT_EQ(Hit(Iota(17)), 0);               // 12 needs window pages 1 and 2, 8 needs 0 and 1
  Check();
}

TEST_F(KvManagerTest, AWindowOfOneTokenNeedsNoPageAtAPageBoundary) {
  Make(16, {0, 1});
  RunAndRelease(Iota(9));
  EXPECT_EQ(Hit(Iota(9)), 8);
  KvState* state = NewState();
  ASSERT_TRUE(AdmitAndGrow(state, Iota(9), 9));
  Check();
  EXPECT_EQ(state->groups[1].pages[0], kNullPage);
  EXPECT_EQ(state->groups[1].pages[1], kNullPage);
  EXPECT_NE(state->groups[1].pages[2], kNullPage);
}

TEST_F(KvManagerTest, ModelsWithLargerPagesEvictWholeRegions) {
  kv_ = NewKvManager(4 + 16, kSlabBytes, 4);
  const int32_t small = kv_->AddModel(MakeLayout(4, {0}));
  const int32_t large = kv_->AddModel(MakeLayout(8, {0}, 4));
  model_ = small;
  RunAndRelease(Iota(64));
  EXPECT_EQ(kv_->usage().cached_slabs, 16);
  model_ = large;
  KvState* state = Run(Iota(16));
  EXPECT_EQ(kv_->stats().evicted_pages, 8);
  EXPECT_EQ(kv_->usage().kv_slabs, 8);
  for (PageId page : state->groups[0].pages) EXPECT_EQ(page % 4, 0);
  model_ = small;
  KvState* holder = Run(Iota(4, 500));
  model_ = large;
  EXPECT_TRUE(kv_->Grow(state, 24));
  EXPECT_FALSE(kv_->Grow(state, 32));  // three slabs are left in the holder's region
  EXPECT_EQ(kv_->usage().kv_slabs, 13);
  Check();
  Release(holder);
  EXPECT_TRUE(kv_->Grow(state, 32));
  Check();
}

TEST_F(KvManagerTest, AvailablePagesAreCountedInPagesOfTheModel) {
  kv_ = NewKvManager(4 + 12, kSlabBytes, 4);
  const int32_t small = kv_->AddModel(MakeLayout(4, {0}));
  const int32_t large = kv_->AddModel(MakeLayout(8, {0}, 4));
  model_ = small;
  Run(Iota(4));  // three free slabs beside it make no large page
  EXPECT_EQ(kv_->AvailablePages(small), 11);
  EXPECT_EQ(kv_->AvailablePages(large), 2);
  model_ = large;
  KvState* state = NewState();
  EXPECT_FALSE(AdmitAndGrow(state, Iota(24), 24));
  EXPECT_TRUE(kv_->Grow(state, 16));
  Check();
}

TEST_F(KvManagerTest, SlabsForCountsWindowsAndSteps) {
  Make(16, {0});
  EXPECT_EQ(kv_->SlabsFor(model_, 0), 0);
  EXPECT_EQ(kv_->SlabsFor(model_, 1), 1);
  EXPECT_EQ(kv_->SlabsFor(model_, 8), 2);
  EXPECT_EQ(kv_->SlabsFor(model_, 9), 3);
  kv_ = NewKvManager(64, kSlabBytes, 2);
  model_ = kv_->AddModel(MakeLayout(4, {0, 6, 6}, 2));
  EXPECT_EQ(kv_->SlabsFor(model_, 100), 2 * (25 + 3 + 3));
  EXPECT_EQ(kv_->SlabsFor(model_, 100, 16), 2 * (25 + 6 + 6));
  EXPECT_EQ(kv_->SlabsFor(model_, 100, 100), 2 * 75);
  EXPECT_EQ(kv_->SlabsFor(model_, 5, 100), 2 * 6);
}

TEST_F(KvManagerTest, SlabsForIsWhatASequenceHoldsAtMost) {
  for (const int64_t step : {1, 3, 4, 7, 16}) {
    int64_t most = 0;
    for (int64_t first = 1; first <= step; ++first) {
      Make(64, {6, 0, 9});
      KvState* state = NewState();
      const Tokens tokens = Iota(60);
      ASSERT_TRUE(AdmitAndGrow(state, tokens, first));
      int64_t done = first;
      while (true) {
        most = std::max(most, kv_->usage().kv_slabs);
        kv_->Advance(state, tokens, done);
        if (done == 60) break;
        done = std::min<int64_t>(60, done + step);
        ASSERT_TRUE(kv_->Grow(state, done));
      }
    }
    EXPECT_EQ(most, kv_->SlabsFor(model_, 60, step)) << "step " << step;
  }
}

using KvManagerDeathTest = KvManagerTest;

TEST_F(KvManagerDeathTest, BrokenContractsAreCaught) {
  ASSERT_TRUE(InitLogging("info"));  // to stderr, where death tests look
  Make(16);
  const Tokens tokens = Iota(12);
  KvState* state = NewState();
  EXPECT_DEATH(kv_->Grow(state, 4), "CHECK");
  ASSERT_TRUE(AdmitAndGrow(state, tokens, 8));
  EXPECT_DEATH(kv_->Match(state, tokens), "CHECK");
  EXPECT_DEATH(kv_->Admit(state, tokens), "CHECK");
  EXPECT_DEATH(kv_->Advance(state, tokens, 9), "CHECK");
  EXPECT_DEATH(kv_->Advance(state, tokens, 13), "CHECK");
  kv_->Advance(state, tokens, 8);
  EXPECT_DEATH(kv_->Advance(state, tokens, 7), "CHECK");
  EXPECT_DEATH(kv_->EnsureWritable(state, 4, 9), "CHECK");
  state->num_tokens = 4;  // as if page 1 were written again although others find it
  EXPECT_DEATH(kv_->Advance(state, tokens, 8), "written while shared");
  const std::vector<const KvState*> live = {state};
  EXPECT_DEATH(kv_->CheckInvariants(live), "written while shared");
  state->num_tokens = 8;
  kv_->CheckInvariants(live);
  EXPECT_DEATH(kv_->CheckInvariants({}), "CHECK");
  EXPECT_DEATH(kv_->AddModel(MakeLayout(4, {0}, 2)), "CHECK");
  EXPECT_DEATH(kv_->AddModel(MakeLayout(4, {})), "CHECK");
}

}  // namespace
}  // namespace tessera

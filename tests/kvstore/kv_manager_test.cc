#include "kvstore/kv_manager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kernels/base/log.h"
#include "tests/kvstore/kv_test_util.h"

namespace tessera {
namespace {

using testing::Iota;
using testing::kSlabBytes;
using testing::MakeLayout;
using Pages = std::vector<PageId>;
using Tokens = std::vector<TokenId>;

class KvManagerTest : public ::testing::Test {
 protected:
  // Pages of 4 tokens; num_slabs without the null page.
  void Make(int64_t num_slabs, const std::vector<int32_t>& windows = {0}) {
    kv_ = NewKvManager(num_slabs + 1, kSlabBytes, 1);
    model_ = kv_->AddModel(MakeLayout(4, windows));
  }
  KvState* NewState(const std::string& salt = "") {
    states_.push_back(std::make_unique<KvState>());
    states_.back()->model = model_;
    states_.back()->root = HashRoot({"", "", "", "", "", salt});
    return states_.back().get();
  }
  int64_t Hit(const Tokens& tokens, const std::string& salt = "") {
    return kv_->Match(NewState(salt), tokens).hit_tokens;
  }
  int64_t Pending(const Tokens& tokens) { return kv_->Match(NewState(), tokens).pending_tokens; }
  // Admits and computes all tokens in one step.
  KvState* Run(const Tokens& tokens, const std::string& salt = "") {
    KvState* state = NewState(salt);
    const int64_t hit = kv_->Match(state, tokens).hit_tokens;
    const int64_t num_tokens = static_cast<int64_t>(tokens.size());
    EXPECT_TRUE(kv_->Admit(state, tokens, num_tokens - hit, 0));
    EXPECT_EQ(state->num_tokens, hit);
    kv_->Advance(state, tokens, num_tokens);
    Check();
    return state;
  }
  void Release(KvState* state) {
    kv_->Release(state);
    Check();
  }
  void RunAndRelease(const Tokens& tokens) { Release(Run(tokens)); }
  void Check() {
    std::vector<const KvState*> live;
    for (const auto& state : states_) {
      if (state->admitted) live.push_back(state.get());
    }
    kv_->CheckInvariants(live);
    const KvUsage usage = kv_->usage();
    EXPECT_EQ(usage.free_slabs + usage.cached_slabs + usage.kv_slabs + usage.adapter_slabs,
              usage.total_slabs);
  }

  std::unique_ptr<KvManager> kv_;
  int32_t model_ = 0;
  std::vector<std::unique_ptr<KvState>> states_;
};

// Adapters share the pool: they evict cached pages, keep a reserve, and idle ones are asked for
// before others are refused.
TEST_F(KvManagerTest, AdaptersTakePagesOfThePool) {
  Make(8);
  RunAndRelease(Iota(16));  // 4 cached pages
  std::vector<PageId> first;
  EXPECT_FALSE(kv_->AllocateAdapter(model_, 7, /*reserve_slabs=*/2, 0, &first));
  EXPECT_TRUE(first.empty());
  EXPECT_TRUE(kv_->AllocateAdapter(model_, 4, 2, 0, &first));
  Check();
  EXPECT_EQ(kv_->usage().cached_slabs, 4);
  std::vector<PageId> second;
  EXPECT_TRUE(kv_->AllocateAdapter(model_, 3, 0, 1, &second));
  EXPECT_EQ(kv_->usage().adapter_slabs, 7);
  EXPECT_EQ(kv_->usage().cached_slabs, 1);
  Check();
  int num_asked = 0;
  kv_->SetReclaim([&](bool must, int32_t, uint64_t) {
    ++num_asked;
    if (!must || first.empty()) return false;
    kv_->FreeAdapter(std::exchange(first, {}));
    return true;
  });
  KvState* const state = NewState();
  EXPECT_TRUE(kv_->Admit(state, Iota(16), 16, 0));
  EXPECT_GT(num_asked, 0);
  EXPECT_TRUE(first.empty());
  Check();
}

TEST_F(KvManagerTest, SetAsidePagesAreForAdaptersAlone) {
  Make(8);
  EXPECT_FALSE(kv_->SetAsideForAdapters(model_, 9));
  ASSERT_TRUE(kv_->SetAsideForAdapters(model_, 3));
  Check();
  std::vector<PageId> first;
  ASSERT_TRUE(kv_->AllocateAdapter(model_, 2, /*reserve_slabs=*/100, 0, &first));
  EXPECT_EQ(first.size(), 2u);
  kv_->SetReclaim([&](bool must, int32_t, uint64_t) {
    if (!must || first.empty()) return false;
    kv_->FreeAdapter(std::exchange(first, {}));
    return true;
  });
  // Sequences have the other five, and ask nobody for more.
  EXPECT_FALSE(kv_->Admit(NewState(), Iota(24), 24, 0));
  EXPECT_EQ(first.size(), 2u);
  KvState* const state = NewState();
  ASSERT_TRUE(kv_->Admit(state, Iota(20), 20, 0));
  std::vector<PageId> second;
  EXPECT_FALSE(kv_->AllocateAdapter(model_, 4, 0, 1, &second));
  EXPECT_TRUE(first.empty());
  EXPECT_TRUE(kv_->AllocateAdapter(model_, 3, 0, 1, &second));
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
  EXPECT_EQ(kv_->Match(state, Iota(24)).pending_tokens, 0);
  ASSERT_TRUE(kv_->Admit(state, Iota(24), 24, 0));
  EXPECT_EQ(state->num_tokens, 0);
  Check();
  EXPECT_EQ(Pending(Iota(24)), 8);
  kv_->Advance(state, Iota(24), 24);
  Check();
  EXPECT_EQ(Hit(Iota(24)), 8);
  EXPECT_TRUE(state->hashes.empty());
  EXPECT_EQ(kv_->stats().lookup_tokens, 8);
  Release(state);
  EXPECT_EQ(kv_->usage().free_slabs, 14);
}

TEST_F(KvManagerTest, AdmitIsAllOrNothing) {
  Make(7, {0, 0});
  KvState* state = NewState();
  EXPECT_FALSE(kv_->Admit(state, Iota(16), 16, 0));  // 4 pages of 2 groups
  EXPECT_FALSE(state->admitted);
  EXPECT_TRUE(state->groups.empty());
  Check();
  EXPECT_EQ(kv_->usage().free_slabs, 7);
  EXPECT_EQ(Pending(Iota(16)), 0);
  EXPECT_FALSE(kv_->Admit(state, Iota(16), 12, 2));  // 6, but 2 must stay
  EXPECT_TRUE(kv_->Admit(state, Iota(16), 12, 1));
  Check();
  EXPECT_EQ(kv_->usage().free_slabs, 1);
}

TEST_F(KvManagerTest, ARefusedAdmitEvictsNothing) {
  Make(4);
  RunAndRelease(Iota(16));
  EXPECT_EQ(kv_->usage().cached_slabs, 4);
  EXPECT_FALSE(kv_->Admit(NewState(), Iota(20, 100), 20, 0));
  EXPECT_EQ(Hit(Iota(17)), 16);
  EXPECT_EQ(kv_->stats().evicted_pages, 0);
}

TEST_F(KvManagerTest, TheReserveCountsWhatAHitTakesOutOfEviction) {
  Make(4);
  RunAndRelease(Iota(12));
  KvState* state = NewState();
  EXPECT_FALSE(kv_->Admit(state, Iota(13), 1, 1));
  EXPECT_TRUE(kv_->Admit(state, Iota(13), 1, 0));
  // Held by `state` now, and still found.
  EXPECT_EQ(kv_->Match(NewState(), Iota(13)).hit_tokens, 12);
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

TEST_F(KvManagerTest, AnnouncedPagesArePending) {
  Make(32);
  KvState* first = NewState();
  ASSERT_TRUE(kv_->Admit(first, Iota(14), 4, 0));
  EXPECT_EQ(first->num_pending_pages, 3);  // the last two tokens fill no page
  Check();
  KvMatch match = kv_->Match(NewState(), Iota(20));
  EXPECT_EQ(match.hit_tokens, 0);
  EXPECT_EQ(match.pending_tokens, 12);
  EXPECT_EQ(Pending(Iota(6)), 4);
  const std::vector<PageHash> names = first->hashes;
  for (const PageHash& name : names) EXPECT_TRUE(kv_->Announced(model_, name));
  EXPECT_FALSE(kv_->Announced(model_ + 1, names[0]));

  kv_->Advance(first, Iota(14), 4);
  EXPECT_FALSE(kv_->Announced(model_, names[0]));  // it is there
  EXPECT_TRUE(kv_->Announced(model_, names[1]));
  match = kv_->Match(NewState(), Iota(20));
  EXPECT_EQ(match.hit_tokens, 4);
  EXPECT_EQ(match.pending_tokens, 12);
  EXPECT_EQ(first->num_pending_pages, 2);
  Check();

  KvState* second = NewState();  // does not wait: both announce
  ASSERT_TRUE(kv_->Admit(second, Iota(14), 10, 0));
  EXPECT_EQ(second->num_pending_pages, 2);
  Release(first);
  EXPECT_EQ(Pending(Iota(20)), 12);
  EXPECT_TRUE(kv_->Announced(model_, names[2]));
  Release(second);
  EXPECT_FALSE(kv_->Announced(model_, names[2]));
  EXPECT_EQ(Pending(Iota(20)), 4);  // equal to the hit
}

TEST_F(KvManagerTest, DuplicatesStayPrivate) {
  Make(16);
  KvState* first = NewState();
  KvState* second = NewState();
  ASSERT_TRUE(kv_->Admit(first, Iota(9), 9, 0));
  ASSERT_TRUE(kv_->Admit(second, Iota(9), 9, 0));
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
  EXPECT_TRUE(kv_->Admit(state, Iota(18), 2, 0));
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
  ASSERT_TRUE(kv_->Admit(toucher, Iota(9), 0, 0));
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
  ASSERT_TRUE(kv_->Admit(state, tokens, 16, 0));
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
  kv_->Advance(state, tokens, 17);  // 17 sees 12 and later
  EXPECT_EQ(state->groups[1].first_live_page, 3);
  Check();
}

TEST_F(KvManagerTest, PrivatePagesBehindTheWindowAreFree) {
  Make(32, {6});
  KvState* state = NewState();
  state->cacheable = false;
  ASSERT_TRUE(kv_->Admit(state, Iota(16), 16, 0));
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
  ASSERT_TRUE(kv_->Admit(state, Iota(25), 1, 0));
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
  EXPECT_EQ(Hit(Iota(17)), 16);  // window page 0 is behind the window
  EXPECT_EQ(Hit(Iota(5)), 0);    // but not for a short prefix
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
  ASSERT_TRUE(kv_->Admit(state, Iota(9), 1, 0));
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

TEST_F(KvManagerTest, AReserveIsCountedInPagesOfTheModel) {
  kv_ = NewKvManager(4 + 12, kSlabBytes, 4);
  const int32_t small = kv_->AddModel(MakeLayout(4, {0}));
  const int32_t large = kv_->AddModel(MakeLayout(8, {0}, 4));
  model_ = small;
  Run(Iota(4));  // three free slabs beside it make no large page
  model_ = large;
  KvState* state = NewState();
  EXPECT_FALSE(kv_->Admit(state, Iota(8), 8, 5));
  EXPECT_TRUE(kv_->Admit(state, Iota(8), 8, 4));
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
      ASSERT_TRUE(kv_->Admit(state, tokens, first, 0));
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

TEST_F(KvManagerTest, PrivatePagesAreWritableAsTheyAre) {
  Make(16);
  KvState* state = NewState();
  state->cacheable = false;
  ASSERT_TRUE(kv_->Admit(state, Iota(10), 10, 0));
  kv_->Advance(state, Iota(10), 10);
  const Pages before = state->groups[0].pages;
  EXPECT_TRUE(kv_->EnsureWritable(state, 0, 10));
  EXPECT_EQ(state->groups[0].pages, before);
  EXPECT_TRUE(kv_->TakePageOps(model_).empty());
}

TEST_F(KvManagerTest, SharedPagesAreCopiedBeforeTheyAreWritten) {
  Make(16, {0, 10});
  const Tokens tokens = Iota(18);
  KvState* first = Run(tokens);
  KvState* second = Run(tokens);
  const std::vector<KvGroupState> before = second->groups;
  ASSERT_EQ(before[1].first_live_page, 2);
  EXPECT_TRUE(kv_->EnsureWritable(second, 7, 7));
  EXPECT_TRUE(kv_->EnsureWritable(second, 7, 14));  // pages 1, 2 and 3; 1 is behind the window
  Check();
  for (size_t g : {0, 1}) {
    EXPECT_EQ(first->groups[g].pages[3], before[g].pages[3]);
    EXPECT_NE(second->groups[g].pages[3], before[g].pages[3]);
    EXPECT_NE(second->groups[g].pages[2], before[g].pages[2]);
    EXPECT_EQ(second->groups[g].pages[0], before[g].pages[0]);
    EXPECT_EQ(second->groups[g].pages[4], before[g].pages[4]);
  }
  EXPECT_EQ(second->groups[1].pages[1], kNullPage);
  EXPECT_TRUE(kv_->EnsureWritable(second, 7, 14));  // already
  const std::vector<PageOp> ops = kv_->TakePageOps(model_);
  ASSERT_EQ(ops.size(), 5u);
  EXPECT_TRUE(kv_->TakePageOps(model_).empty());
  EXPECT_EQ(ops[0].kind, PageOpKind::kCopy);
  EXPECT_EQ(ops[0].group, 0);
  EXPECT_EQ(ops[0].src, before[0].pages[1]);
  EXPECT_EQ(ops[0].dst, second->groups[0].pages[1]);
  EXPECT_EQ(ops[0].num_tokens, 4);
  EXPECT_EQ(ops[0].layer_begin, 0);
  EXPECT_EQ(ops[0].layer_end, 2);
  EXPECT_EQ(ops[3].group, 1);
  EXPECT_EQ(ops[3].src, before[1].pages[2]);
  Check();
  EXPECT_EQ(Hit(tokens), 16);  // the originals are still found
}

TEST_F(KvManagerTest, EnsureWritableIsAllOrNothing) {
  Make(5);
  KvState* state = Run(Iota(16));
  EXPECT_FALSE(kv_->EnsureWritable(state, 0, 8));
  Check();
  EXPECT_TRUE(kv_->TakePageOps(model_).empty());
  EXPECT_TRUE(kv_->EnsureWritable(state, 5, 6));
  Check();
}

TEST_F(KvManagerTest, TheSourceOfACopyIsHeldUntilTheCopyIsTaken) {
  Make(3);
  KvState* state = Run(Iota(8));
  const PageId source = state->groups[0].pages[0];
  ASSERT_TRUE(kv_->EnsureWritable(state, 0, 4));
  KvState* other = NewState("other");
  EXPECT_FALSE(kv_->Admit(other, Iota(4, 100), 4, 0));
  EXPECT_EQ(kv_->TakePageOps(model_).size(), 1u);
  ASSERT_TRUE(kv_->Admit(other, Iota(4, 100), 4, 0));
  EXPECT_EQ(other->groups[0].pages[0], source);
  Check();
}

TEST_F(KvManagerTest, ACopyToAPageGivenBackIsNotMade) {
  Make(8);
  KvState* state = Run(Iota(8));
  ASSERT_TRUE(kv_->EnsureWritable(state, 0, 8));
  Release(state);
  EXPECT_TRUE(kv_->TakePageOps(model_).empty());
  EXPECT_EQ(kv_->usage().kv_slabs, 0);
  EXPECT_EQ(kv_->usage().cached_slabs, 2);
  EXPECT_EQ(Hit(Iota(9)), 8);

  Make(8, {5});
  state = Run(Iota(8));
  ASSERT_TRUE(kv_->EnsureWritable(state, 4, 8));
  ASSERT_TRUE(kv_->Grow(state, 12));
  kv_->Advance(state, Iota(12), 12);  // page 1 falls behind the window
  EXPECT_TRUE(kv_->TakePageOps(model_).empty());
  Check();
}

using KvManagerDeathTest = KvManagerTest;

TEST_F(KvManagerDeathTest, BrokenContractsAreCaught) {
  ASSERT_TRUE(InitLogging("info"));  // to stderr, where death tests look
  Make(16);
  const Tokens tokens = Iota(12);
  KvState* state = NewState();
  EXPECT_DEATH(kv_->Grow(state, 4), "CHECK");
  ASSERT_TRUE(kv_->Admit(state, tokens, 8, 0));
  EXPECT_DEATH(kv_->Match(state, tokens), "CHECK");
  EXPECT_DEATH(kv_->Admit(state, tokens, 8, 0), "CHECK");
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

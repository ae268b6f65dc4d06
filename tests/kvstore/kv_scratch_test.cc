// The sequences of one plan see each other's announcements before the plan is committed.
#include <gtest/gtest.h>

#include <vector>

#include "tests/kvstore/kv_fixture.h"

namespace tessera {
namespace {

using testing::Iota;
using testing::MakeLayout;
using Tokens = std::vector<TokenId>;

class KvScratchTest : public testing::KvManagerTest {
 protected:
  KvMatch See(KvState* state, const Tokens& tokens) { return kv_->Match(state, tokens, &scratch_); }
  KvMatch See(const Tokens& tokens) { return See(NewState(), tokens); }
  // The plan will admit it.
  KvState* Plan(const Tokens& tokens) {
    KvState* state = NewState();
    kv_->Foresee(state, tokens, See(state, tokens), &scratch_);
    return state;
  }

  KvScratch scratch_;
};

TEST_F(KvScratchTest, SequencesOfOnePlanSeeEachOthersAnnouncements) {
  Make(16);
  EXPECT_EQ(See(Iota(20)).announced_tokens, 0);
  Plan(Iota(14));
  EXPECT_EQ(See(Iota(20)).hit_tokens, 0);
  EXPECT_EQ(See(Iota(20)).announced_tokens, 12);  // the last two tokens fill no page
  EXPECT_EQ(See(Iota(20, 1)).announced_tokens, 0);
  Plan(Iota(20));
  EXPECT_EQ(See(Iota(40)).announced_tokens, 20);
}

TEST_F(KvScratchTest, AnnouncementsFollowAHit) {
  Make(16);
  RunAndRelease(Iota(8));
  Plan(Iota(14));
  EXPECT_EQ(scratch_.announced.size(), 1u);  // page 2; the hit has pages 0 and 1
  EXPECT_EQ(See(Iota(20)).hit_tokens, 8);
  EXPECT_EQ(See(Iota(20)).announced_tokens, 12);
}

TEST_F(KvScratchTest, ModelsAndSaltsAreApart) {
  Make(16);
  const int32_t other = kv_->AddModel(MakeLayout(4, {0}));
  Plan(Iota(14));
  EXPECT_EQ(See(NewState("salt"), Iota(20)).announced_tokens, 0);
  model_ = other;
  EXPECT_EQ(See(Iota(20)).announced_tokens, 0);
}

TEST_F(KvScratchTest, AnEvictablePageIsCountedOnce) {
  Make(16);
  RunAndRelease(Iota(12));
  EXPECT_EQ(See(Iota(13)).evictable_pages, 3);
  Plan(Iota(9));
  EXPECT_EQ(See(Iota(13)).evictable_pages, 1);
  EXPECT_EQ(See(Iota(9)).evictable_pages, 0);
  Plan(Iota(13));
  EXPECT_EQ(See(Iota(13)).evictable_pages, 0);
  EXPECT_EQ(scratch_.taken.size(), 3u);
  scratch_.Clear();
  EXPECT_EQ(See(Iota(13)).evictable_pages, 3);
}

// A group with a window takes only the pages that its next token sees.
TEST_F(KvScratchTest, PagesThatAWindowHasLeftAreNotTaken) {
  Make(32, {0, 6});
  RunAndRelease(Iota(16));
  EXPECT_EQ(See(Iota(17)).evictable_pages, 6);
  Plan(Iota(17));
  EXPECT_EQ(scratch_.taken.size(), 6u);
  EXPECT_EQ(See(Iota(9)).evictable_pages, 2);  // the window of the token at 8: pages 0 and 1
}

TEST_F(KvScratchTest, UncacheableStatesLeaveTheScratchAlone) {
  Make(16);
  RunAndRelease(Iota(12));
  KvState* state = NewState();
  state->cacheable = false;
  kv_->Foresee(state, Iota(20), See(state, Iota(20)), &scratch_);
  EXPECT_TRUE(scratch_.announced.empty());
  EXPECT_TRUE(scratch_.taken.empty());
}

TEST_F(KvScratchTest, PlanningLeavesTheStoreUnchanged) {
  Make(4);
  RunAndRelease(Iota(8));
  const KvUsage before = kv_->usage();
  const uint64_t ticks = kv_->ticks();
  KvState* state = Plan(Iota(14));
  Check();
  EXPECT_FALSE(state->admitted);
  EXPECT_EQ(kv_->ticks(), ticks);
  EXPECT_EQ(kv_->usage().free_slabs, before.free_slabs);
  EXPECT_EQ(kv_->usage().cached_slabs, before.cached_slabs);
  EXPECT_EQ(kv_->AvailablePages(model_), 4);
  EXPECT_FALSE(kv_->WatchAnnounced(model_, state->hashes[2]));
  const KvMatch match = kv_->Match(NewState(), Iota(14));
  EXPECT_EQ(match.announced_tokens, 8);
  EXPECT_EQ(match.evictable_pages, 2);
}

// Admit makes the changes that Foresee predicted.
TEST_F(KvScratchTest, AdmitDoesWhatWasForeseen) {
  Make(16);
  RunAndRelease(Iota(8));
  KvState* state = Plan(Iota(14));
  const KvMatch foreseen = See(Iota(20));
  kv_->Admit(state, Iota(14));
  const KvMatch match = kv_->Match(NewState(), Iota(20));
  EXPECT_EQ(match.hit_tokens, foreseen.hit_tokens);
  EXPECT_EQ(match.announced_tokens, foreseen.announced_tokens);
  EXPECT_EQ(match.evictable_pages, foreseen.evictable_pages);
  EXPECT_EQ(state->num_announced_pages, 1);
  Check();
}

}  // namespace
}  // namespace tessera

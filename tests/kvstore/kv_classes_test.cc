// Tests of approximate KV: the names of its pages, the sequences that find them, and the token from
// which a sequence's KV is not exact.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "kernels/base/log.h"
#include "tests/kvstore/kv_fixture.h"

namespace tessera {
namespace {

using testing::Iota;
using Tokens = std::vector<TokenId>;
using Classes = std::vector<std::string>;
using Names = std::vector<std::pair<PageHash, int32_t>>;

class KvClassesTest : public testing::KvManagerTest {
 protected:
  KvState* Accepting(const Classes& classes) {
    KvState* const state = NewState();
    for (const std::string& name : classes) {
      state->accepted.push_back({ApproximateRoot(state->root, name), {}});
    }
    return state;
  }
  KvMatch Find(const Tokens& tokens, const Classes& classes) {
    return kv_->Match(Accepting(classes), tokens);
  }
  // Admits `tokens`, marks them from `from_token` on as approximate in the state's class and
  // computes them.
  KvState* RunApproximate(KvState* state, const Tokens& tokens, int64_t from_token,
                          int32_t kv_class = 0) {
    const auto num_tokens = static_cast<int64_t>(tokens.size());
    EXPECT_TRUE(AdmitAndGrow(state, tokens, num_tokens));
    kv_->MarkApproximate(state, tokens, from_token, kv_class);
    Check();
    kv_->Advance(state, tokens, num_tokens);
    Check();
    return state;
  }
  void LeaveApproximate(const Tokens& tokens, int64_t from_token, const std::string& kv_class) {
    Release(RunApproximate(Accepting({kv_class}), tokens, from_token));
  }
};

TEST_F(KvClassesTest, ApproximatePagesAreFoundInTheirClassOnly) {
  Make(16);
  LeaveApproximate(Iota(16), 0, "lossy");
  EXPECT_EQ(Find(Iota(17), {}).hit_tokens, 0);
  EXPECT_EQ(Find(Iota(17), {"other"}).hit_tokens, 0);
  const KvMatch match = Find(Iota(17), {"lossy"});
  EXPECT_EQ(match.hit_tokens, 16);
  EXPECT_EQ(match.exact_tokens, 0);
  EXPECT_EQ(match.kv_class, 0);
  EXPECT_EQ(match.evictable_pages, 4);
}

TEST_F(KvClassesTest, ExactPagesHaveNoNameInAClass) {
  Make(16);
  KvState* const state = Accepting({"lossy"});
  EXPECT_TRUE(AdmitAndGrow(state, Iota(16), 16));
  kv_->Advance(state, Iota(16), 16);
  Check();
  // The state accepts a class and has looked for its pages; what it computed is exact.
  EXPECT_EQ(state->exact_tokens, kAllExact);
  for (const PageHash& name : state->accepted[0].hashes) {
    EXPECT_FALSE(kv_->Findable(model_, 0, name));
  }
  const KvMatch match = Find(Iota(17), {"lossy"});
  EXPECT_EQ(match.hit_tokens, 16);
  EXPECT_EQ(match.exact_tokens, 16);
  EXPECT_EQ(match.kv_class, kNoKvClass);
}

TEST_F(KvClassesTest, APageIsExactOnlyIfAllItsTokensAre) {
  Make(16);
  LeaveApproximate(Iota(16), 7, "lossy");
  EXPECT_EQ(Find(Iota(17), {}).hit_tokens, 4);
  const KvMatch match = Find(Iota(17), {"lossy"});
  EXPECT_EQ(match.hit_tokens, 16);
  EXPECT_EQ(match.exact_tokens, 4);
}

// Pages 2 and 3 exist as exact and as approximate pages; the lookup takes the exact pages.
TEST_F(KvClassesTest, ExactPagesAreTakenFirst) {
  Make(16);
  KvState* const approximate = RunApproximate(Accepting({"lossy"}), Iota(16), 8);
  KvState* const exact = Run(Iota(16));
  KvState* const state = Accepting({"lossy"});
  kv_->Admit(state, Iota(17));
  Check();
  EXPECT_EQ(state->num_tokens, 16);
  EXPECT_EQ(state->exact_tokens, kAllExact);
  EXPECT_EQ(state->groups[0].pages, exact->groups[0].pages);
  EXPECT_NE(state->groups[0].pages, approximate->groups[0].pages);
}

TEST_F(KvClassesTest, AnExactPrefixIsContinuedByAClass) {
  Make(32);
  RunAndRelease(Iota(8));
  LeaveApproximate(Iota(16), 8, "lossy");
  KvState* const state = Accepting({"lossy"});
  ASSERT_TRUE(AdmitAndGrow(state, Iota(24), 24));
  EXPECT_EQ(state->num_tokens, 16);
  EXPECT_EQ(state->exact_tokens, 8);
  EXPECT_EQ(state->kv_class, 0);
  kv_->Advance(state, Iota(24), 24);
  Check();
  // What was computed on approximate KV is approximate.
  EXPECT_EQ(Find(Iota(25), {}).hit_tokens, 8);
  EXPECT_EQ(Find(Iota(25), {"lossy"}).hit_tokens, 24);
}

TEST_F(KvClassesTest, TheLongestContinuationWinsAndTheEarlierClassATie) {
  Make(32);
  LeaveApproximate(Iota(12), 4, "a");
  LeaveApproximate(Iota(16), 4, "b");
  LeaveApproximate(Iota(16), 4, "c");
  EXPECT_EQ(Find(Iota(17), {"a", "b", "c"}).kv_class, 1);
  EXPECT_EQ(Find(Iota(17), {"a", "c", "b"}).kv_class, 1);
  EXPECT_EQ(Find(Iota(13), {"a", "b", "c"}).kv_class, 0);
  EXPECT_EQ(Find(Iota(5), {"a", "b", "c"}).kv_class, kNoKvClass);
}

// A class's page is never followed by that of another class.
TEST_F(KvClassesTest, ASequenceHasOneClass) {
  Make(32);
  LeaveApproximate(Iota(8), 0, "a");
  KvState* const state = Accepting({"b"});
  ASSERT_TRUE(AdmitAndGrow(state, Iota(16), 16));
  kv_->MarkApproximate(state, Iota(16), 8, 0);
  kv_->Advance(state, Iota(16), 16);
  Check();
  const KvMatch match = Find(Iota(17), {"a", "b"});
  EXPECT_EQ(match.hit_tokens, 16);  // two exact pages of `state`, then its class
  EXPECT_EQ(match.exact_tokens, 8);
  EXPECT_EQ(match.kv_class, 1);
}

// In both groups (full attention; a window of 8 tokens) the hit takes page 2 as an exact page,
// computed from its tokens alone, and page 3, which has no exact page, as an approximate page of
// the class.
TEST_F(KvClassesTest, EachGroupTakesExactPagesFirst) {
  Make(40, {0, 8});
  KvState* const approximate = RunApproximate(Accepting({"lossy"}), Iota(16), 4);
  KvState* const exact = NewState();
  ASSERT_TRUE(AdmitAndGrow(exact, Iota(12), 12));
  kv_->Advance(exact, Iota(12), 12);
  const KvMatch match = Find(Iota(17), {"lossy"});
  EXPECT_EQ(match.hit_tokens, 16);
  EXPECT_EQ(match.exact_tokens, 12);
  KvState* const state = Accepting({"lossy"});
  kv_->Admit(state, Iota(17));
  Check();
  for (int g = 0; g < 2; ++g) {
    EXPECT_EQ(state->groups[g].pages[2], exact->groups[g].pages[2]);
    EXPECT_EQ(state->groups[g].pages[3], approximate->groups[g].pages[3]);
  }
}

TEST_F(KvClassesTest, MarkingMovesAnnouncementsToTheClass) {
  Make(16);
  KvState* const state = Accepting({"lossy"});
  ASSERT_TRUE(AdmitAndGrow(state, Iota(16), 16));
  EXPECT_EQ(Announced(Iota(17)), 16);
  for (int64_t page = 0; page < 4; ++page) {
    EXPECT_TRUE(kv_->WatchAnnounced(model_, state->hashes[page]));
  }
  kv_->MarkApproximate(state, Iota(16), 8, 0);
  Check();
  EXPECT_EQ(state->num_announced_pages, 4);
  // TakeSettled returns the names of the exact pages beyond token 8, so that sequences that wait
  // for these pages ask again.
  EXPECT_EQ(kv_->TakeSettled(), Names({{state->hashes[2], model_}, {state->hashes[3], model_}}));
  EXPECT_EQ(Announced(Iota(17)), 8);
  KvState* const acceptor = Accepting({"lossy"});
  const KvMatch match = kv_->Match(acceptor, Iota(17));
  EXPECT_EQ(match.announced_tokens, 16);
  EXPECT_EQ(match.announced_class, 0);
  const PageHash exact_name = kv_->AnnouncedName(*acceptor, match, 1, nullptr);
  const PageHash class_name = kv_->AnnouncedName(*acceptor, match, 2, nullptr);
  EXPECT_EQ(exact_name, state->hashes[1]);
  EXPECT_EQ(class_name, state->accepted[0].hashes[2]);
  EXPECT_TRUE(kv_->WatchAnnounced(model_, class_name));
  kv_->Advance(state, Iota(16), 12);
  Check();
  EXPECT_EQ(kv_->TakeSettled(),
            Names({{state->hashes[0], model_}, {exact_name, model_}, {class_name, model_}}));
}

TEST_F(KvClassesTest, MarkingAgainMovesOnlyPagesThatWereExact) {
  Make(16);
  KvState* const state = Accepting({"lossy"});
  ASSERT_TRUE(AdmitAndGrow(state, Iota(16), 16));
  kv_->MarkApproximate(state, Iota(16), 12, 0);
  EXPECT_TRUE(kv_->WatchAnnounced(model_, state->accepted[0].hashes[3]));
  kv_->MarkApproximate(state, Iota(16), 4, 0);
  Check();
  EXPECT_EQ(state->exact_tokens, 4);
  EXPECT_TRUE(kv_->TakeSettled().empty());
  kv_->MarkApproximate(state, Iota(16), 8, 0);  // it is approximate from token 4 on already
  Check();
  EXPECT_EQ(state->exact_tokens, 4);
  EXPECT_EQ(Announced(Iota(17)), 4);
  EXPECT_EQ(Find(Iota(17), {"lossy"}).announced_tokens, 16);
}

// Without a class nobody can find approximate KV.
TEST_F(KvClassesTest, ApproximateKvInNoClassStaysPrivate) {
  Make(16);
  KvState* const state = Accepting({"lossy"});
  RunApproximate(state, Iota(16), 8, kNoKvClass);
  EXPECT_EQ(state->num_announced_pages, 0);
  EXPECT_EQ(Find(Iota(17), {"lossy"}).hit_tokens, 8);
  Release(state);
  EXPECT_EQ(kv_->usage().cached_slabs, 2);
}

// Pages that are published already keep their exact names.
TEST_F(KvClassesTest, MarkingWrittenTokensBoundsThePagesAfterThem) {
  Make(16);
  KvState* const state = Accepting({"lossy"});
  ASSERT_TRUE(AdmitAndGrow(state, Iota(16), 16));
  kv_->Advance(state, Iota(16), 10);
  kv_->MarkApproximate(state, Iota(16), 2, 0);
  Check();
  kv_->Advance(state, Iota(16), 16);
  Check();
  EXPECT_EQ(Find(Iota(17), {}).hit_tokens, 8);
  EXPECT_EQ(Find(Iota(17), {"lossy"}).hit_tokens, 16);
}

TEST_F(KvClassesTest, APreemptedSequenceIsBoundAgainByWhatItFinds) {
  Make(16);
  KvState* const state = RunApproximate(Accepting({"lossy"}), Iota(18), 8);
  Release(state);
  EXPECT_EQ(state->exact_tokens, kAllExact);
  EXPECT_EQ(state->kv_class, kNoKvClass);
  ASSERT_TRUE(AdmitAndGrow(state, Iota(24), 24));
  EXPECT_EQ(state->num_tokens, 16);
  EXPECT_EQ(state->exact_tokens, 8);
  EXPECT_EQ(state->kv_class, 0);
  kv_->Advance(state, Iota(24), 24);
  Check();
  EXPECT_EQ(Find(Iota(25), {}).hit_tokens, 8);
  // When its pages are gone, it computes them again, exactly.
  Release(state);
  kv_->DropCached();
  ASSERT_TRUE(AdmitAndGrow(state, Iota(24), 24));
  EXPECT_EQ(state->exact_tokens, kAllExact);
  kv_->Advance(state, Iota(24), 24);
  Check();
  EXPECT_EQ(Find(Iota(25), {}).hit_tokens, 24);
}

TEST_F(KvClassesTest, WhatIsForeseenComesTrue) {
  Make(16);
  RunAndRelease(Iota(4));
  LeaveApproximate(Iota(8), 4, "lossy");
  KvScratch scratch;
  KvState* const state = Accepting({"lossy"});
  kv_->Foresee(state, Iota(16), kv_->Match(state, Iota(16), &scratch), &scratch);
  EXPECT_EQ(scratch.taken.size(), 2u);
  EXPECT_EQ(scratch.announced.size(), 2u);
  KvState* const acceptor = Accepting({"lossy"});
  const KvMatch foreseen = kv_->Match(acceptor, Iota(17), &scratch);
  const KvMatch exact_foreseen = kv_->Match(NewState(), Iota(17), &scratch);
  EXPECT_EQ(foreseen.announced_tokens, 16);
  EXPECT_EQ(exact_foreseen.announced_tokens, 4);
  const PageHash name = kv_->AnnouncedName(*acceptor, foreseen, 3, &scratch);
  kv_->Admit(state, Iota(16));
  Check();
  const KvMatch match = kv_->Match(acceptor, Iota(17));
  EXPECT_EQ(match.hit_tokens, foreseen.hit_tokens);
  EXPECT_EQ(match.exact_tokens, foreseen.exact_tokens);
  EXPECT_EQ(match.announced_tokens, foreseen.announced_tokens);
  EXPECT_EQ(match.evictable_pages, foreseen.evictable_pages);
  EXPECT_EQ(kv_->Match(NewState(), Iota(17)).announced_tokens, exact_foreseen.announced_tokens);
  EXPECT_EQ(name, kv_->AnnouncedName(*acceptor, match, 3, nullptr));
  EXPECT_TRUE(kv_->WatchAnnounced(model_, name));
}

TEST_F(KvClassesTest, UncacheableStatesFindNothingAndTellNothing) {
  Make(16);
  LeaveApproximate(Iota(16), 0, "lossy");
  KvState* const state = Accepting({"lossy"});
  state->cacheable = false;
  EXPECT_EQ(kv_->Match(state, Iota(17)).hit_tokens, 0);
  RunApproximate(state, Iota(12, 100), 0);
  EXPECT_EQ(Find(Iota(13, 100), {"lossy"}).hit_tokens, 0);
}

using KvClassesDeathTest = KvClassesTest;

TEST_F(KvClassesDeathTest, BrokenContractsAreCaught) {
  ASSERT_TRUE(InitLogging("info"));  // to stderr, where death tests look
  Make(16);
  KvState* const state = Accepting({"a", "b"});
  EXPECT_DEATH(kv_->MarkApproximate(state, Iota(8), 0, 0), "admitted");
  kv_->Admit(state, Iota(8));
  EXPECT_DEATH(kv_->MarkApproximate(state, Iota(8), 0, 2), "accepted");
  kv_->MarkApproximate(state, Iota(8), 0, 0);
  EXPECT_DEATH(kv_->MarkApproximate(state, Iota(8), 0, 1), "kv_class");
}

}  // namespace
}  // namespace tessera

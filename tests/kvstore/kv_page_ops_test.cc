// Pages that are copied before they are written, and how long both sides of a copy are held.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/base/log.h"
#include "tests/kvstore/kv_fixture.h"

namespace tessera {
namespace {

using testing::Iota;
using testing::kSlabBytes;
using testing::MakeLayout;
using KvPageOpsTest = testing::KvManagerTest;
using Pages = std::vector<PageId>;
using Tokens = std::vector<TokenId>;

TEST_F(KvPageOpsTest, PrivatePagesAreWritableAsTheyAre) {
  Make(16);
  KvState* state = NewState();
  state->cacheable = false;
  ASSERT_TRUE(AdmitAndGrow(state, Iota(10), 10));
  kv_->Advance(state, Iota(10), 10);
  const Pages before = state->groups[0].pages;
  EXPECT_TRUE(kv_->EnsureWritable(state, 0, 10));
  EXPECT_EQ(state->groups[0].pages, before);
  EXPECT_TRUE(kv_->TakePageOps(model_).empty());
}

TEST_F(KvPageOpsTest, SharedPagesAreCopiedBeforeTheyAreWritten) {
  Make(16, {0, 10});
  const Tokens tokens = Iota(18);
  KvState* first = Run(tokens);
  KvState* second = Run(tokens);
  const std::vector<KvGroupState> before = second->groups;
  ASSERT_EQ(before[1].first_live_page, 2);
  EXPECT_TRUE(kv_->EnsureWritable(second, 7, 7));
  EXPECT_TRUE(kv_->EnsureWritable(second, 7, 14));  // pages 1, 2 and 3; page 1 has left the window
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

TEST_F(KvPageOpsTest, ACopyHasTheLayersOfItsGroup) {
  kv_ = NewKvManager(17, kSlabBytes, 1);
  PageLayout layout = MakeLayout(4, {0, 0});
  layout.groups[1].num_layers = 1;  // pages of the same bytes with half the layers
  layout.groups[1].kv_heads = 2;
  model_ = kv_->AddModel(layout);
  Run(Iota(8));
  KvState* const second = Run(Iota(9));
  ASSERT_TRUE(kv_->EnsureWritable(second, 0, 4));
  const std::vector<PageOp> ops = kv_->TakePageOps(model_);
  ASSERT_EQ(ops.size(), 2u);
  EXPECT_EQ(ops[0].group, 0);
  EXPECT_EQ(ops[0].layer_end, 2);
  EXPECT_EQ(ops[1].group, 1);
  EXPECT_EQ(ops[1].layer_end, 1);
}

TEST_F(KvPageOpsTest, EnsureWritableIsAllOrNothing) {
  Make(5);
  KvState* state = Run(Iota(16));
  EXPECT_FALSE(kv_->EnsureWritable(state, 0, 8));
  Check();
  EXPECT_TRUE(kv_->TakePageOps(model_).empty());
  EXPECT_TRUE(kv_->EnsureWritable(state, 5, 6));
  Check();
}

TEST_F(KvPageOpsTest, TheSourceOfACopyIsHeldUntilItsStepHasRetired) {
  Make(3);
  KvState* state = Run(Iota(8));
  const PageId source = state->groups[0].pages[0];
  ASSERT_TRUE(kv_->EnsureWritable(state, 0, 4));
  KvState* other = NewState("other");
  EXPECT_FALSE(AdmitAndGrow(other, Iota(4, 100), 4));
  const std::vector<PageOp> ops = kv_->TakePageOps(model_);
  ASSERT_EQ(ops.size(), 1u);
  Check();
  EXPECT_FALSE(kv_->Grow(other, 4));
  Pages adapter;
  EXPECT_FALSE(kv_->AllocateAdapter(model_, 1, 0, &adapter));
  kv_->ReleasePageOps(ops);
  ASSERT_TRUE(kv_->Grow(other, 4));
  EXPECT_EQ(other->groups[0].pages[0], source);
  Check();
}

TEST_F(KvPageOpsTest, ADestinationGivenBackIsHeldUntilItsStepHasRetired) {
  Make(3);
  KvState* state = Run(Iota(8));
  ASSERT_TRUE(kv_->EnsureWritable(state, 0, 4));
  const PageId destination = state->groups[0].pages[0];
  const std::vector<PageOp> ops = kv_->TakePageOps(model_);
  ASSERT_EQ(ops.size(), 1u);
  Release(state);
  EXPECT_EQ(kv_->usage().kv_slabs, 2);  // source and destination
  Pages adapter;
  EXPECT_FALSE(kv_->AllocateAdapter(model_, 2, 0, &adapter));
  kv_->ReleasePageOps(ops);
  Check();
  EXPECT_EQ(kv_->usage().kv_slabs, 0);
  EXPECT_EQ(Hit(Iota(9)), 8);  // the source is still found
  ASSERT_TRUE(kv_->AllocateAdapter(model_, 1, 0, &adapter));
  EXPECT_EQ(adapter, Pages{destination});
}

TEST_F(KvPageOpsTest, ADestinationBehindTheWindowIsHeldUntilItsStepHasRetired) {
  Make(4, {5});
  KvState* state = Run(Iota(8));
  ASSERT_TRUE(kv_->EnsureWritable(state, 4, 8));
  const std::vector<PageOp> ops = kv_->TakePageOps(model_);
  ASSERT_EQ(ops.size(), 1u);
  ASSERT_TRUE(kv_->Grow(state, 12));
  kv_->Advance(state, Iota(12), 12);  // page 1 leaves the window
  Check();
  EXPECT_EQ(kv_->usage().kv_slabs, 3);
  kv_->ReleasePageOps(ops);
  Check();
  EXPECT_EQ(kv_->usage().kv_slabs, 1);
}

// Several steps in flight read one page: the page is released when the last of them retires.
TEST_F(KvPageOpsTest, EachStepHoldsWhatItCopies) {
  Make(8);
  KvState* first = Run(Iota(9));
  KvState* second = Run(Iota(9));
  const PageId source = first->groups[0].pages[0];
  ASSERT_EQ(second->groups[0].pages[0], source);
  ASSERT_TRUE(kv_->EnsureWritable(first, 0, 4));
  const std::vector<PageOp> first_ops = kv_->TakePageOps(model_);
  ASSERT_TRUE(kv_->EnsureWritable(second, 0, 4));
  const std::vector<PageOp> second_ops = kv_->TakePageOps(model_);
  ASSERT_EQ(first_ops.size(), 1u);
  ASSERT_EQ(second_ops.size(), 1u);
  Check();
  kv_->ReleasePageOps(first_ops);
  Check();
  EXPECT_EQ(kv_->usage().cached_slabs, 0);
  kv_->ReleasePageOps(second_ops);
  Check();
  EXPECT_EQ(kv_->usage().cached_slabs, 1);
  Release(first);  // their steps have retired: freed at once
  Release(second);
  EXPECT_EQ(kv_->usage().kv_slabs, 0);
}

TEST_F(KvPageOpsTest, ACopyTakesTheLayersOfItsGroup) {
  PageLayout layout = MakeLayout(4, {0, 0, 0});
  for (int32_t g = 0; g < 3; ++g) layout.groups[g].num_layers = 3 - g;
  kv_ = NewKvManager(17, kSlabBytes, 1);
  model_ = kv_->AddModel(layout);
  KvState* state = Run(Iota(4));
  ASSERT_TRUE(kv_->EnsureWritable(state, 0, 4));
  const std::vector<PageOp> ops = kv_->TakePageOps(model_);
  ASSERT_EQ(ops.size(), 3u);
  for (int32_t g = 0; g < 3; ++g) {
    EXPECT_EQ(ops[g].group, g);
    EXPECT_EQ(ops[g].layer_begin, 0);
    EXPECT_EQ(ops[g].layer_end, 3 - g);
  }
}

TEST_F(KvPageOpsTest, ACopyToAPageGivenBackIsNotMade) {
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
  kv_->Advance(state, Iota(12), 12);  // page 1 leaves the window
  EXPECT_TRUE(kv_->TakePageOps(model_).empty());
  Check();
}

using KvPageOpsDeathTest = KvPageOpsTest;

TEST_F(KvPageOpsDeathTest, AStepRetiresOnce) {
  ASSERT_TRUE(InitLogging("info"));  // to stderr, where death tests look
  Make(4);
  KvState* state = Run(Iota(4));
  ASSERT_TRUE(kv_->EnsureWritable(state, 0, 4));
  const std::vector<PageOp> ops = kv_->TakePageOps(model_);
  kv_->ReleasePageOps(ops);
  EXPECT_DEATH(kv_->ReleasePageOps(ops), "CHECK");
}

}  // namespace
}  // namespace tessera

#include "kvstore/page_op_ledger.h"

#include <gtest/gtest.h>

#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

class PageOpLedgerTest : public ::testing::Test {
 protected:
  PageOpLedgerTest() {
    ledger_.AddModel();
    ledger_.AddModel();
  }
  PageId NewPage() { return pool_.Allocate(0, PageKind::kKv, 0); }
  int64_t num_held() const { return pool_.referenced_slabs(PageKind::kKv); }

  static PageOp Copy(PageId src, PageId dst) {
    PageOp op;
    op.src = src;
    op.dst = dst;
    op.num_tokens = 4;
    return op;
  }
  static PageOp Rotate(PageId page) {
    PageOp op;
    op.kind = PageOpKind::kRopeShift;
    op.dst = page;
    op.num_tokens = 4;
    op.delta = 3;
    return op;
  }
  // The references that the ledger holds to the page.
  int32_t LedgerRefs(PageId page) const {
    absl::flat_hash_map<PageId, int32_t> refs;
    ledger_.CountRefs(&refs);
    pool_.CheckInvariants();
    return refs[page];
  }

  PagePool pool_{/*num_slabs=*/9, /*max_slabs_per_page=*/1, [](PageId, const Page&) {}};
  PageOpLedger ledger_{&pool_};
};

TEST_F(PageOpLedgerTest, OpsGoToTheirModelsNextStepInOrder) {
  const PageId src = NewPage();
  const PageId dst = NewPage();
  const PageId other = NewPage();
  ledger_.Queue(0, Copy(src, dst));
  ledger_.Queue(1, Rotate(other));
  ledger_.Queue(0, Rotate(dst));
  const std::vector<PageOp> ops = ledger_.Take(0);
  ASSERT_EQ(ops.size(), 2u);
  EXPECT_EQ(ops[0].kind, PageOpKind::kCopy);
  EXPECT_EQ(ops[1].kind, PageOpKind::kRopeShift);
  EXPECT_TRUE(ledger_.Take(0).empty());
  EXPECT_EQ(ledger_.Take(1).size(), 1u);
  EXPECT_EQ(LedgerRefs(src), 1);
}

TEST_F(PageOpLedgerTest, TheSourceIsHeldUntilTheStepHasRetired) {
  const PageId src = NewPage();
  ledger_.Queue(0, Copy(src, NewPage()));
  EXPECT_EQ(LedgerRefs(src), 1);
  const std::vector<PageOp> ops = ledger_.Take(0);
  EXPECT_EQ(LedgerRefs(src), 1);
  EXPECT_EQ(num_held(), 2);
  ledger_.Release(ops);
  EXPECT_EQ(LedgerRefs(src), 0);
  EXPECT_EQ(num_held(), 1);
}

TEST_F(PageOpLedgerTest, QueuedOpsToAPageGivenBackAreDropped) {
  const PageId dst = NewPage();
  const PageId kept = NewPage();
  ledger_.Queue(0, Copy(NewPage(), dst));
  ledger_.Queue(0, Rotate(kept));
  ledger_.Queue(0, Rotate(dst));
  ledger_.GiveBack(0, dst);
  EXPECT_EQ(num_held(), 1);  // `kept`
  const std::vector<PageOp> ops = ledger_.Take(0);
  ASSERT_EQ(ops.size(), 1u);
  EXPECT_EQ(ops[0].dst, kept);
}

// A copy and a rotation in one step, then a rotation in the next step.
TEST_F(PageOpLedgerTest, APageGivenBackIsFreedWithItsLastWrite) {
  const PageId dst = NewPage();
  ledger_.Queue(0, Copy(NewPage(), dst));
  ledger_.Queue(0, Rotate(dst));
  const std::vector<PageOp> first = ledger_.Take(0);
  ledger_.Queue(0, Rotate(dst));
  const std::vector<PageOp> second = ledger_.Take(0);
  ledger_.GiveBack(0, dst);
  EXPECT_EQ(LedgerRefs(dst), 1);  // the sequence's reference
  ledger_.Release(first);
  EXPECT_EQ(LedgerRefs(dst), 1);
  EXPECT_EQ(num_held(), 1);
  ledger_.Release(second);
  EXPECT_EQ(LedgerRefs(dst), 0);
  EXPECT_EQ(num_held(), 0);
}

TEST_F(PageOpLedgerTest, AnOpWithoutASourceHoldsNoPage) {
  const PageId page = NewPage();
  ledger_.Queue(0, Rotate(page));
  EXPECT_EQ(LedgerRefs(kNullPage), 0);
  const std::vector<PageOp> ops = ledger_.Take(0);
  EXPECT_EQ(LedgerRefs(kNullPage), 0);
  EXPECT_EQ(LedgerRefs(page), 0);
  ledger_.Release(ops);
  EXPECT_EQ(num_held(), 1);
  ledger_.GiveBack(0, page);  // no launched step writes it now
  EXPECT_EQ(num_held(), 0);
}

// The queued op is dropped; the page is held until the launched one has retired.
TEST_F(PageOpLedgerTest, APageMayBeWrittenByAStepAndAwaitAnother) {
  const PageId page = NewPage();
  ledger_.Queue(0, Rotate(page));
  const std::vector<PageOp> ops = ledger_.Take(0);
  ledger_.Queue(0, Rotate(page));
  ledger_.GiveBack(0, page);
  EXPECT_TRUE(ledger_.Take(0).empty());
  EXPECT_EQ(num_held(), 1);
  ledger_.Release(ops);
  EXPECT_EQ(num_held(), 0);
}

using PageOpLedgerDeathTest = PageOpLedgerTest;

TEST_F(PageOpLedgerDeathTest, BrokenContractsAreCaught) {
  ASSERT_TRUE(InitLogging("info"));  // to stderr, where death tests look
  const PageId page = NewPage();
  EXPECT_DEATH(ledger_.Queue(0, Rotate(kNullPage)), "CHECK");
  pool_.Ref(page);
  EXPECT_DEATH(ledger_.Queue(0, Rotate(page)), "CHECK");  // it is shared
  pool_.Unref(page);
  ledger_.Queue(0, Rotate(page));
  const std::vector<PageOp> ops = ledger_.Take(0);
  ledger_.Release(ops);
  EXPECT_DEATH(ledger_.Release(ops), "CHECK");
}

}  // namespace
}  // namespace tessera

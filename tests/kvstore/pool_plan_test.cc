#include "kvstore/pool_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/base/types.h"

namespace tessera {
namespace {

int64_t PageBytes(int64_t page_bytes_at_16, int32_t tokens) {
  return CeilDiv<int64_t>(page_bytes_at_16 * tokens, 16);
}

double Waste(const PoolPlan& plan, const std::vector<int64_t>& bytes, size_t i) {
  return 1.0 - static_cast<double>(PageBytes(bytes[i], plan.page_tokens[i])) /
                   static_cast<double>(plan.slab_bytes * plan.slabs_per_page[i]);
}

void ExpectLegal(const PoolPlan& plan, const std::vector<int64_t>& bytes) {
  ASSERT_EQ(plan.page_tokens.size(), bytes.size());
  ASSERT_EQ(plan.slabs_per_page.size(), bytes.size());
  EXPECT_GT(plan.slab_bytes, 0);
  EXPECT_EQ(plan.slab_bytes % 64, 0);
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_GE(plan.page_tokens[i], 8);
    EXPECT_LE(plan.page_tokens[i], 64);
    EXPECT_TRUE(std::has_single_bit(static_cast<uint32_t>(plan.slabs_per_page[i])));
    EXPECT_LE(plan.slabs_per_page[i], kMaxSlabsPerPage);
    EXPECT_LE(PageBytes(bytes[i], plan.page_tokens[i]), plan.slab_bytes * plan.slabs_per_page[i]);
  }
}

TEST(PlanPool, OneModelGetsItsPageAsTheSlab) {
  const PoolPlan plan = PlanPool({12288});
  EXPECT_EQ(plan.slab_bytes, 12288);
  EXPECT_EQ(plan.page_tokens, std::vector<int32_t>{16});
  EXPECT_EQ(plan.slabs_per_page, std::vector<int32_t>{1});
}

TEST(PlanPool, EqualModelsShareOneSlabSize) {
  const PoolPlan plan = PlanPool({8192, 8192, 8192});
  EXPECT_EQ(plan.slab_bytes, 8192);
  EXPECT_EQ(plan.page_tokens, (std::vector<int32_t>{16, 16, 16}));
  EXPECT_EQ(plan.slabs_per_page, (std::vector<int32_t>{1, 1, 1}));
}

TEST(PlanPool, PowersOfTwoKeepSixteenTokens) {
  const PoolPlan plan = PlanPool({8192, 32768});
  EXPECT_EQ(plan.slab_bytes, 8192);
  EXPECT_EQ(plan.page_tokens, (std::vector<int32_t>{16, 16}));
  EXPECT_EQ(plan.slabs_per_page, (std::vector<int32_t>{1, 4}));
}

TEST(PlanPool, ThreeTimesTheBytesWasteNothing) {
  const std::vector<int64_t> bytes = {8192, 24576};
  const PoolPlan plan = PlanPool(bytes);
  ExpectLegal(plan, bytes);
  EXPECT_EQ(Waste(plan, bytes, 0), 0.0);
  EXPECT_EQ(Waste(plan, bytes, 1), 0.0);
}

TEST(PlanPool, SlightMisfitKeepsSixteenTokens) {
  const std::vector<int64_t> bytes = {8192, 8128};  // under one percent
  const PoolPlan plan = PlanPool(bytes);
  EXPECT_EQ(plan.page_tokens, (std::vector<int32_t>{16, 16}));
  EXPECT_EQ(plan.slabs_per_page, (std::vector<int32_t>{1, 1}));
}

TEST(PlanPool, WasteIsBoundedWithinAFactorOfHundred) {
  std::mt19937_64 random(1);
  for (int num_models = 1; num_models <= 5; ++num_models) {
    double total = 0.0;
    const int num_cases = 200;
    for (int n = 0; n < num_cases; ++n) {
      std::vector<int64_t> bytes;
      for (int i = 0; i < num_models; ++i) {
        const double exponent = std::uniform_real_distribution<>(0.0, 1.0)(random);
        bytes.push_back(static_cast<int64_t>(65536 * std::pow(100.0, exponent)) / 256 * 256);
      }
      const PoolPlan plan = PlanPool(bytes);
      ExpectLegal(plan, bytes);
      for (size_t i = 0; i < bytes.size(); ++i) {
        EXPECT_LE(Waste(plan, bytes, i), 0.12) << bytes[i] << " in " << plan.slab_bytes;
        total += Waste(plan, bytes, i);
      }
    }
    EXPECT_LE(total / (num_cases * num_models), 0.025);
  }
}

TEST(PlanPool, AnyShapesGetALegalPlan) {
  ExpectLegal(PlanPool({1}), {1});
  const std::vector<int64_t> bytes = {64, 64 << 20, 3};
  ExpectLegal(PlanPool(bytes), bytes);
}

}  // namespace
}  // namespace tessera

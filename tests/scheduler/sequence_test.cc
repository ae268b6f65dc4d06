// Tests of the progress of one sequence, with and without holes: the next tokens to compute, the
// tokens in flight, and the final KV.
#include "scheduler/plan/sequence.h"

#include <gtest/gtest.h>

#include <random>

namespace tessera {
namespace {

using Ranges = std::vector<TokenRange>;

class SequenceTest : public ::testing::Test {
 protected:
  SequenceTest() {
    request_.prompt.assign(40, 1);
    s_.request = &request_;
    s_.num_prompt = 40;
  }
  Ranges Next(int64_t num_tokens) const {
    absl::InlinedVector<TokenRange, 1> ranges;
    s_.NextRanges(num_tokens, &ranges);
    return {ranges.begin(), ranges.end()};
  }
  void Launch(const Ranges& ranges) {
    for (const TokenRange& range : ranges) s_.Launched(range);
  }
  void Retire(const Ranges& ranges) {
    for (const TokenRange& range : ranges) s_.Retired(range);
  }

  Request request_;
  Sequence s_;
};

TEST_F(SequenceTest, WithoutHolesItGoesOnAfterWhatIsScheduled) {
  EXPECT_EQ(Next(16), Ranges({{0, 16}}));
  Launch({{0, 16}});
  EXPECT_EQ(s_.num_inflight, 16);
  EXPECT_EQ(s_.num_to_compute(), 24);
  EXPECT_EQ(s_.NextToCompute(), 16);
  EXPECT_EQ(s_.num_final(), 0);
  Launch({{16, 40}});
  EXPECT_EQ(s_.num_to_compute(), 0);
  Retire({{0, 16}});
  EXPECT_EQ(s_.num_final(), 16);
  EXPECT_EQ(s_.num_inflight, 24);
  Retire({{16, 40}});
  EXPECT_EQ(s_.num_computed, 40);
}

TEST_F(SequenceTest, HolesComeFirstInAscendingOrder) {
  s_.num_computed = 30;
  s_.holes = {{4, 8}, {12, 18}};
  EXPECT_EQ(s_.num_hole_tokens(), 10);
  EXPECT_EQ(s_.num_to_compute(), 20);
  EXPECT_EQ(s_.NextToCompute(), 4);
  EXPECT_EQ(Next(3), Ranges({{4, 7}}));
  EXPECT_EQ(Next(4), Ranges({{4, 8}}));
  EXPECT_EQ(Next(6), Ranges({{4, 8}, {12, 14}}));
  EXPECT_EQ(Next(10), Ranges({{4, 8}, {12, 18}}));
  EXPECT_EQ(Next(20), Ranges({{4, 8}, {12, 18}, {30, 40}}));
}

TEST_F(SequenceTest, AHoleIsLaunchedInPartsAndFinalWhenTheyRetire) {
  s_.num_computed = 30;
  s_.holes = {{4, 8}, {12, 18}};
  Launch({{4, 7}});
  EXPECT_EQ(s_.NextToCompute(), 7);
  EXPECT_EQ(s_.num_hole_tokens(), 7);
  EXPECT_EQ(s_.num_inflight, 0) << "nothing after num_computed";
  EXPECT_EQ(Next(20), Ranges({{7, 8}, {12, 18}, {30, 40}}));
  Launch({{7, 8}, {12, 14}});
  EXPECT_EQ(s_.num_final(), 4);
  Retire({{4, 7}});
  EXPECT_EQ(s_.num_final(), 7);
  Retire({{7, 8}, {12, 14}});
  EXPECT_EQ(s_.num_final(), 14);
  EXPECT_EQ(s_.holes, Ranges({{14, 18}}));
  EXPECT_EQ(s_.num_computed, 30);
}

TEST_F(SequenceTest, AllIsFinalAfterTheLastHole) {
  s_.num_computed = 30;
  s_.holes = {{12, 18}};
  Launch({{12, 18}, {30, 40}});
  EXPECT_EQ(s_.num_to_compute(), 0);
  EXPECT_EQ(s_.num_inflight, 10);
  EXPECT_EQ(s_.NextToCompute(), 40);
  Retire({{12, 18}});
  EXPECT_TRUE(s_.holes.empty());
  EXPECT_EQ(s_.num_final(), 30);
  Retire({{30, 40}});
  EXPECT_EQ(s_.num_final(), 40);
}

TEST_F(SequenceTest, AHoleThatEndsWhereNewTokensStartIsARangeOfItsOwn) {
  s_.num_computed = 30;
  s_.holes = {{28, 30}};
  EXPECT_EQ(Next(5), Ranges({{28, 30}, {30, 33}}));
  Launch({{28, 30}, {30, 33}});
  Retire({{28, 30}, {30, 33}});
  EXPECT_EQ(s_.num_computed, 33);
  EXPECT_EQ(s_.num_final(), 33);
}

// With steps of random sizes and up to two steps in flight, each token is computed once and after
// all earlier tokens.
TEST_F(SequenceTest, EachTokenIsComputedOnceAndInOrder) {
  std::mt19937 random(3);
  const auto pick = [&](int64_t bound) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(bound));
  };
  for (int round = 0; round < 2000; ++round) {
    s_.num_computed = 0;
    s_.holes.clear();
    s_.holes_launched = 0;
    std::vector<bool> is_right(40, true);
    int64_t at = pick(6);
    while (at < 30) {
      const TokenRange hole = {at, std::min<int64_t>(30, at + 1 + pick(6))};
      s_.holes.push_back(hole);
      std::fill(is_right.begin() + hole.begin, is_right.begin() + hole.end, false);
      at = hole.end + 1 + pick(8);
    }
    s_.num_computed = 30;
    std::fill(is_right.begin() + 30, is_right.end(), false);
    std::vector<Ranges> inflight;
    while (s_.num_to_compute() > 0 || !inflight.empty()) {
      if (s_.num_to_compute() > 0 && inflight.size() < 2) {
        inflight.push_back(Next(1 + pick(s_.num_to_compute())));
        Launch(inflight.back());
      }
      if (inflight.size() < 2 && pick(2) == 0) continue;
      if (inflight.empty()) continue;
      for (const TokenRange& range : inflight.front()) {
        for (int64_t t = range.begin; t < range.end; ++t) {
          ASSERT_FALSE(is_right[t]) << "token " << t << " is computed twice";
          ASSERT_EQ(std::count(is_right.begin(), is_right.begin() + t, false), 0) << "token " << t;
          is_right[t] = true;
        }
      }
      Retire(inflight.front());
      inflight.erase(inflight.begin());
      const auto first_wrong = std::find(is_right.begin(), is_right.end(), false);
      ASSERT_EQ(s_.num_final(), first_wrong - is_right.begin());
    }
    ASSERT_EQ(s_.num_computed, 40);
    ASSERT_EQ(s_.num_inflight, 0);
  }
}

}  // namespace
}  // namespace tessera

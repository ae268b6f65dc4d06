// Tests of sequences whose KV was written by something else than their own steps, with holes that
// must be computed again: the order of computation, the KV that counts as final, and the resulting
// texts.
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "tests/lib/core_stack.h"
#include "tests/lib/put_kv.h"

namespace tessera::testing {
namespace {

class EngineHolesTest : public ::testing::TestWithParam<int> {
 protected:
  // Starts a model with pages of 4 tokens and two KV groups: full attention and a window of 8.
  void Start(int64_t num_slabs, int32_t step_tokens) {
    stack_.models = {FakeModel("a", {0, 8}, 4, 64)};
    stack_.num_slabs = num_slabs + 1;
    stack_.depth = GetParam();
    stack_.options.max_num_seqs = 2;
    stack_.options.max_num_batched_tokens = step_tokens;
    stack_.options.watermark = 0.0;
    stack_.Start();
    stack_.core->set_plan_observer([this](const StepPlan& plan) { Note(plan); });
  }
  // Records a plan as "1[0,8) 2[4,6)[8,9)*": each entry's request id and token ranges, and a * if
  // the entry samples a token.
  void Note(const StepPlan& plan) {
    std::string line;
    for (const PlanEntry& entry : plan.entries) {
      absl::StrAppend(&line, line.empty() ? "" : " ", entry.sequence->request->id);
      for (const TokenRange& range : entry.ranges) {
        absl::StrAppend(&line, "[", range.begin, ",", range.end, ")");
      }
      if (entry.samples) absl::StrAppend(&line, "*");
    }
    steps_.push_back(line);
  }
  bool Put(Sequence* s, int64_t num_computed, const std::vector<TokenRange>& holes) {
    CHECK(TakesKv(*s));
    return PutKv({stack_.core.get(), stack_.kv, stack_.runner}, s, num_computed, holes);
  }
  // Runs rounds until the request has a slot and no launched step computes for it.
  Sequence* Settled(uint64_t id) {
    do {
      stack_.Round();
    } while (stack_.Running(id) == nullptr);
    // No further step is launched while the launched steps retire.
    while (stack_.core->num_inflight() > 0) stack_.driver->RetireOldest();
    return stack_.Running(id);
  }
  int64_t Matched(const std::vector<TokenId>& prompt) const {
    ProbeQuery query;
    query.prompt = prompt;
    return stack_.core->Probe(query).matched_tokens;
  }
  std::vector<TokenId> Expected(std::vector<TokenId> prompt, int64_t num_tokens) const {
    return ExpectedTokens(stack_.models[0], std::move(prompt), num_tokens);
  }

  std::vector<std::string> steps_;
  RequestOutput out_;  // both outputs outlive the stack
  RequestOutput other_;
  CoreStack stack_;
};

using Steps = std::vector<std::string>;

TEST_P(EngineHolesTest, AreComputedInAscendingOrderBeforeTheRest) {
  Start(64, 8);
  const uint64_t id = stack_.Submit(FakePrompt(1, 40), 2, &out_);
  Sequence* const s = Settled(id);
  const auto begin = s->num_computed;
  steps_.clear();
  ASSERT_TRUE(Put(s, 36, {{begin + 1, begin + 8}, {begin + 10, begin + 14}}));
  stack_.core->CheckInvariants();
  EXPECT_EQ(s->num_to_compute(), 7 + 4 + 4);
  stack_.RunAll();
  const Steps expected = {
      absl::StrCat("1[", begin + 1, ",", begin + 8, ")[", begin + 10, ",", begin + 11, ")"),
      absl::StrCat("1[", begin + 11, ",", begin + 14, ")[36,40)*"), "1[40,41)*"};
  EXPECT_EQ(steps_, expected);
  EXPECT_EQ(out_[0].tokens, Expected(FakePrompt(1, 40), 2));
}

TEST_P(EngineHolesTest, WindowsAndNamesGoByTheFirstHole) {
  Start(64, 8);
  const std::vector<TokenId> prompt = FakePrompt(1, 50);
  const uint64_t id = stack_.Submit(prompt, 3, &out_);
  Sequence* const s = Settled(id);
  ASSERT_LE(s->num_computed, 16);
  ASSERT_TRUE(Put(s, 48, {{22, 30}}));
  // KV is final up to token 22, the first hole. Token 22 sees the tokens from 15 on in the windowed
  // group. The whole pages of the final KV have 20 tokens.
  EXPECT_EQ(s->kv.groups[1].first_live_page, 3);
  EXPECT_EQ(Matched(prompt), 20);
  stack_.Round();
  while (stack_.core->num_inflight() > 0) stack_.driver->RetireOldest();
  EXPECT_TRUE(s->holes.empty());
  EXPECT_EQ(s->kv.groups[1].first_live_page, 10);
  EXPECT_EQ(Matched(prompt), 48);
  stack_.RunAll();
  EXPECT_EQ(out_[0].tokens, Expected(prompt, 3));
  stack_.Submit(prompt, 3, &other_);
  stack_.RunAll();
  EXPECT_EQ(other_[0].tokens, Expected(prompt, 3));
}

TEST_P(EngineHolesTest, MoreOfThePromptMayComeWhileThereAreHoles) {
  Start(64, 8);
  const uint64_t id = stack_.Submit(FakePrompt(1, 60), 2, &out_);
  Sequence* const s = Settled(id);
  const auto begin = s->num_computed;
  ASSERT_TRUE(Put(s, begin + 20, {{begin + 2, begin + 5}, {begin + 18, begin + 20}}));
  ASSERT_TRUE(Put(s, begin + 30, {{begin + 20, begin + 21}, {begin + 29, begin + 30}}));
  stack_.core->CheckInvariants();
  steps_.clear();
  stack_.Round();
  ASSERT_FALSE(steps_.empty());
  EXPECT_EQ(steps_[0], absl::StrCat("1[", begin + 2, ",", begin + 5, ")[", begin + 18, ",",
                                    begin + 20, ")[", begin + 20, ",", begin + 21, ")[", begin + 29,
                                    ",", begin + 30, ")[", begin + 30, ",", begin + 31, ")"));
  stack_.RunAll();
  EXPECT_EQ(out_[0].tokens, Expected(FakePrompt(1, 60), 2));
}

TEST_P(EngineHolesTest, OneHoleBesideOneTokenIsNoStreamYet) {
  Start(64, 8);
  const uint64_t id = stack_.Submit(FakePrompt(1, 40), 2, &out_);
  Sequence* const s = Settled(id);
  ASSERT_TRUE(Put(s, 39, {{38, 39}}));
  steps_.clear();
  stack_.RunAll();
  EXPECT_EQ(steps_, Steps({"1[38,39)[39,40)*", "1[40,41)*"}));
  EXPECT_EQ(out_[0].tokens, Expected(FakePrompt(1, 40), 2));
}

TEST_P(EngineHolesTest, KvWithoutHolesIsAsIfComputed) {
  Start(64, 8);
  const uint64_t id = stack_.Submit(FakePrompt(1, 40), 2, &out_);
  Sequence* const s = Settled(id);
  ASSERT_TRUE(Put(s, 39, {}));
  steps_.clear();
  stack_.RunAll();
  EXPECT_EQ(steps_, Steps({"1[39,40)*", "1[40,41)*"}));
  EXPECT_EQ(out_[0].tokens, Expected(FakePrompt(1, 40), 2));
}

// A stream needs more pages than the pool has while the holes of a later request are computed. With
// one step in flight the later request is preempted and loses its holes. With two steps in flight a
// step always computes for the later request, so it cannot be preempted and the stream waits.
TEST_P(EngineHolesTest, PreemptionDropsThem) {
  Start(18, 2);
  stack_.Submit(FakePrompt(1, 8), 20, &out_);
  while (out_[0].tokens.empty()) stack_.Round();
  const uint64_t id = stack_.Submit(FakePrompt(2, 24), 4, &other_);
  Sequence* const s = Settled(id);
  ASSERT_TRUE(Put(s, 22, {{s->num_computed + 1, 21}}));
  stack_.core->CheckInvariants();
  int num_rounds = 0;
  for (; s->slot >= 0 && !s->holes.empty(); ++num_rounds) stack_.Round();
  EXPECT_GT(num_rounds, 1) << "none was computed";
  EXPECT_TRUE(s->holes.empty());
  if (GetParam() == 1) {
    EXPECT_LT(s->slot, 0) << "nobody took its pages in time";
    EXPECT_EQ(s->num_computed, 0);
    EXPECT_EQ(stack_.stats->preemptions.value(), 1);
  }
  stack_.RunAll();
  EXPECT_EQ(out_[0].tokens, Expected(FakePrompt(1, 8), 20));
  EXPECT_EQ(other_[0].tokens, Expected(FakePrompt(2, 24), 4));
}

TEST_P(EngineHolesTest, ARequestThatEndsMeanwhileLeavesNothing) {
  Start(64, 4);
  const uint64_t id = stack_.Submit(FakePrompt(1, 40), 2, &out_);
  Sequence* const s = Settled(id);
  ASSERT_TRUE(Put(s, 39, {{s->num_computed + 1, 30}}));
  stack_.driver->LaunchStep();
  stack_.core->Cancel(id, -1, CancelReason::kClient);
  stack_.core->CheckInvariants();
  stack_.Submit(FakePrompt(1, 40), 2, &other_);
  stack_.RunAll();
  EXPECT_EQ(out_[0].reason, FinishReason::kCancelled);
  EXPECT_EQ(other_[0].tokens, Expected(FakePrompt(1, 40), 2));
}

INSTANTIATE_TEST_SUITE_P(Depth, EngineHolesTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace tessera::testing

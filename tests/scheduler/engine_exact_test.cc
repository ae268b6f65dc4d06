// Requests that accept approximate KV and requests that do not, beside a sequence whose KV ceases
// to be exact: who finds its pages, and who waits for them.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/lib/core_stack.h"

namespace tessera::testing {
namespace {

class EngineExactTest : public ::testing::TestWithParam<int> {
 protected:
  static constexpr int64_t kMaxTokens = 8;

  // Pages of 4 tokens; a step computes 32 tokens.
  void Start(int64_t num_slabs = 64) {
    stack_.models = {FakeModel("a", {0}, 4, 96)};
    stack_.num_slabs = num_slabs + 1;
    stack_.depth = GetParam();
    stack_.options.max_num_seqs = 4;
    stack_.options.max_num_batched_tokens = 32;
    stack_.options.watermark = 0.0;
    stack_.Start();
  }
  uint64_t Submit(RequestOutput* out, std::vector<std::string> accepted, int32_t n = 1) {
    auto request = stack_.NewRequest(FakePrompt(1, 60), kMaxTokens, out);
    request->accepted_kv_classes = std::move(accepted);
    request->sampling.n = n;
    return stack_.Submit(std::move(request));
  }
  // A sequence that publishes in "lossy": from its first plan on, its KV from token 20 on is
  // approximate. Two steps compute its prompt; the second one has room for others.
  uint64_t Lead() {
    stack_.core->set_plan_observer([this](const StepPlan& plan) {
      Sequence* const s = plan.entries.at(0).sequence;
      if (s->kv.num_tokens == 0 && !std::exchange(is_marked_, true)) {
        stack_.kv->MarkApproximate(&s->kv, s->tokens, 20, 0);
      }
    });
    return Submit(&leader_, {"lossy"});
  }
  const Sequence* Waiting(uint64_t id) {
    for (const Sequence* s : stack_.core->scheduler().Waiting()) {
      if (s->request->id == id) return s;
    }
    return nullptr;
  }
  bool WaitsForPrefix(uint64_t id) {
    const Sequence* const s = Waiting(id);
    return s != nullptr && s->place == QueuePlace::kPrefix;
  }
  int64_t Cached(RequestOutput& out) { return out[0].usage.cached_prompt_tokens; }
  void ExpectText(RequestOutput& out, int32_t index = 0) {
    EXPECT_EQ(out[index].tokens, ExpectedTokens(stack_.models[0], FakePrompt(1, 60), kMaxTokens));
  }

  bool is_marked_ = false;
  RequestOutput leader_;  // they outlive the stack
  RequestOutput acceptor_;
  RequestOutput strict_;
  RequestOutput other_;
  CoreStack stack_;
};

TEST_P(EngineExactTest, ApproximatePagesAreForThoseWhoAcceptThem) {
  Start();
  Lead();
  stack_.RunAll();
  Submit(&acceptor_, {"other", "lossy"});
  stack_.RunAll();
  Submit(&other_, {"other"});
  stack_.RunAll();
  EXPECT_EQ(Cached(acceptor_), 56);
  EXPECT_EQ(Cached(other_), 20);
  ExpectText(leader_);
  ExpectText(acceptor_);
  ExpectText(other_);
  // `other_` has computed exact pages now.
  Submit(&strict_, {});
  stack_.RunAll();
  EXPECT_EQ(Cached(strict_), 56);
}

TEST_P(EngineExactTest, OnlyAcceptorsWaitForApproximatePages) {
  Start();
  Lead();
  const uint64_t acceptor = Submit(&acceptor_, {"lossy"});
  const uint64_t strict = Submit(&strict_, {});
  while (!WaitsForPrefix(acceptor)) ASSERT_TRUE(stack_.Round());
  const Sequence* const s = Waiting(acceptor);
  EXPECT_EQ(s->awaited, s->kv.accepted[0].hashes.at((56 - 16) / 4));
  // At depth 2 the exact pages up to token 20 are being computed meanwhile.
  EXPECT_EQ(WaitsForPrefix(strict), GetParam() == 2);
  if (GetParam() == 2) {
    EXPECT_EQ(Waiting(strict)->awaited, Waiting(strict)->kv.hashes.at((20 - 16) / 4));
  }
  stack_.RunAll();
  EXPECT_EQ(Cached(strict_), 20);
  EXPECT_EQ(Cached(acceptor_), 56);
  ExpectText(acceptor_);
  ExpectText(strict_);
}

TEST_P(EngineExactTest, WhoWaitsForPagesThatCeaseToBeExactIsWoken) {
  Start();
  Submit(&leader_, {"lossy"});
  const uint64_t strict = Submit(&strict_, {});
  stack_.core->set_plan_observer([&](const StepPlan& plan) {
    if (is_marked_ || !WaitsForPrefix(strict)) return;
    is_marked_ = true;
    Sequence* const s = plan.entries.at(0).sequence;
    EXPECT_EQ(Waiting(strict)->awaited, s->kv.hashes.at((56 - 16) / 4));
    stack_.kv->MarkApproximate(&s->kv, s->tokens, 32, 0);
  });
  while (!is_marked_) ASSERT_TRUE(stack_.Round());
  stack_.Round();
  EXPECT_FALSE(WaitsForPrefix(strict));
  stack_.RunAll();
  EXPECT_EQ(Cached(strict_), 32);
  ExpectText(leader_);
  ExpectText(strict_);
}

TEST_P(EngineExactTest, CopiesOfAnAcceptorWaitTogether) {
  Start();
  Lead();
  Submit(&acceptor_, {"lossy"}, /*n=*/3);
  stack_.RunAll();
  for (int32_t index = 0; index < 3; ++index) {
    EXPECT_EQ(acceptor_[index].usage.cached_prompt_tokens, 56);
    ExpectText(acceptor_, index);
  }
}

// A preempted sequence finds its exact and its approximate pages, and is bound as before.
TEST_P(EngineExactTest, AParkedSequenceIsBoundAgain) {
  Start();
  const uint64_t id = Lead();
  stack_.Round();
  Sequence* const s = stack_.Running(id);
  ASSERT_NE(s, nullptr);
  while (s->num_computed < 40) ASSERT_TRUE(stack_.Round());
  stack_.core->Throttle(id, true);
  while (stack_.Running(id) != nullptr) ASSERT_TRUE(stack_.Round());
  stack_.core->Throttle(id, false);
  while (stack_.Running(id) == nullptr) ASSERT_TRUE(stack_.Round());
  EXPECT_GE(s->kv.num_tokens, 40);
  EXPECT_EQ(s->kv.exact_tokens, 20);
  EXPECT_EQ(s->kv.kv_class, 0);
  stack_.RunAll();
  ExpectText(leader_);
  Submit(&strict_, {});
  stack_.RunAll();
  EXPECT_EQ(Cached(strict_), 20);
}

INSTANTIATE_TEST_SUITE_P(Depth, EngineExactTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace tessera::testing

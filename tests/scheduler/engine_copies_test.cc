// Tests of the copies of a request (n > 1): each copy gets the text of its own index, whichever
// pages the copies share.
#include <gtest/gtest.h>

#include "tests/lib/core_stack.h"

namespace tessera::testing {
namespace {

class EngineCopiesTest : public ::testing::Test {
 protected:
  void Start() {
    stack_.models = {FakeModel("a", {0}, 4, 64)};
    stack_.samples_apart = true;
    stack_.Start();
  }
  uint64_t SubmitCopies(int32_t n, int64_t max_tokens, RequestOutput* out) {
    auto request = stack_.NewRequest(FakePrompt(1, 9), max_tokens, out);
    request->sampling.n = n;
    request->sampling.seed = 77;
    return stack_.Submit(std::move(request));
  }
  std::vector<TokenId> Expected(int32_t index, int64_t num_tokens) const {
    return ExpectedTokens(stack_.models[0], FakePrompt(1, 9), num_tokens,
                          {"", FakeDraw(77, index)});
  }

  CoreStack stack_;
};

TEST_F(EngineCopiesTest, EachIndexGetsItsOwnText) {
  Start();
  RequestOutput out;
  SubmitCopies(3, 12, &out);
  stack_.RunAll();
  for (int32_t index = 0; index < 3; ++index) EXPECT_EQ(out[index].tokens, Expected(index, 12));
  EXPECT_NE(out[0].tokens, out[1].tokens);
  EXPECT_NE(out[1].tokens, out[2].tokens);
}

// A copy that was never admitted takes over page hashes from a copy that has already generated
// pages. The sequence must take only the hashes of the prompt's pages. A wrong hash would show
// after the copy is paused and admitted again, because it would hit the other copy's pages.
TEST_F(EngineCopiesTest, ACopyDoesNotTakeOverNamesOfWhatAnotherGenerated) {
  stack_.options.max_num_seqs = 2;
  Start();
  RequestOutput blocker, copies;
  const uint64_t blocker_id = stack_.Submit(FakePrompt(2, 5), 40, &blocker);
  const uint64_t id = SubmitCopies(2, 20, &copies);
  // Only one copy runs, because the blocker has the other slot.
  while (copies[0].tokens.size() < 12) stack_.Round();
  ASSERT_TRUE(copies[1].tokens.empty());
  stack_.core->Throttle(id, true);
  stack_.core->Cancel(blocker_id, -1, CancelReason::kClient);
  stack_.core->Throttle(id, false);
  while (copies[1].tokens.size() < 8) stack_.Round();
  stack_.core->Throttle(id, true);
  stack_.core->Throttle(id, false);
  stack_.RunAll();
  EXPECT_EQ(copies[0].tokens, Expected(0, 20));
  EXPECT_EQ(copies[1].tokens, Expected(1, 20));
}

}  // namespace
}  // namespace tessera::testing

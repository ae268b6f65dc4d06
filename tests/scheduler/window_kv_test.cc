// The KV that a sequence of Gemma-3-270M holds, compared with arithmetic: 15 of its 18 layers see
// 512 tokens, and their KV of earlier tokens is given up. The pages are planned as for a device
// with this model alone. Nothing is computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/base/types.h"
#include "kernels/model/checkpoint/families.h"
#include "kernels/model/model_spec.h"
#include "kvstore/identity.h"
#include "kvstore/kv_manager.h"
#include "kvstore/pool_plan.h"

namespace tessera::testing {
namespace {

constexpr int64_t kContext = 32'768;
constexpr int64_t kStep = 512;
constexpr int64_t kWindow = 512;
constexpr int64_t kLocalLayers = 15;
constexpr int64_t kGlobalLayers = 3;
// K and V of one token in one layer: one head of 256 numbers in bf16.
constexpr int64_t kTokenBytes = int64_t{2} * 1 * 256 * 2;
constexpr char kConfig[] = R"({
    "architectures": ["Gemma3ForCausalLM"], "hidden_size": 640, "intermediate_size": 2048,
    "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    "vocab_size": 262144, "max_position_embeddings": 32768, "sliding_window": 512})";

// Bytes of KV that the model needs for the next token after `context` tokens.
int64_t NeededBytes(int64_t context) {
  return kTokenBytes * (kGlobalLayers * context + kLocalLayers * std::min(context, kWindow));
}

class WindowKvTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto spec = ParseModelSpec("config.json", kConfig, "", "");
    ASSERT_TRUE(spec.ok()) << spec.status();
    layout_ = MakePageLayout(*spec, DType::kBF16, 16);
    const PoolPlan pool = PlanPool({layout_.groups[0].page_bytes()});
    layout_ = MakePageLayout(*spec, DType::kBF16, pool.page_tokens[0]);
    layout_.slabs_per_page = pool.slabs_per_page[0];
    layout_.slab_bytes = pool.slab_bytes;
    for (TokenId token = 0; token < kContext; ++token) tokens_.push_back(token);
  }
  // Makes a store of at most `bytes` and admits a sequence to it.
  void Make(int64_t bytes) {
    const int64_t page_bytes = layout_.page_bytes();
    const int64_t num_slabs = (bytes / page_bytes + 1) * layout_.slabs_per_page;  // + null page
    kv_ = NewKvManager(num_slabs, layout_.slab_bytes, layout_.slabs_per_page);
    state_ = KvState();
    state_.model = kv_->AddModel(layout_);
    state_.root = RootOf(Identity());
    kv_->Admit(&state_, tokens_);
  }
  int64_t HeldBytes() const { return kv_->usage().kv_slabs * layout_.slab_bytes; }
  // What may be held for `context` tokens if the layers with a window need the last `run` of them.
  // The run may start at a page's last token and end at a page's first.
  int64_t MostBytes(int64_t context, int64_t run) const {
    const int64_t page = layout_.page_tokens();
    const int64_t whole = RoundUp(context, page);
    const int64_t local = std::min(whole, RoundUp(run - 1, page) + page);
    return kTokenBytes * (kGlobalLayers * whole + kLocalLayers * local);
  }
  // Computes tokens up to `end` in steps, and compares what is held before and after each step.
  void Compute(int64_t end, int64_t step_tokens) {
    for (int64_t done = state_.num_tokens; done < end;) {
      const int64_t step = std::min(step_tokens, end - done);
      done += step;
      ASSERT_TRUE(kv_->Grow(&state_, done)) << done;
      most_held_ = std::max(most_held_, HeldBytes());
      ASSERT_LE(HeldBytes(), MostBytes(done, kWindow - 1 + step))
          << "during the step up to " << done;
      // The working space of a step of 512 tokens fits in the quarter from here on.
      if (done >= 8192) {
        ASSERT_LE(HeldBytes() * 4, NeededBytes(done) * 5) << done;
      }
      kv_->Advance(&state_, tokens_, done);
      ASSERT_LE(HeldBytes(), MostBytes(done, kWindow - 1)) << "after " << done;
      ASSERT_GE(HeldBytes(), NeededBytes(done) - kLocalLayers * kTokenBytes) << done;
    }
  }

  PageLayout layout_;
  std::vector<TokenId> tokens_;
  std::unique_ptr<KvManager> kv_;
  KvState state_;
  int64_t most_held_ = 0;
};

TEST_F(WindowKvTest, TheGroupsAreTheModelsLayersWithoutPadding) {
  ASSERT_EQ(layout_.num_groups(), 6);
  int64_t num_local = 0;
  for (const GroupLayout& group : layout_.groups) {
    EXPECT_EQ(group.num_layers, 3);
    EXPECT_EQ(group.num_padding_layers, 0);
    EXPECT_EQ(group.page_bytes(), layout_.page_bytes());
    EXPECT_EQ(group.layer_stride(), kTokenBytes * group.page_tokens);
    num_local += group.window == kWindow ? group.num_layers : 0;
    EXPECT_TRUE(group.window == kWindow || group.window == 0) << group.window;
  }
  EXPECT_EQ(num_local, kLocalLayers);
}

TEST_F(WindowKvTest, APrefillInStepsHoldsWhatTheStepsSee) {
  Make(NeededBytes(kContext) * 2);
  ASSERT_NO_FATAL_FAILURE(Compute(kContext, kStep));
  EXPECT_LE(HeldBytes() * 100, NeededBytes(kContext) * 101);
  EXPECT_LE(most_held_ * 100, NeededBytes(kContext) * 108);
  EXPECT_LE(most_held_, kv_->SlabsFor(state_.model, kContext, kStep) * layout_.slab_bytes);
  kv_->Release(&state_);
  EXPECT_EQ(HeldBytes(), 0);
}

// The steps do not start at pages' first tokens.
TEST_F(WindowKvTest, APrefillInOddStepsHoldsWhatTheStepsSee) {
  Make(NeededBytes(kContext) * 2);
  ASSERT_NO_FATAL_FAILURE(Compute(77, kStep));
  ASSERT_NO_FATAL_FAILURE(Compute(kContext, kStep - 1));
  EXPECT_LE(most_held_ * 100, NeededBytes(kContext) * 108);
}

TEST_F(WindowKvTest, DecodingHoldsTheWindowAndAPage) {
  Make(NeededBytes(kContext) * 2);
  ASSERT_NO_FATAL_FAILURE(Compute(kContext, 1));
  EXPECT_LE(most_held_ * 100, NeededBytes(kContext) * 101);
}

// Pages that are given up stay findable until others need them, and do not take their place.
TEST_F(WindowKvTest, AQuarterMoreThanArithmeticSaysIsEnoughMemory) {
  Make(NeededBytes(kContext) * 5 / 4);
  ASSERT_NO_FATAL_FAILURE(Compute(kContext - kStep, kStep));
  ASSERT_NO_FATAL_FAILURE(Compute(kContext, 1));
  EXPECT_GT(kv_->stats().evicted_pages, 0);
  EXPECT_EQ(kv_->usage().total_slabs * layout_.slab_bytes / layout_.page_bytes(),
            NeededBytes(kContext) * 5 / 4 / layout_.page_bytes());
  const KvState* const live = &state_;
  kv_->CheckInvariants({&live, 1});
}

// With windows that the store does not know, the same sequence would not fit.
TEST_F(WindowKvTest, WithoutWindowsTheContextHoldsFiveTimesAsMuch) {
  for (GroupLayout& group : layout_.groups) group.window = 0;
  Make(NeededBytes(kContext) * 5 / 4);
  EXPECT_FALSE(kv_->Grow(&state_, kContext));
  Make(NeededBytes(kContext) * 6);
  ASSERT_TRUE(kv_->Grow(&state_, kContext));
  EXPECT_EQ(HeldBytes(), kTokenBytes * (kLocalLayers + kGlobalLayers) * kContext);
  EXPECT_GT(HeldBytes(), NeededBytes(kContext) * 5);
}

}  // namespace
}  // namespace tessera::testing

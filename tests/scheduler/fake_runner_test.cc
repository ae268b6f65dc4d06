// Tests that FakeRunner, which checks the batches of the engine in other tests, notices wrong page
// ops and writes into pages that a launched step uses.
#include "tests/lib/fake_runner.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tessera::testing {
namespace {

constexpr int32_t kPageTokens = 4;
constexpr PageId kPage = 3;   // page with the keys
constexpr PageId kOther = 5;  // destination of the page ops

class FakeRunnerTest : public ::testing::Test {
 protected:
  FakeRunnerTest() : models_({FakeModel("a", {0}, kPageTokens, 64)}), runner_(Options(models_)) {
    runner_.SetOnDone([](const Completion&) {});
  }

  static FakeRunnerOptions Options(const std::vector<EngineModel>& models) {
    FakeRunnerOptions options;
    options.models = models;
    options.num_slabs = 16;
    options.depth = 2;
    return options;
  }

  struct Built {
    StepBatch batch;
    BatchArena arena;
  };

  // Builds a step that runs the page ops, writes `tokens` from `position` on to `page`, which holds
  // all keys, and samples after the last token.
  static void Build(PageId page, int32_t position, const std::vector<TokenId>& tokens,
                    const std::vector<PageOp>& ops, const std::vector<int32_t>& indices,
                    Built* built) {
    const auto num_tokens = static_cast<int32_t>(tokens.size());
    std::vector<int32_t> positions;
    std::vector<int64_t> places;
    for (int32_t t = 0; t < num_tokens; ++t) {
      positions.push_back(position + t);
      places.push_back(int64_t{page} * kPageTokens + position + t);
    }
    KvRun run;
    run.num_pages = 1;
    run.count = position + num_tokens;
    SamplerRow row;
    row.token_row = num_tokens - 1;
    row.slot = 0;
    StepBatch& batch = built->batch;
    BatchArena& arena = built->arena;
    batch.tokens = arena.AddCopy(tokens);
    batch.positions = arena.AddCopy(positions);
    batch.write_places = arena.AddCopy(places);
    batch.segments = arena.AddCopy(std::vector<Segment>{{0, 0, num_tokens, -1}});
    batch.run_ranges = arena.AddCopy(std::vector<Range>{{0, 1}});
    batch.runs = arena.AddCopy(std::vector<KvRun>{run});
    batch.pages = arena.AddCopy(std::vector<PageId>{page});
    batch.sampler_rows = arena.AddCopy(std::vector<SamplerRow>{row});
    batch.page_ops = arena.AddCopy(ops);
    batch.indices = arena.AddCopy(indices);
  }
  TokenId Run(PageId page, int32_t position, const std::vector<TokenId>& tokens,
              const std::vector<PageOp>& ops = {}, const std::vector<int32_t>& indices = {}) {
    Built built;
    Build(page, position, tokens, ops, indices, &built);
    Launch(&built);
    return Finish();
  }
  void Launch(const Built* built) {
    runner_.Launch(&built->batch, &built->arena, LayerRange{}, &result_);
  }
  TokenId Finish() {
    runner_.FinishOldest();
    return result_.rows.at(0).token;
  }
  static PageOp Op(PageOpKind kind, int32_t num_tokens) {
    PageOp op;
    op.kind = kind;
    op.src = kPage;
    op.dst = kOther;
    op.num_tokens = num_tokens;
    op.layer_end = 1;
    return op;
  }
  TokenId Expected(const std::vector<TokenId>& tokens) const {
    return ExpectedTokens(models_[0], tokens, 1).at(0);
  }

  const std::vector<EngineModel> models_;
  FakeRunner runner_;
  StepResult result_;
};

TEST_F(FakeRunnerTest, CopiesAreMadeBeforeTheStepWrites) {
  Run(kPage, 0, {7, 8, 9});
  EXPECT_EQ(Run(kOther, 2, {5}, {Op(PageOpKind::kCopy, 2)}), Expected({7, 8, 5}));
  EXPECT_EQ(Run(kPage, 3, {6}), Expected({7, 8, 9, 6}));  // the source is unchanged
}

TEST_F(FakeRunnerTest, KeysAreGatheredAndShiftedInOrder) {
  Run(kPage, 0, {7, 8, 9});
  PageOp gather = Op(PageOpKind::kGather, 2);
  gather.index_begin = 1;
  std::vector<PageOp> ops = {gather, Op(PageOpKind::kRopeShift, 2)};
  ops[1].delta = -1;
  EXPECT_EQ(Run(kOther, 2, {5}, ops, {99, 1, 2}), Expected({8, 9, 5}));
}

TEST_F(FakeRunnerTest, AStepReadsPagesWhenItCompletes) {
  Run(kPage, 0, {7});
  Built copy;
  Build(kOther, 1, {5}, {Op(PageOpKind::kCopy, 1)}, {}, &copy);
  Launch(&copy);
  const std::string bytes(64, 'x');
  runner_.transfer()->ToDevice({{kPage}, static_cast<int64_t>(bytes.size())}, bytes.data(),
                               /*ticket=*/0, [](Completion) {});
  TokenId token = 0;
  EXPECT_NONFATAL_FAILURE(token = Finish(), "group 0 page 5");
  EXPECT_NE(token, Expected({7, 5}));
}

TEST_F(FakeRunnerTest, KeysMustBeThereOfRowsThatAreNotSampledFrom) {
  ::testing::TestPartResultArray failures;
  {
    const ::testing::ScopedFakeTestPartResultReporter reporter(
        ::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &failures);
    Run(kPage, 1, {5, 6, 7});  // no step has written the key at position 0
  }
  EXPECT_EQ(failures.size(), 3);
}

TEST_F(FakeRunnerTest, KvMayComeBesideTheSteps) {
  runner_.WriteCell(0, 0, kPage, 0, {/*token=*/7, /*position=*/0, /*adapter=*/0});
  EXPECT_EQ(Run(kPage, 1, {8}), Expected({7, 8}));
}

}  // namespace
}  // namespace tessera::testing

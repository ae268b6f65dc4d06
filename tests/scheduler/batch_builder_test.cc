// Tests of the batches that the builder makes from hand-written plans: the fields of requests and
// sequences reach the batch.
#include "scheduler/step/batch_builder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <vector>

namespace tessera {
namespace {

constexpr int32_t kPageTokens = 4;
constexpr int32_t kWindow = 5;
constexpr int32_t kHidden = 8;
constexpr int32_t kNumLayers = 3;

EngineModel MakeModel(const std::vector<int32_t>& windows) {
  EngineModel model;
  model.hidden = kHidden;
  model.num_layers = kNumLayers;
  for (const int32_t window : windows) {
    GroupLayout group;
    group.page_tokens = kPageTokens;
    group.window = window;
    model.layout.groups.push_back(group);
  }
  return model;
}

class BatchBuilderTest : public ::testing::Test {
 protected:
  // Adds a sequence with the `num_tokens` tokens 10, 11, ...; the first `num_prompt` are the
  // prompt. The sequence's pages are first_page, first_page + 1, ... in the first KV group; page
  // numbers in the second group are larger by 100.
  Sequence* AddSequence(int64_t num_prompt, int64_t num_tokens, PageId first_page) {
    Sequence* s = sequences_.emplace_back(std::make_unique<Sequence>()).get();
    Request* request = requests_.emplace_back(std::make_unique<Request>()).get();
    request_of_[s] = request;
    s->request = request;
    s->state = SequenceState::kRunning;
    s->num_prompt = num_prompt;
    for (int64_t i = 0; i < num_tokens; ++i) s->tokens.push_back(static_cast<TokenId>(10 + i));
    for (size_t g = 0; g < models_[0].layout.groups.size(); ++g) {
      KvGroupState& group = s->kv.groups.emplace_back();
      for (int64_t p = 0; p <= num_tokens / kPageTokens; ++p) {
        group.pages.push_back(static_cast<PageId>(first_page + p + 100 * static_cast<int64_t>(g)));
      }
    }
    return s;
  }
  Request* RequestOf(Sequence* s) { return request_of_.at(s); }

  // Adds a plan entry that computes the last token of a sequence and samples the next one.
  PlanEntry* AddDecode(Sequence* s) {
    PlanEntry entry;
    entry.sequence = s;
    entry.ranges = {{s->num_tokens() - 1, s->num_tokens()}};
    entry.samples = true;
    plan_.entries.push_back(entry);
    return &plan_.entries.back();
  }

  BatchView Build(const std::vector<PageOp>& page_ops = {}) {
    plan_.model = 0;
    plan_.page_ops = page_ops;
    builder_.Build(plan_, /*step_id=*/77, &built_);
    return {&built_.batch, built_.arena.base()};
  }
  // The sampler row of a sequence that decodes alone.
  SamplerRow RowOf(Sequence* s) {
    plan_ = {};
    AddDecode(s);
    const BatchView view = Build();
    EXPECT_EQ(view.batch->sampler_rows.count, 1u);
    return view.data(view.batch->sampler_rows)[0];
  }
  // The sampler biases of a sequence that decodes alone, by token.
  std::map<TokenId, float> BiasesOf(Sequence* s) {
    const SamplerRow row = RowOf(s);
    const TokenBias* all = BatchView{&built_.batch, built_.arena.base()}.data(built_.batch.biases);
    std::map<TokenId, float> biases;
    for (int32_t i = 0; i < row.biases.count; ++i) {
      const TokenBias& bias = all[row.biases.begin + i];
      EXPECT_TRUE(biases.emplace(bias.token, bias.bias).second) << bias.token;
    }
    return biases;
  }

  std::vector<EngineModel> models_ = {MakeModel({0})};
  BatchBuilder builder_{&models_, nullptr};
  std::vector<std::unique_ptr<Request>> requests_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::map<Sequence*, Request*> request_of_;
  StepPlan plan_;
  BuiltBatch built_;
};

template <class T>
std::vector<T> ToVector(const BatchView& view, ArenaSpan<T> span) {
  return {view.data(span), view.data(span) + span.count};
}

TEST_F(BatchBuilderTest, SamplingParametersReachTheirOwnFields) {
  Sequence* s = AddSequence(/*num_prompt=*/3, /*num_tokens=*/6, /*first_page=*/1);
  s->slot = 9;
  s->index = 2;
  SamplingParams& sampling = RequestOf(s)->sampling;
  sampling.temperature = 0.5f;
  sampling.top_k = 40;
  sampling.top_p = 0.9f;
  sampling.min_p = 0.05f;
  sampling.repetition_penalty = 1.1f;
  sampling.presence_penalty = 0.25f;
  sampling.frequency_penalty = 0.75f;
  sampling.seed = 0x123456789abcdefull;
  RequestOf(s)->logprobs = 4;
  RequestOf(s)->prompt_logprobs = 7;
  const SamplerRow row = RowOf(s);
  EXPECT_EQ(row.token_row, 0);
  EXPECT_EQ(row.slot, 9);
  EXPECT_EQ(row.target, -1);
  EXPECT_EQ(row.temperature, 0.5f);
  EXPECT_EQ(row.top_k, 40);
  EXPECT_EQ(row.top_p, 0.9f);
  EXPECT_EQ(row.min_p, 0.05f);
  EXPECT_EQ(row.repetition_penalty, 1.1f);
  EXPECT_EQ(row.presence_penalty, 0.25f);
  EXPECT_EQ(row.frequency_penalty, 0.75f);
  EXPECT_EQ(row.num_logprobs, 4);
  EXPECT_EQ(row.index, 2);
  EXPECT_EQ(row.position, 6);  // position of the token that is sampled
  EXPECT_EQ(row.seed, 0x123456789abcdefull);
  EXPECT_EQ(row.mask, -1);
}

TEST_F(BatchBuilderTest, CountsReachTheSampler) {
  Sequence* first = AddSequence(2, 4, 1);
  Sequence* second = AddSequence(2, 4, 11);
  first->counts = {{10, 0, 1}};
  second->counts = {{11, 2, 0}, {12, 1, 1}};
  AddDecode(first);
  AddDecode(second);
  const BatchView view = Build();
  const SamplerRow* rows = view.data(view.batch->sampler_rows);
  ASSERT_EQ(view.batch->sampler_rows.count, 2u);
  ASSERT_EQ(view.batch->counts.count, 3u);
  EXPECT_EQ(rows[0].counts.begin, 0);
  EXPECT_EQ(rows[0].counts.count, 1);
  EXPECT_EQ(rows[1].counts.begin, 1);
  EXPECT_EQ(rows[1].counts.count, 2);
  const TokenCount* counts = view.data(view.batch->counts) + 1;
  EXPECT_EQ(counts[0].token, 11);
  EXPECT_EQ(counts[0].output_count, 2);
  EXPECT_EQ(counts[0].in_prompt, 0);
  EXPECT_EQ(counts[1].token, 12);
  EXPECT_EQ(counts[1].in_prompt, 1);
}

TEST_F(BatchBuilderTest, LogitBiasesReachTheSampler) {
  Sequence* s = AddSequence(3, 4, 1);
  RequestOf(s)->sampling.logit_bias = {{5, 1.5f}, {8, -2.0f}};
  EXPECT_EQ(BiasesOf(s), (std::map<TokenId, float>{{5, 1.5f}, {8, -2.0f}}));
}

// While fewer than min_tokens tokens are generated, eos ids and stop ids have the bias -infinity.
TEST_F(BatchBuilderTest, MinTokensBansWhatEnds) {
  Sequence* s = AddSequence(/*num_prompt=*/3, /*num_tokens=*/4, 1);  // 1 token is generated
  Request* request = RequestOf(s);
  request->sampling.logit_bias = {{5, 1.5f}};
  request->stopping.eos_ids = {20, 21};
  request->stopping.stop_ids = {30};
  request->stopping.min_tokens = 2;
  const float banned = -INFINITY;
  EXPECT_EQ(BiasesOf(s),
            (std::map<TokenId, float>{{5, 1.5f}, {20, banned}, {21, banned}, {30, banned}}));
  // With ignore_eos an eos id does not end the sequence, so it is not banned.
  request->stopping.ignore_eos = true;
  EXPECT_EQ(BiasesOf(s), (std::map<TokenId, float>{{5, 1.5f}, {30, banned}}));
  request->stopping.ignore_eos = false;
  request->stopping.min_tokens = 1;
  EXPECT_EQ(BiasesOf(s), (std::map<TokenId, float>{{5, 1.5f}}));
}

// A token that is still being sampled counts as generated.
TEST_F(BatchBuilderTest, MinTokensCountsThePendingToken) {
  Sequence* s = AddSequence(/*num_prompt=*/3, /*num_tokens=*/4, 1);
  s->num_pending = 1;
  RequestOf(s)->stopping.stop_ids = {30};
  RequestOf(s)->stopping.min_tokens = 2;
  EXPECT_EQ(BiasesOf(s), (std::map<TokenId, float>{}));
  RequestOf(s)->stopping.min_tokens = 3;
  EXPECT_EQ(BiasesOf(s).size(), 1u);
}

TEST_F(BatchBuilderTest, PromptLogprobsScoreTheTokenAfterEachRow) {
  Sequence* other = AddSequence(2, 3, 1);
  Sequence* s = AddSequence(/*num_prompt=*/6, /*num_tokens=*/6, 11);
  RequestOf(s)->logprobs = 1;
  RequestOf(s)->prompt_logprobs = 3;
  s->slot = 4;
  AddDecode(other);
  PlanEntry entry;
  entry.sequence = s;
  entry.ranges = {{2, 6}};
  entry.samples = true;
  entry.target_begin = 3;
  entry.num_targets = 2;
  plan_.entries.push_back(entry);
  const BatchView view = Build();
  const auto rows = ToVector(view, view.batch->sampler_rows);
  ASSERT_EQ(rows.size(), 4u);
  // Row 0 of the step is the token of `other`; rows 1 and 2 are the tokens with the indices 2 and 3
  // of `s`.
  EXPECT_EQ(rows[1].token_row, 2);
  EXPECT_EQ(rows[1].target, 14);
  EXPECT_EQ(rows[1].num_logprobs, 3);
  EXPECT_EQ(rows[1].slot, -1);
  EXPECT_EQ(rows[2].token_row, 3);
  EXPECT_EQ(rows[2].target, 15);
  EXPECT_EQ(rows[3].token_row, 4);
  EXPECT_EQ(rows[3].target, -1);
  EXPECT_EQ(rows[3].num_logprobs, 1);
  EXPECT_EQ(rows[3].slot, 4);
}

TEST_F(BatchBuilderTest, TokensPositionsAndSegments) {
  Sequence* decode = AddSequence(2, 5, 1);
  decode->slot = 3;
  decode->num_pending = 1;  // the token to compute is still on the device
  Sequence* prompt = AddSequence(6, 6, 11);
  prompt->slot = 0;
  AddDecode(decode);
  PlanEntry entry;
  entry.sequence = prompt;
  entry.ranges = {{1, 4}};
  plan_.entries.push_back(entry);
  const BatchView view = Build();
  EXPECT_EQ(view.batch->step_id, 77u);
  EXPECT_EQ(view.batch->num_groups, 1);
  EXPECT_EQ(ToVector(view, view.batch->tokens),
            (std::vector<TokenId>{kLastSampledToken, 11, 12, 13}));
  EXPECT_EQ(ToVector(view, view.batch->positions), (std::vector<int32_t>{5, 1, 2, 3}));
  EXPECT_EQ(ToVector(view, view.batch->write_places),
            (std::vector<int64_t>{2 * kPageTokens + 1, 11 * kPageTokens + 1, 11 * kPageTokens + 2,
                                  11 * kPageTokens + 3}));
  const auto segments = ToVector(view, view.batch->segments);
  ASSERT_EQ(segments.size(), 2u);
  EXPECT_EQ(segments[0].slot, 3);
  EXPECT_EQ(segments[0].token_begin, 0);
  EXPECT_EQ(segments[0].num_tokens, 1);
  EXPECT_EQ(segments[0].adapter, -1);
  EXPECT_EQ(segments[1].slot, 0);
  EXPECT_EQ(segments[1].token_begin, 1);
  EXPECT_EQ(segments[1].num_tokens, 3);
  EXPECT_EQ(view.batch->sampler_rows.count, 1u);  // the prompt is not complete, so it has no row
}

// The run of a windowed group starts at the first page that the first query sees.
TEST_F(BatchBuilderTest, RunsCoverWhatTheQueriesSee) {
  models_[0] = MakeModel({0, kWindow});
  Sequence* s = AddSequence(12, 12, 1);
  s->kv.groups[1].first_live_page = 1;
  PlanEntry entry;
  entry.sequence = s;
  entry.ranges = {{9, 11}};
  plan_.entries.push_back(entry);
  const BatchView view = Build();
  EXPECT_EQ(view.batch->num_groups, 2);
  EXPECT_EQ(ToVector(view, view.batch->pages), (std::vector<PageId>{1, 2, 3, 102, 103}));
  const KvRun whole = view.runs()[view.run_range(0, 0).begin];
  EXPECT_EQ(whole.page_begin, 0);
  EXPECT_EQ(whole.num_pages, 3);
  EXPECT_EQ(whole.pos_begin, 0);
  EXPECT_EQ(whole.count, 11);
  // The query at position 9 sees the keys from position 5 on; the run starts at their first page.
  const KvRun windowed = view.runs()[view.run_range(1, 0).begin];
  EXPECT_EQ(windowed.page_begin, 3);
  EXPECT_EQ(windowed.num_pages, 2);
  EXPECT_EQ(windowed.pos_begin, 4);
  EXPECT_EQ(windowed.count, 7);
  EXPECT_EQ(view.write_places(1)[0], 103 * kPageTokens + 1);
}

TEST_F(BatchBuilderTest, EmbeddingsTapTheFinalHiddenRows) {
  Sequence* first = AddSequence(3, 3, 1);
  Sequence* second = AddSequence(5, 5, 11);
  for (Sequence* s : {first, second}) {
    RequestOf(s)->kind = RequestKind::kEmbed;
    PlanEntry entry;
    entry.sequence = s;
    entry.ranges = {{0, static_cast<int64_t>(s->tokens.size())}};
    plan_.entries.push_back(entry);
  }
  const BatchView view = Build();
  const auto taps = ToVector(view, view.batch->taps);
  ASSERT_EQ(taps.size(), 2u);
  EXPECT_EQ(view.batch->sampler_rows.count, 0u);
  EXPECT_EQ(taps[0].kind, TapKind::kHidden);
  EXPECT_EQ(taps[0].out_begin, 0);
  EXPECT_EQ(taps[1].segment, 1);
  EXPECT_EQ(taps[1].row_begin, 0);
  EXPECT_EQ(taps[1].num_rows, 5);
  EXPECT_EQ(taps[1].layer_begin, kNumLayers);
  EXPECT_EQ(taps[1].layer_end, kNumLayers + 1);
  EXPECT_EQ(taps[1].out_begin, 3 * kHidden);
  EXPECT_EQ(taps[1].out_count, 5 * kHidden);
  EXPECT_EQ(view.batch->num_tap_floats, 8 * kHidden);
}

// A batch contains nothing of the batch that was built before it. Page ops are copied unchanged.
TEST_F(BatchBuilderTest, ABatchIsBuiltAnew) {
  Sequence* s = AddSequence(3, 4, 1);
  s->counts = {{10, 0, 1}};
  RequestOf(s)->sampling.logit_bias = {{5, 1.0f}};
  AddDecode(s);
  PageOp op;
  op.src = 5;
  op.dst = 6;
  EXPECT_EQ(Build({op}).batch->page_ops.count, 1u);
  const BatchView view = Build();
  EXPECT_EQ(view.batch->page_ops.count, 0u);
  EXPECT_EQ(view.batch->tokens.count, 1u);
  EXPECT_EQ(view.batch->runs.count, 1u);
  EXPECT_EQ(view.batch->pages.count, 1u);
  EXPECT_EQ(view.batch->sampler_rows.count, 1u);
  EXPECT_EQ(view.batch->biases.count, 1u);
  EXPECT_EQ(view.batch->counts.count, 1u);
}

}  // namespace
}  // namespace tessera

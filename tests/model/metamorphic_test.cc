// A model's results have the same bits on every backend, whichever other sequences are in the step,
// however the prompt is chunked, however keys are split into runs and pages, and for any number of
// threads.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

// Returns pseudo-random tokens, the same for the same arguments.
std::vector<TokenId> Tokens(int count, int64_t vocab, uint32_t seed) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    tokens.push_back(static_cast<TokenId>((seed >> 8) % vocab));
  }
  return tokens;
}

struct Case {
  std::string backend;
  std::string model;
  DType dtype;
  ActivationDtype activations = ActivationDtype::kAuto;
};

WeightDtype DtypeOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return WeightDtype::kBF16;
    case DType::kI8:
      return WeightDtype::kI8;
    case DType::kI5:
      return WeightDtype::kI5;
    case DType::kI4:
      return WeightDtype::kI4;
    default:
      return WeightDtype::kF32;
  }
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const std::string& backend : AllBackends()) {
    for (const char* model :
         {"llama32", "mistral", "qwen2_alternating", "qwen2_padded_group", "gemma3"}) {
      cases.push_back({backend, model, DType::kF32});
    }
    for (const char* model : {"llama32", "qwen2_alternating", "gemma2"}) {
      cases.push_back({backend, model, DType::kBF16});
      cases.push_back({backend, model, DType::kI8});
      cases.push_back({backend, model, DType::kI4});
    }
    cases.push_back({backend, "llama32", DType::kI5});
    cases.push_back({backend, "llama32", DType::kI4, ActivationDtype::kBF16});
    cases.push_back({backend, "llama32", DType::kI5, ActivationDtype::kBF16});
  }
  return cases;
}

class MetamorphicTest : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int kShort = 40;
  static constexpr int kLong = 540;  // several blocks of kAttentionBlock keys

  TinyOptions Options() const {
    TinyOptions options;
    options.dtype = DtypeOf(GetParam().dtype);
    options.activations = GetParam().activations;
    const bool below_a_byte = GetParam().dtype == DType::kI4 || GetParam().dtype == DType::kI5;
    options.kv_dtype = below_a_byte ? DType::kBF16 : GetParam().dtype;
    options.max_tokens = 1024;
    options.max_num_seqs = 128;
    options.pool_bytes = int64_t{32} << 20;
    return options;
  }
  std::unique_ptr<TinyModel> NewModel(const TinyOptions& options) {
    return std::make_unique<TinyModel>(GoldenModelDir(GetParam().model), device_.backend.get(),
                                       options);
  }
  std::unique_ptr<TinyModel> NewModel() { return NewModel(Options()); }
  std::vector<TokenId> Prompt(int count, uint32_t seed = 1) { return Tokens(count, 128, seed); }

  TestBackend device_{GetParam().backend};
};

TEST_P(MetamorphicTest, ChunkedIsWholeForEveryChunkSize) {
  const auto model = NewModel();
  const std::vector<TokenId> prompt = Prompt(kShort);
  const std::vector<float> whole = model->AllLogits(prompt, kShort);
  for (int chunk = 1; chunk < kShort; ++chunk) {
    EXPECT_TRUE(SameBits(model->AllLogits(prompt, chunk), whole)) << "chunks of " << chunk;
  }
}

TEST_P(MetamorphicTest, ChunkedIsWholeOverManyBlocks) {
  const auto model = NewModel();
  const std::vector<TokenId> prompt = Prompt(kLong);
  const std::vector<float> whole = model->AllLogits(prompt, kLong);
  for (const int chunk : {37, 64, 255, 256, 257, 539}) {
    EXPECT_TRUE(SameBits(model->AllLogits(prompt, chunk), whole)) << "chunks of " << chunk;
  }
}

// Each step computes random numbers of tokens of several sequences with different lengths.
TEST_P(MetamorphicTest, AloneIsInABatch) {
  const auto alone = NewModel();
  const auto together = NewModel();
  constexpr int kSequences = 6;
  std::vector<std::vector<float>> expected;
  std::vector<std::vector<float>> logits(kSequences);
  for (int s = 0; s < kSequences; ++s) {
    const std::vector<TokenId> prompt = Prompt(20 + 55 * s, s);
    expected.push_back(alone->AllLogits(prompt, 1024));
    EXPECT_EQ(together->AddSequence(prompt), s);
  }
  uint32_t random = 7;
  for (;;) {
    std::vector<TinySegment> segments;
    for (int s = kSequences - 1; s >= 0; --s) {
      const int left = static_cast<int>(together->tokens(s).size()) - together->num_computed(s);
      random = random * 1664525u + 1013904223u;
      const int wanted = (random >> 20) % 3 == 0 ? 1 : static_cast<int>((random >> 16) % 60);
      if (std::min(left, wanted) > 0) segments.push_back({s, std::min(left, wanted)});
    }
    const auto is_done = [&](int s) {
      return together->num_computed(s) == static_cast<int>(together->tokens(s).size());
    };
    if (segments.empty()) {
      bool done = true;
      for (int s = 0; s < kSequences; ++s) done = done && is_done(s);
      if (done) break;
      continue;
    }
    together->Step(segments);
    const std::vector<float> rows = together->LastLogits();
    auto next = rows.begin();
    for (const TinySegment& segment : segments) {
      const auto end = next + segment.num_tokens * together->spec().vocab_size;
      logits[segment.sequence].insert(logits[segment.sequence].end(), next, end);
      next = end;
    }
  }
  for (int s = 0; s < kSequences; ++s) EXPECT_TRUE(SameBits(logits[s], expected[s])) << s;
}

// The step has more sampler rows than a block of logits (kLogitBlock), greedy and random rows
// mixed.
TEST_P(MetamorphicTest, SampledAloneIsSampledInABatch) {
  const auto alone = NewModel();
  const auto together = NewModel();
  constexpr int kSequences = kLogitBlock + 9;
  std::vector<TinySegment> segments;
  std::vector<SampledRow> expected;
  for (int s = 0; s < kSequences; ++s) {
    const std::vector<TokenId> prompt = Prompt(1 + s % 13, s);
    alone->AddSequence(prompt);
    together->AddSequence(prompt);
    TinySegment segment{s, static_cast<int>(prompt.size()), /*sample=*/true};
    segment.row.temperature = s % 4 == 0 ? 0.0f : 0.8f;
    segment.row.top_p = s % 2 == 0 ? 1.0f : 0.7f;
    segment.row.seed = 17 + s;
    segment.row.num_logprobs = 0;
    segments.push_back(segment);
    expected.push_back(alone->Step({segment}).rows.at(0));
  }
  const StepResult result = together->Step(segments);
  ASSERT_EQ(result.rows.size(), expected.size());
  for (int s = 0; s < kSequences; ++s) {
    EXPECT_EQ(result.rows[s].token, expected[s].token) << s;
    EXPECT_EQ(result.rows[s].logprob, expected[s].logprob) << s;
  }
}

TEST_P(MetamorphicTest, LayerRangesAreTheWhole) {
  const auto model = NewModel();
  const std::vector<TokenId> prompt = Prompt(kShort);
  const int whole = model->AddSequence(prompt);
  const StepResult expected = model->Step({{whole, kShort, /*sample=*/true}});
  const std::vector<float> logits = model->LastLogits();
  const int last = model->spec().num_layers - 1;
  for (const std::vector<int>& stops : {std::vector<int>{1}, {0, 1, 1, last}, {last, last + 1}}) {
    const int sequence = model->AddSequence(prompt);
    const auto step = model->Build({{sequence, kShort, /*sample=*/true}});
    EXPECT_EQ(model->Run(*step, stops).rows[0].token, expected.rows[0].token);
    EXPECT_TRUE(SameBits(model->LastLogits(), logits));
  }
}

TEST_P(MetamorphicTest, OneRunIsSeveral) {
  const auto model = NewModel();
  const std::vector<TokenId> prompt = Prompt(kLong);
  const std::vector<float> expected = model->AllLogits(prompt, 135);
  for (const int num_runs : {2, 3, 41}) {
    const int sequence = model->AddSequence(prompt);
    std::vector<float> logits;
    for (int i = 0; i < kLong / 135; ++i) {
      TinySegment segment{sequence, 135};
      segment.num_runs = num_runs;
      model->Step({segment});
      const std::vector<float> rows = model->LastLogits();
      logits.insert(logits.end(), rows.begin(), rows.end());
    }
    EXPECT_TRUE(SameBits(logits, expected)) << num_runs << " runs";
  }
}

// Steps without the pages that have left the window give the same bits.
TEST_P(MetamorphicTest, PagesBehindTheWindowAreNotNeeded) {
  const auto model = NewModel();
  const std::vector<TokenId> prompt = Prompt(kLong);
  const std::vector<float> expected = model->AllLogits(prompt, 30);
  const int sequence = model->AddSequence(prompt);
  std::vector<float> logits;
  for (int i = 0; i < kLong / 30; ++i) {
    TinySegment segment{sequence, 30};
    segment.trim = true;
    model->Step({segment});
    const std::vector<float> rows = model->LastLogits();
    logits.insert(logits.end(), rows.begin(), rows.end());
  }
  EXPECT_TRUE(SameBits(logits, expected));
}

TEST_P(MetamorphicTest, PageSizesDoNotShow) {
  const std::vector<TokenId> prompt = Prompt(kLong);
  const std::vector<float> expected = NewModel()->AllLogits(prompt, 100);
  for (const int page_tokens : {8, 24, 64}) {
    TinyOptions options = Options();
    options.page_tokens = page_tokens;
    EXPECT_TRUE(SameBits(NewModel(options)->AllLogits(prompt, 100), expected)) << page_tokens;
  }
}

TEST_P(MetamorphicTest, ThreadsDoNotShow) {
  const std::vector<TokenId> prompt = Prompt(kLong);
  const std::vector<float> expected = NewModel()->AllLogits(prompt, 300);
  for (const int num_threads : {2, 3}) {
    TestBackend device(GetParam().backend, num_threads);
    TinyModel model(GoldenModelDir(GetParam().model), device.backend.get(), Options());
    EXPECT_TRUE(SameBits(model.AllLogits(prompt, 300), expected)) << num_threads << " threads";
  }
}

TEST_P(MetamorphicTest, TwoModelsInTurnAreEachAlone) {
  TinyPool pool(device_.backend.get(), 512, 16384);
  TinyOptions options = Options();
  options.pool = &pool;
  const auto first = NewModel(options);
  TinyModel second(GoldenModelDir("llama_bias"), device_.backend.get(), options);
  const std::vector<TokenId> prompt = Prompt(kShort);
  const std::vector<float> expected = NewModel()->AllLogits(prompt, kShort);
  TinyModel other(GoldenModelDir("llama_bias"), device_.backend.get(), Options());
  const std::vector<float> expected_second = other.AllLogits(prompt, kShort);
  first->AddSequence(prompt);
  second.AddSequence(prompt);
  std::vector<float> logits;
  std::vector<float> logits_second;
  for (int i = 0; i < kShort / 4; ++i) {
    first->Step({{0, 4}});
    second.Step({{0, 4}});
    const std::vector<float> rows = first->LastLogits();
    const std::vector<float> rows_second = second.LastLogits();
    logits.insert(logits.end(), rows.begin(), rows.end());
    logits_second.insert(logits_second.end(), rows_second.begin(), rows_second.end());
  }
  EXPECT_TRUE(SameBits(logits, expected));
  EXPECT_TRUE(SameBits(logits_second, expected_second));
}

TEST_P(MetamorphicTest, LastSampledTokenIsTheTokenItself) {
  const auto model = NewModel();
  const std::vector<TokenId> prompt = Prompt(kShort);
  const std::vector<TokenId> expected = model->Greedy(prompt, 8);
  const int sequence = model->AddSequence(prompt);
  int num_tokens = kShort;
  for (int i = 0; i < 8; ++i) {
    const TinySegment segment{sequence, num_tokens, /*sample=*/true, /*from_slot=*/i > 0};
    EXPECT_EQ(model->Step({segment}).rows[0].token, expected[i]);
    model->Append(sequence, -123);  // the backend does not read this id
    num_tokens = 1;
  }
  // A resumed sequence sets its slot's last token by a slot update.
  const int resumed = model->AddSequence(prompt);
  const TinySegment segment{resumed, kShort, /*sample=*/true, /*from_slot=*/true};
  const auto step = model->Build({segment}, {}, {}, {{resumed, prompt.back()}});
  EXPECT_EQ(model->Run(*step).rows[0].token, expected[0]);
}

// A hidden tap of a layer below num_layers returns the residual stream between two layer ranges.
TEST_P(MetamorphicTest, HiddenTapsAreTheResidual) {
  const auto model = NewModel();
  const int num_layers = model->spec().num_layers;
  const int64_t hidden = model->spec().hidden;
  const std::vector<TokenId> prompt = Prompt(kShort);
  std::vector<std::vector<float>> residual;  // [layer]
  const int ranged = model->AddSequence(prompt);
  const auto plain = model->Build({{ranged, kShort, /*sample=*/true}});
  StepResult expected;
  model->model().Begin(plain->view(), {model->pool(), &model->layout()}, &expected);
  for (int layer = 0; layer < num_layers; ++layer) {
    model->model().RunLayers(layer, layer + 1);
    const Tensor rows = model->model().residual();
    residual.emplace_back(static_cast<size_t>(3 * rows.cols));
    device_.backend->Download(rows.f32(10), residual.back().data(),
                              residual.back().size() * sizeof(float));
  }
  model->model().Finish();

  // Another sequence comes first in the step, so that row indices of the segment and of the step
  // differ. The two taps overlap.
  const int before = model->AddSequence(prompt);
  const int tapped = model->AddSequence(prompt);
  Tap all{TapKind::kHidden, /*segment=*/1, /*row_begin=*/10, /*num_rows=*/3, 0, num_layers + 1};
  all.out_begin = 5;
  all.out_count = static_cast<int32_t>((num_layers + 1) * 3 * hidden);
  Tap one{TapKind::kHidden, 1, 11, 1, 1, 2};
  one.out_begin = all.out_begin + all.out_count;
  one.out_count = static_cast<int32_t>(hidden);
  const auto step = model->Build({{before, 17}, {tapped, kShort, /*sample=*/true}}, {all, one});
  const StepResult result = model->Run(*step, {1});
  EXPECT_EQ(result.rows[0].token, expected.rows[0].token);
  const float* const taps = result.taps.data() + all.out_begin;
  for (int layer = 0; layer < num_layers; ++layer) {
    const std::vector<float> rows(taps + layer * 3 * hidden, taps + (layer + 1) * 3 * hidden);
    EXPECT_TRUE(SameBits(rows, residual[layer])) << "layer " << layer;
  }
  const std::vector<float> row(result.taps.data() + one.out_begin,
                               result.taps.data() + one.out_begin + hidden);
  EXPECT_TRUE(SameBits(row, {residual[1].begin() + hidden, residual[1].begin() + 2 * hidden}));
  // The last tap is after the final norm, so without the norm's weight its mean square is 1.
  const float* const final_norm = model->model().weights().final_norm;
  double sum = 0.0;
  for (int64_t i = 0; i < hidden; ++i) {
    const double value = taps[num_layers * 3 * hidden + i] / final_norm[i];
    sum += value * value;
  }
  EXPECT_NEAR(sum / static_cast<double>(hidden), 1.0, 1e-3);
}

// A step may consist of page ops and slot updates only.
TEST_P(MetamorphicTest, StepsWithoutTokens) {
  const auto model = NewModel();
  const std::vector<TokenId> prompt = Prompt(20);
  const int source = model->AddSequence(prompt);
  model->Step({{source, 19}});
  const int copy = model->AddSequence(prompt);
  model->Build({{copy, 19}});  // takes pages for `copy`; the step is not run
  std::vector<PageOp> page_ops;
  for (int group = 0; group < model->layout().num_groups(); ++group) {
    for (size_t page = 0; page < model->pages(source, group).size(); ++page) {
      PageOp op;
      op.group = group;
      op.src = model->pages(source, group)[page];
      op.dst = model->pages(copy, group)[page];
      op.num_tokens = model->layout().page_tokens();
      op.layer_end = model->layout().groups[group].num_layers;
      page_ops.push_back(op);
    }
  }
  const StepResult nothing =
      model->Run(*model->Build({}, {}, page_ops, {{copy, prompt.back()}}), {1});
  EXPECT_TRUE(nothing.rows.empty());
  model->Step({{source, 1}});
  const std::vector<float> expected = model->LastLogits();
  model->Step({TinySegment{copy, 1, /*sample=*/false, /*from_slot=*/true}});
  EXPECT_TRUE(SameBits(model->LastLogits(), expected));
}

INSTANTIATE_TEST_SUITE_P(All, MetamorphicTest, ::testing::ValuesIn(Cases()), [](const auto& info) {
  const char* const suffix =
      info.param.activations == ActivationDtype::kBF16 ? "_bf16_activations" : "";
  return info.param.backend + "_" + info.param.model + "_" + DTypeName(info.param.dtype) + suffix;
});

}  // namespace
}  // namespace tessera::testing

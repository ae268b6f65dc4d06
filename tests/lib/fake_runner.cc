#include "tests/lib/fake_runner.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/base/log.h"

namespace tessera::testing {
namespace {

constexpr int32_t kHidden = 4;

uint64_t Fold(uint64_t hash, int32_t position, TokenId token) {
  hash ^= static_cast<uint64_t>(position) * 0x9e3779b97f4a7c15ull + static_cast<uint64_t>(token);
  hash *= 0xff51afd7ed558ccdull;
  return hash ^ (hash >> 29);
}

TokenId TokenOf(uint64_t hash, int64_t vocab_size) {
  return static_cast<TokenId>((hash >> 7) % static_cast<uint64_t>(vocab_size));
}

}  // namespace

FakeRunner::FakeRunner(FakeRunnerOptions options)
    : options_(std::move(options)),
      slot_tokens_(options_.models.size(), std::vector<TokenId>(options_.max_num_seqs, -7)),
      memory_(&options_.models, options_.num_slabs) {}

void FakeRunner::ToDevice(const PageRun& run, const char* from, uint64_t ticket, Done done) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < run.pages.size(); ++i) {
      memory_.WriteBytes(run.pages[i], from + static_cast<int64_t>(i) * run.page_bytes,
                         run.page_bytes);
    }
  }
  done({ticket, absl::OkStatus()});
}

void FakeRunner::ToHost(const PageRun&, char*, uint64_t, Done) {
  CHECK(false) << "pages of a fake runner hold cells, which are no bytes";
}

void FakeRunner::WriteCell(int32_t model, int32_t group, PageId page, int32_t token,
                           const FakeCell& cell) {
  const std::lock_guard<std::mutex> lock(mutex_);
  memory_.Write(model, group, page, token, cell);
}

uint64_t FakeRunner::HashVisible(const BatchView& view, int32_t segment, int32_t position,
                                 uint64_t adapter) const {
  const int32_t model = view.batch->model;
  const PageLayout& layout = options_.models[model].layout;
  const int32_t page_tokens = layout.page_tokens();
  uint64_t hash = adapter;
  for (int32_t g = 0; g < layout.num_groups(); ++g) {
    const int32_t window = layout.groups[g].window;
    const int32_t first_visible = window > 0 ? std::max(0, position - window + 1) : 0;
    int32_t next = first_visible;
    const Range range = view.run_range(g, segment);
    for (int32_t r = range.begin; r < range.begin + range.count; ++r) {
      const KvRun& run = view.runs()[r];
      for (int32_t i = 0; i < run.count; ++i) {
        const int32_t pos = run.pos_begin + i;
        if (pos < first_visible || pos > position) continue;
        const int32_t at = run.first + i;
        EXPECT_LT(at / page_tokens, run.num_pages);
        const PageId page = view.pages()[run.page_begin + at / page_tokens];
        EXPECT_NE(page, kNullPage) << "position " << pos << " of group " << g;
        const FakeCell cell = memory_.Read(model, g, page, at % page_tokens);
        EXPECT_EQ(cell.position, pos) << "group " << g << " page " << page;
        EXPECT_EQ(pos, next) << "a key is missing in group " << g;
        ++next;
        hash = Fold(hash ^ cell.adapter, cell.position, cell.token);
      }
    }
    EXPECT_EQ(next, position + 1) << "keys are missing in group " << g;
  }
  return hash;
}

FakeRunner::Rows FakeRunner::Resolve(const BatchView& view) const {
  const int32_t model = view.batch->model;
  const int32_t num_tokens = view.num_tokens();
  Rows rows;
  rows.tokens.assign(view.tokens(), view.tokens() + num_tokens);
  rows.segment_of.assign(num_tokens, -1);
  for (int32_t s = 0; s < view.num_segments(); ++s) {
    const Segment& segment = view.segments()[s];
    rows.adapters.push_back(memory_.HashOfAdapter(view, segment.adapter));
    for (int32_t t = segment.token_begin; t < segment.token_begin + segment.num_tokens; ++t) {
      EXPECT_EQ(rows.segment_of[t], -1) << "two segments share a row";
      rows.segment_of[t] = s;
      TokenId& token = rows.tokens[t];
      if (token == kLastSampledToken) token = slot_tokens_[model][segment.slot];
      EXPECT_GE(token, 0);
      EXPECT_LT(token, options_.models[model].vocab_size);
    }
  }
  EXPECT_EQ(std::count(rows.segment_of.begin(), rows.segment_of.end(), -1), 0);
  return rows;
}

void FakeRunner::WriteCells(const BatchView& view, const Rows& rows) {
  const int32_t model = view.batch->model;
  const int32_t page_tokens = options_.models[model].layout.page_tokens();
  for (int32_t g = 0; g < view.batch->num_groups; ++g) {
    for (int32_t t = 0; t < view.num_tokens(); ++t) {
      const int64_t place = view.write_places(g)[t];
      EXPECT_GE(place, page_tokens) << "a real token is written to the null page";
      memory_.Write(model, g, static_cast<PageId>(place / page_tokens),
                    static_cast<int32_t>(place % page_tokens),
                    {rows.tokens[t], view.positions()[t], rows.adapters[rows.segment_of[t]]});
    }
  }
}

void FakeRunner::CheckKeys(const BatchView& view, const Rows& rows) const {
  std::vector<bool> is_sampled(view.num_tokens(), false);
  const SamplerRow* const sampler_rows = view.data(view.batch->sampler_rows);
  for (uint32_t r = 0; r < view.batch->sampler_rows.count; ++r) {
    is_sampled[sampler_rows[r].token_row] = true;
  }
  for (int32_t t = 0; t < view.num_tokens(); ++t) {
    if (is_sampled[t]) continue;
    const int32_t segment = rows.segment_of[t];
    HashVisible(view, segment, view.positions()[t], rows.adapters[segment]);
  }
}

SampledRow FakeRunner::Sample(const BatchView& view, const Rows& rows, const SamplerRow& row) {
  const int32_t model = view.batch->model;
  const int32_t segment = rows.segment_of[row.token_row];
  const uint64_t hash =
      HashVisible(view, segment, view.positions()[row.token_row], rows.adapters[segment]);
  const uint64_t draw = options_.samples_apart ? FakeDraw(row.seed, row.index) : 0;
  SampledRow sampled;
  sampled.token =
      row.target >= 0 ? row.target : TokenOf(hash ^ draw, options_.models[model].vocab_size);
  sampled.logprob = -static_cast<float>(hash % 1000) / 100;
  sampled.is_finite = options_.is_finite == nullptr || options_.is_finite(row);
  if (row.target < 0) slot_tokens_[model][row.slot] = sampled.token;
  return sampled;
}

void FakeRunner::TakeTaps(const BatchView& view, const Rows& rows, StepResult* result) const {
  result->taps.resize(view.batch->num_tap_floats);
  const Tap* taps = view.data(view.batch->taps);
  for (uint32_t i = 0; i < view.batch->taps.count; ++i) {
    const Segment& segment = view.segments()[taps[i].segment];
    for (int32_t t = 0; t < taps[i].num_rows; ++t) {
      float* out = result->taps.data() + taps[i].out_begin + t * kHidden;
      const TokenId token = rows.tokens[segment.token_begin + taps[i].row_begin + t];
      for (int32_t h = 0; h < kHidden; ++h) out[h] = static_cast<float>((token >> h) & 7);
    }
  }
}

void FakeRunner::Launch(const StepBatch* batch, const BatchArena* arena, LayerRange layers,
                        StepResult* result) {
  ASSERT_LT(num_inflight(), options_.depth);
  ASSERT_EQ(layers.first, 0);
  ASSERT_EQ(layers.last, LayerRange::kToTheEnd);
  const std::lock_guard<std::mutex> lock(mutex_);
  steps_.push_back({batch, arena, result});
}

// REQUIRES: the caller holds mutex_.
void FakeRunner::Run(const Step& step) {
  const BatchView view{step.batch, step.arena->base()};
  StepResult& result = *step.result;
  result = StepResult();
  result.step_id = step.batch->step_id;
  result.model = step.batch->model;
  result.step_us = options_.step_us(*step.batch);
  memory_.ApplyPageOps(view);
  const Rows rows = Resolve(view);
  WriteCells(view, rows);
  CheckKeys(view, rows);
  const SamplerRow* sampler_rows = view.data(step.batch->sampler_rows);
  for (uint32_t r = 0; r < step.batch->sampler_rows.count; ++r) {
    result.rows.push_back(Sample(view, rows, sampler_rows[r]));
  }
  TakeTaps(view, rows, &result);
}

void FakeRunner::FinishOldest() {
  Completion completion;
  int64_t step_us = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    CHECK(!steps_.empty());
    const Step step = steps_.front();
    steps_.pop_front();
    Run(step);
    completion = {step.batch->step_id, absl::OkStatus()};
    step_us = step.result->step_us;
  }
  if (options_.clock != nullptr) options_.clock->Advance(step_us);
  on_done_(completion);
}

int FakeRunner::num_inflight() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int>(steps_.size());
}

uint64_t FakeDraw(uint64_t seed, int32_t index) {
  return Fold(seed, index, /*token=*/1) << 7;  // TokenOf ignores the low bits
}

std::vector<TokenId> ExpectedTokens(const EngineModel& model, std::vector<TokenId> prompt,
                                    int64_t num_tokens, const FakeVariant& variant) {
  const uint64_t adapter = variant.adapter.empty() ? 0 : HashOfBytes(variant.adapter);
  std::vector<TokenId> generated;
  for (int64_t i = 0; i < num_tokens; ++i) {
    const auto position = static_cast<int32_t>(prompt.size()) - 1;
    uint64_t hash = adapter;
    for (const GroupLayout& group : model.layout.groups) {
      const int32_t first = group.window > 0 ? std::max(0, position - group.window + 1) : 0;
      for (int32_t p = first; p <= position; ++p) hash = Fold(hash ^ adapter, p, prompt[p]);
    }
    prompt.push_back(TokenOf(hash ^ variant.draw, model.vocab_size));
    generated.push_back(prompt.back());
  }
  return generated;
}

EngineModel FakeModel(const std::string& name, const std::vector<int32_t>& windows,
                      int32_t page_tokens, int64_t max_model_len) {
  EngineModel model;
  model.name = name;
  model.identity.weights = name;
  model.vocab_size = 1000;
  model.hidden = kHidden;
  model.num_layers = static_cast<int32_t>(windows.size());
  model.max_model_len = max_model_len;
  for (const int32_t window : windows) {
    GroupLayout group;
    group.num_layers = 1;
    group.kv_heads = 1;
    group.head_dim = 4;
    group.page_tokens = page_tokens;
    group.window = window;
    model.layout.groups.push_back(group);
  }
  model.layout.slab_bytes = model.layout.groups[0].page_bytes();
  return model;
}

}  // namespace tessera::testing

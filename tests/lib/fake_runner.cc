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
      slabs_(options_.num_slabs),
      slot_tokens_(options_.models.size(), std::vector<TokenId>(options_.max_num_seqs, -7)) {}

FakeRunner::Cell* FakeRunner::CellAt(int32_t model, int32_t group, PageId page, int32_t token) {
  Slab& slab = slabs_.at(page);
  if (slab.model != model || slab.group != group) {
    slab.model = model;
    slab.group = group;
    slab.cells.assign(options_.models[model].layout.page_tokens(), Cell{});
  }
  return &slab.cells.at(token);
}

uint64_t FakeRunner::HashVisible(const BatchView& view, int32_t segment, int32_t position) {
  const int32_t model = view.batch->model;
  const PageLayout& layout = options_.models[model].layout;
  const int32_t page_tokens = layout.page_tokens();
  uint64_t hash = 0;
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
        const Cell& cell = *CellAt(model, g, page, at % page_tokens);
        EXPECT_EQ(cell.position, pos) << "group " << g << " page " << page;
        EXPECT_EQ(pos, next) << "a key is missing in group " << g;
        ++next;
        hash = Fold(hash, cell.position, cell.token);
      }
    }
    EXPECT_EQ(next, position + 1) << "keys are missing in group " << g;
  }
  return hash;
}

void FakeRunner::Launch(const StepBatch* batch, const BatchArena* arena) {
  ASSERT_LT(static_cast<int>(results_.size()), options_.depth);
  const BatchView view{batch, arena->base()};
  const EngineModel& model = options_.models.at(batch->model);
  const int32_t page_tokens = model.layout.page_tokens();
  const int32_t num_tokens = view.num_tokens();
  std::vector<TokenId> tokens(view.tokens(), view.tokens() + num_tokens);
  std::vector<int32_t> segment_of(num_tokens, -1);
  for (int32_t s = 0; s < view.num_segments(); ++s) {
    const Segment& segment = view.segments()[s];
    for (int32_t t = segment.token_begin; t < segment.token_begin + segment.num_tokens; ++t) {
      EXPECT_EQ(segment_of[t], -1) << "two segments share a row";
      segment_of[t] = s;
      if (tokens[t] == kLastSampledToken) tokens[t] = slot_tokens_[batch->model][segment.slot];
      EXPECT_GE(tokens[t], 0);
      EXPECT_LT(tokens[t], model.vocab_size);
    }
  }
  EXPECT_EQ(std::count(segment_of.begin(), segment_of.end(), -1), 0);
  for (int32_t g = 0; g < batch->num_groups; ++g) {
    for (int32_t t = 0; t < num_tokens; ++t) {
      const int64_t slot = view.write_slots(g)[t];
      EXPECT_GE(slot, page_tokens) << "a real token is written to the null page";
      Cell* cell = CellAt(batch->model, g, static_cast<PageId>(slot / page_tokens),
                          static_cast<int32_t>(slot % page_tokens));
      *cell = {tokens[t], view.positions()[t]};
    }
  }

  StepResult result;
  result.step_id = batch->step_id;
  result.model = batch->model;
  result.step_us = options_.step_us(*batch);
  const SamplerRow* rows = view.data(batch->sampler_rows);
  for (uint32_t r = 0; r < batch->sampler_rows.count; ++r) {
    const SamplerRow& row = rows[r];
    const int32_t position = view.positions()[row.token_row];
    const uint64_t hash = HashVisible(view, segment_of[row.token_row], position);
    SampledRow sampled;
    sampled.token = row.target >= 0 ? row.target : TokenOf(hash, model.vocab_size);
    sampled.logprob = -static_cast<float>(hash % 1000) / 100;
    if (row.target < 0) slot_tokens_[batch->model][row.slot] = sampled.token;
    result.rows.push_back(sampled);
  }
  result.taps.resize(batch->num_tap_floats);
  const Tap* taps = view.data(batch->taps);
  for (uint32_t i = 0; i < batch->taps.count; ++i) {
    const Segment& segment = view.segments()[taps[i].segment];
    for (int32_t t = 0; t < taps[i].num_rows; ++t) {
      float* out = result.taps.data() + taps[i].out_begin + t * kHidden;
      const TokenId token = tokens[segment.token_begin + taps[i].row_begin + t];
      for (int32_t h = 0; h < kHidden; ++h) out[h] = static_cast<float>((token >> h) & 7);
    }
  }
  results_.push_back(std::move(result));
}

StepResult FakeRunner::Wait() {
  CHECK(!results_.empty());
  StepResult result = std::move(results_.front());
  results_.pop_front();
  if (options_.clock != nullptr) options_.clock->Advance(result.step_us);
  return result;
}

std::vector<TokenId> ExpectedTokens(const EngineModel& model, std::vector<TokenId> prompt,
                                    int64_t num_tokens) {
  std::vector<TokenId> generated;
  for (int64_t i = 0; i < num_tokens; ++i) {
    const auto position = static_cast<int32_t>(prompt.size()) - 1;
    uint64_t hash = 0;
    for (const GroupLayout& group : model.layout.groups) {
      const int32_t first = group.window > 0 ? std::max(0, position - group.window + 1) : 0;
      for (int32_t p = first; p <= position; ++p) hash = Fold(hash, p, prompt[p]);
    }
    prompt.push_back(TokenOf(hash, model.vocab_size));
    generated.push_back(prompt.back());
  }
  return generated;
}

EngineModel FakeModel(const std::string& name, const std::vector<int32_t>& windows,
                      int32_t page_tokens, int64_t max_model_len) {
  EngineModel model;
  model.name = name;
  model.revision = "r1";
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

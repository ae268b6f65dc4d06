#include "scheduler/step/batch_builder.h"

#include <algorithm>
#include <limits>

#include "kernels/base/log.h"

namespace tessera {
namespace {

template <class T>
ArenaSpan<T> AddRows(BatchArena* arena, const std::vector<std::vector<T>>& rows, size_t num_rows) {
  std::vector<T> flat;
  for (size_t r = 0; r < num_rows; ++r) flat.insert(flat.end(), rows[r].begin(), rows[r].end());
  return arena->AddCopy(flat);
}

}  // namespace

// Entries that share an adapter are adjacent, so a comparison with the last adapter is enough.
int32_t BatchBuilder::AddAdapter(AdapterId id) {
  if (id == kNoAdapter) return -1;
  if (id != last_adapter_) {
    const AdapterLayout& layout = adapters_->layout(id);
    const std::vector<PageId>& pages = adapters_->pages(id);
    batch_adapters_.push_back({static_cast<int32_t>(pages_.size()),
                               static_cast<int32_t>(lora_matrices_.size()), layout.dtype});
    pages_.insert(pages_.end(), pages.begin(), pages.end());
    lora_matrices_.insert(lora_matrices_.end(), layout.matrices.begin(), layout.matrices.end());
    last_adapter_ = id;
  }
  return static_cast<int32_t>(batch_adapters_.size()) - 1;
}

void BatchBuilder::AddTokens(const Sequence& s, const TokenRange& range, const PageLayout& layout) {
  const int64_t num_known = static_cast<int64_t>(s.tokens.size());
  for (int64_t i = range.begin; i < range.end; ++i) {
    tokens_.push_back(i < num_known ? s.tokens[i] : kLastSampledToken);
    positions_.push_back(static_cast<int32_t>(i));
  }
  const int64_t page_tokens = layout.page_tokens();
  for (int32_t g = 0; g < layout.num_groups(); ++g) {
    const std::vector<PageId>& table = s.kv.groups[g].pages;
    for (int64_t i = range.begin; i < range.end; ++i) {
      const int64_t page = i / page_tokens;
      CHECK_LT(page, static_cast<int64_t>(table.size()));
      write_places_[g].push_back(table[page] * page_tokens + i % page_tokens);
    }
  }
}

void BatchBuilder::AddRuns(const Sequence& s, const TokenRange& range, const PageLayout& layout) {
  const int64_t page_tokens = layout.page_tokens();
  for (int32_t g = 0; g < layout.num_groups(); ++g) {
    const KvGroupState& state = s.kv.groups[g];
    const int64_t window = layout.groups[g].window;
    // The first query, at position `begin`, attends to keys at positions > begin - window.
    const int64_t first_key = window > 0 ? std::max<int64_t>(0, range.begin - window + 1) : 0;
    const int64_t first_page = first_key / page_tokens;
    const int64_t num_pages = CeilDiv(range.end, page_tokens) - first_page;
    CHECK_GE(first_page, state.first_live_page);
    KvRun run;
    run.page_begin = static_cast<int32_t>(pages_.size());
    run.num_pages = static_cast<int32_t>(num_pages);
    run.pos_begin = static_cast<int32_t>(first_page * page_tokens);
    run.count = static_cast<int32_t>(range.end - run.pos_begin);
    pages_.insert(pages_.end(), state.pages.begin() + first_page,
                  state.pages.begin() + first_page + num_pages);
    run_ranges_[g].push_back({static_cast<int32_t>(runs_.size()), 1});
    runs_.push_back(run);
  }
}

void BatchBuilder::AddSegment(const PlanEntry& entry, const TokenRange& range,
                              const PageLayout& layout) {
  Segment segment;
  segment.slot = entry.sequence->slot;
  segment.token_begin = static_cast<int32_t>(tokens_.size());
  segment.num_tokens = static_cast<int32_t>(range.size());
  segment.adapter = AddAdapter(entry.sequence->request->adapter.id);
  AddTokens(*entry.sequence, range, layout);
  AddRuns(*entry.sequence, range, layout);
  segments_.push_back(segment);
}

// Adds a tap of the hidden state of all rows of the last segment, after the final norm.
void BatchBuilder::AddHiddenTap(const EngineModel& model) {
  Tap tap;
  tap.kind = TapKind::kHidden;
  tap.segment = static_cast<int32_t>(segments_.size()) - 1;
  tap.num_rows = segments_.back().num_tokens;
  tap.layer_begin = model.num_layers;
  tap.layer_end = model.num_layers + 1;
  tap.out_begin = num_tap_floats_;
  tap.out_count = static_cast<int32_t>(tap.num_rows * model.hidden);
  num_tap_floats_ += tap.out_count;
  taps_.push_back(tap);
}

void BatchBuilder::AddSamplerRows(const PlanEntry& entry, int32_t token_begin) {
  const Sequence& s = *entry.sequence;
  const Request& request = *s.request;
  for (int64_t t = entry.target_begin; t < entry.target_begin + entry.num_targets; ++t) {
    SamplerRow row;
    row.token_row = static_cast<int32_t>(token_begin + t - entry.begin());
    row.target = s.tokens[t + 1];
    row.num_logprobs = request.prompt_logprobs;
    sampler_rows_.push_back(row);
  }
  if (!entry.samples) return;

  const SamplingParams& sampling = request.sampling;
  SamplerRow row;
  row.token_row = static_cast<int32_t>(tokens_.size()) - 1;
  row.slot = s.slot;
  row.temperature = sampling.temperature;
  row.top_k = sampling.top_k;
  row.top_p = sampling.top_p;
  row.min_p = sampling.min_p;
  row.repetition_penalty = sampling.repetition_penalty;
  row.presence_penalty = sampling.presence_penalty;
  row.frequency_penalty = sampling.frequency_penalty;
  row.num_logprobs = request.logprobs;
  row.index = s.index;
  row.position = static_cast<int32_t>(entry.end());
  row.seed = sampling.seed;

  row.biases.begin = static_cast<int32_t>(biases_.size());
  biases_.insert(biases_.end(), sampling.logit_bias.begin(), sampling.logit_bias.end());
  if (s.num_generated() < request.stopping.min_tokens) {
    constexpr float kBanned = -std::numeric_limits<float>::infinity();
    if (!request.stopping.ignore_eos) {
      for (const TokenId id : request.stopping.eos_ids) biases_.push_back({id, kBanned});
    }
    for (const TokenId id : request.stopping.stop_ids) biases_.push_back({id, kBanned});
  }
  row.biases.count = static_cast<int32_t>(biases_.size()) - row.biases.begin;

  row.counts.begin = static_cast<int32_t>(counts_.size());
  counts_.insert(counts_.end(), s.counts.begin(), s.counts.end());
  row.counts.count = static_cast<int32_t>(counts_.size()) - row.counts.begin;
  sampler_rows_.push_back(row);
}

void BatchBuilder::ClearScratch(size_t num_groups) {
  tokens_.clear();
  positions_.clear();
  runs_.clear();
  pages_.clear();
  segments_.clear();
  sampler_rows_.clear();
  biases_.clear();
  counts_.clear();
  taps_.clear();
  num_tap_floats_ = 0;
  last_adapter_ = kNoAdapter;
  batch_adapters_.clear();
  lora_matrices_.clear();
  if (write_places_.size() < num_groups) {
    write_places_.resize(num_groups);
    run_ranges_.resize(num_groups);
  }
  for (size_t g = 0; g < num_groups; ++g) {
    write_places_[g].clear();
    run_ranges_[g].clear();
  }
}

void BatchBuilder::Build(const StepPlan& plan, uint64_t step_id, BuiltBatch* out) {
  const EngineModel& model = (*models_)[plan.model];
  const size_t num_groups = model.layout.groups.size();
  ClearScratch(num_groups);
  ForEachEntry(plan.entries, [&](const PlanEntry& entry) {
    const auto token_begin = static_cast<int32_t>(tokens_.size());
    for (const TokenRange& range : entry.ranges) {
      AddSegment(entry, range, model.layout);
      if (entry.sequence->request->kind == RequestKind::kEmbed) AddHiddenTap(model);
    }
    AddSamplerRows(entry, token_begin);
  });

  BatchArena& arena = out->arena;
  arena.Clear();
  StepBatch& batch = out->batch;
  batch = {};
  batch.model = plan.model;
  batch.num_groups = static_cast<int32_t>(num_groups);
  batch.step_id = step_id;
  batch.num_tap_floats = num_tap_floats_;
  batch.tokens = arena.AddCopy(tokens_);
  batch.positions = arena.AddCopy(positions_);
  batch.write_places = AddRows(&arena, write_places_, num_groups);
  batch.segments = arena.AddCopy(segments_);
  batch.run_ranges = AddRows(&arena, run_ranges_, num_groups);
  batch.runs = arena.AddCopy(runs_);
  batch.pages = arena.AddCopy(pages_);
  batch.adapters = arena.AddCopy(batch_adapters_);
  batch.lora_matrices = arena.AddCopy(lora_matrices_);
  batch.sampler_rows = arena.AddCopy(sampler_rows_);
  batch.biases = arena.AddCopy(biases_);
  batch.counts = arena.AddCopy(counts_);
  batch.taps = arena.AddCopy(taps_);
  batch.page_ops = arena.AddCopy(plan.page_ops);
}

}  // namespace tessera

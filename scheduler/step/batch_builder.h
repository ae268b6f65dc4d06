// Builds the step input from a plan: tokens, positions, write places, segments, KV runs, sampler
// rows, taps. The builder reads sequences and does not change them.
//
// Owned by the engine core; engine thread only.
#pragma once

#include <vector>

#include "kernels/step/batch.h"
#include "scheduler/plan/scheduler.h"
#include "scheduler/residency/adapters/adapter_store.h"
#include "scheduler/step/engine_options.h"

namespace tessera {

// A batch with its arena. The engine core reuses the arena for later steps, so that building a
// batch allocates memory only while the arena grows.
struct BuiltBatch {
  StepBatch batch;
  BatchArena arena;
};

class BatchBuilder {
 public:
  // `adapters` may be null if no request has an adapter. `models` and `adapters` outlive the
  // builder.
  BatchBuilder(const std::vector<EngineModel>* models, const AdapterStore* adapters)
      : models_(models), adapters_(adapters) {}

  // Writes the batch of the plan to `out`. Sampler rows are in the order of the plan's entries: for
  // each entry the rows of its targets, then its sampled row. Each segment of a kEmbed entry gets a
  // hidden tap over all its rows. REQUIRES: the plan is not empty; the pages of every entry hold
  // the tokens up to its end.
  void Build(const StepPlan& plan, uint64_t step_id, BuiltBatch* out);

 private:
  // Adds the adapter unless the previous segment has the same one. Returns the adapter's index in
  // the batch, or -1 for kNoAdapter.
  int32_t AddAdapter(AdapterId id);
  void AddSegment(const PlanEntry& entry, const TokenRange& range, const PageLayout& layout);
  void AddTokens(const Sequence& sequence, const TokenRange& range, const PageLayout& layout);
  void AddRuns(const Sequence& sequence, const TokenRange& range, const PageLayout& layout);
  void AddHiddenTap(const EngineModel& model);
  // `token_begin`: the token row of the entry's first token.
  void AddSamplerRows(const PlanEntry& entry, int32_t token_begin);
  void ClearScratch(size_t num_groups);

  const std::vector<EngineModel>* const models_;
  const AdapterStore* const adapters_;
  // Scratch that each Build clears.
  std::vector<TokenId> tokens_;
  std::vector<int32_t> positions_;
  std::vector<std::vector<int64_t>> write_places_;  // [group][T]
  std::vector<std::vector<Range>> run_ranges_;      // [group][S]
  std::vector<KvRun> runs_;
  std::vector<PageId> pages_;
  std::vector<Segment> segments_;
  std::vector<SamplerRow> sampler_rows_;
  std::vector<TokenBias> biases_;
  std::vector<TokenCount> counts_;
  std::vector<Tap> taps_;
  int32_t num_tap_floats_ = 0;
  AdapterId last_adapter_ = kNoAdapter;
  std::vector<BatchAdapter> batch_adapters_;
  std::vector<LoraMatrices> lora_matrices_;
};

}  // namespace tessera

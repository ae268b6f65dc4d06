// Turns a plan into the step input: tokens, positions, write slots, segments, KV runs, sampler
// rows, taps. Reads sequences, changes nothing. Engine thread only.
#pragma once

#include <vector>

#include "kernels/step/batch.h"
#include "scheduler/plan/scheduler.h"
#include "scheduler/residency/adapters/adapter_store.h"
#include "scheduler/step/engine_options.h"

namespace tessera {

// A batch with its arena, kept from step to step so that building allocates nothing once it has
// grown.
struct BuiltBatch {
  StepBatch batch;
  BatchArena arena;
};

class BatchBuilder {
 public:
  // `adapters` may be null: no request has one then. Both outlive the builder.
  BatchBuilder(const std::vector<EngineModel>* models, const AdapterStore* adapters)
      : models_(models), adapters_(adapters) {}

  // REQUIRES: plan is not empty; every entry's pages reach its last token. Sampler rows come in
  // entry order: an entry's targets, then its sample. kEmbed entries get one hidden tap over all
  // their rows, in entry order.
  void Build(const StepPlan& plan, uint64_t step_id, BuiltBatch* out);

 private:
  // The index of the sequence's adapter in the batch; -1: none.
  int32_t AddAdapter(AdapterId id);
  void AddSegment(const PlanEntry& entry, const TokenRange& range, const PageLayout& layout);
  void AddTokens(const Sequence& sequence, const TokenRange& range, const PageLayout& layout);
  void AddRuns(const Sequence& sequence, const TokenRange& range, const PageLayout& layout);
  void AddHiddenTap(const EngineModel& model);
  // `token_begin`: row of the entry's first token.
  void AddSamplerRows(const PlanEntry& entry, int32_t token_begin);
  void ClearScratch(size_t num_groups);

  const std::vector<EngineModel>* const models_;
  const AdapterStore* const adapters_;
  // Scratch, cleared by each Build.
  std::vector<TokenId> tokens_;
  std::vector<int32_t> positions_;
  std::vector<std::vector<int64_t>> write_slots_;  // [group][T]
  std::vector<std::vector<Range>> run_ranges_;     // [group][S]
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

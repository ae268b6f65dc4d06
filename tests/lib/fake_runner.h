// FakeRunner is a runner without tensors that finds errors of the engine. It records the token and
// position of each KV cell in the pages, checks that every KV run has exactly the keys that it
// claims, and "samples" a hash of all tokens that the query sees and of the bytes of its adapter's
// pages. A wrong page, a stale prefix hit, a lost token, or a missing or overwritten adapter
// produces other tokens than ExpectedTokens, which uses no pages.
//
// A launched step is in flight until FinishOldest, which executes it: first its page ops, then its
// writes. So a change that someone makes meanwhile to a page that the step reads changes the step's
// result. A test owns the runner or gives it to an engine. Launch is called on one thread,
// FinishOldest on any thread.
#pragma once

#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/base/clock.h"
#include "kernels/model/runner.h"
#include "scheduler/step/engine.h"
#include "tests/lib/fake_memory.h"

namespace tessera::testing {

struct FakeRunnerOptions {
  std::vector<EngineModel> models;
  int64_t num_slabs = 0;
  int depth = 1;
  int max_num_seqs = 256;
  ManualClock* clock = nullptr;  // each step advances this clock by step_us; null: none
  // If true, tokens depend on seed and index (FakeDraw), like sampled tokens. If false, all
  // sequences of a request have the same tokens.
  bool samples_apart = false;
  std::function<int64_t(const StepBatch&)> step_us = [](const StepBatch& batch) {
    return int64_t{1000} + 10 * static_cast<int64_t>(batch.tokens.count);
  };
  // Becomes SampledRow::is_finite of a row. Null: all rows are finite.
  std::function<bool(const SamplerRow&)> is_finite;
};

class FakeRunner final : public Runner, private Transfer {
 public:
  explicit FakeRunner(FakeRunnerOptions options);

  void SetOnDone(std::function<void(Completion)> on_done) override {
    on_done_ = std::move(on_done);
  }
  // REQUIRES: `layers` are all layers.
  void Launch(const StepBatch* batch, const BatchArena* arena, LayerRange layers,
              StepResult* result) override;
  Transfer* transfer() override { return this; }
  // Writes the KV of one token outside of a step, as a transfer does.
  void WriteCell(int32_t model, int32_t group, PageId page, int32_t token, const FakeCell& cell);
  int depth() const override { return options_.depth; }

  // Executes the oldest step and reports its end. REQUIRES: a step is in flight.
  void FinishOldest();
  int num_inflight() const;

 private:
  void ToDevice(const PageRun& run, const char* from, uint64_t ticket, Done done) override;
  void ToHost(const PageRun& run, char* to, uint64_t ticket, Done done) override;

  struct Step {
    const StepBatch* batch = nullptr;
    const BatchArena* arena = nullptr;
    StepResult* result = nullptr;
  };
  // The rows of a step.
  struct Rows {
    std::vector<TokenId> tokens;      // [T], with kLastSampledToken replaced by the slot's token
    std::vector<int32_t> segment_of;  // [T]
    std::vector<uint64_t> adapters;   // [S] hashes of the segments' adapters
  };

  void Run(const Step& step);
  Rows Resolve(const BatchView& view) const;
  void WriteCells(const BatchView& view, const Rows& rows);
  // Checks that the pages have all keys that the rows without sampling see. Sample checks the keys
  // of the other rows.
  void CheckKeys(const BatchView& view, const Rows& rows) const;
  SampledRow Sample(const BatchView& view, const Rows& rows, const SamplerRow& row);
  void TakeTaps(const BatchView& view, const Rows& rows, StepResult* result) const;
  uint64_t HashVisible(const BatchView& view, int32_t segment, int32_t position,
                       uint64_t adapter) const;

  const FakeRunnerOptions options_;
  std::vector<std::vector<TokenId>> slot_tokens_;  // [model][slot]
  std::function<void(Completion)> on_done_;
  mutable std::mutex mutex_;  // needed because loaders write pages while steps run
  std::deque<Step> steps_;    // launched, oldest first
  FakeMemory memory_;
};

// The inputs of generated tokens other than model and prompt.
struct FakeVariant {
  std::string adapter;  // bytes of the adapter's pages; empty: no adapter
  uint64_t draw = 0;    // FakeDraw of the sequence if the runner has samples_apart, else 0
};
// Returns the number by which seed and index change the tokens.
uint64_t FakeDraw(uint64_t seed, int32_t index);

// Returns the tokens that `model` generates after `prompt` on a FakeRunner.
std::vector<TokenId> ExpectedTokens(const EngineModel& model, std::vector<TokenId> prompt,
                                    int64_t num_tokens, const FakeVariant& variant = {});

// Returns a model for a FakeRunner. `windows` has one entry per KV group.
EngineModel FakeModel(const std::string& name, const std::vector<int32_t>& windows,
                      int32_t page_tokens, int64_t max_model_len);

}  // namespace tessera::testing

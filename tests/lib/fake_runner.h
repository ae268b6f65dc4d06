// A runner without tensors that still proves the engine right: it keeps which token and position
// each page cell holds, checks that every run shows exactly the keys it claims, and "samples" a
// hash of all tokens that the query can see and of the bytes of its adapter's pages. A wrong page,
// a stale prefix hit, a lost token, an adapter that is not there or was overwritten gives another
// text than ExpectedTokens, which looks at no page.
//
// A step runs when it completes, not when it is launched: first its page ops, then its writes. What
// is done meanwhile to pages that it reads shows in its result. A launched step is in flight until
// FinishOldest. Launches come from one thread, FinishOldest may be called from any.
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
  ManualClock* clock = nullptr;  // advanced by each step's time when given
  // Texts depend on seed and index (FakeDraw), as sampled ones do. Otherwise copies are equal.
  bool samples_apart = false;
  std::function<int64_t(const StepBatch&)> step_us = [](const StepBatch& batch) {
    return int64_t{1000} + 10 * static_cast<int64_t>(batch.tokens.count);
  };
};

class FakeRunner final : public Runner, private Transfer {
 public:
  explicit FakeRunner(FakeRunnerOptions options);

  void SetOnDone(std::function<void(Completion)> on_done) override {
    on_done_ = std::move(on_done);
  }
  // Steps are launched whole.
  void Launch(const StepBatch* batch, const BatchArena* arena, LayerRange layers,
              StepResult* result) override;
  Transfer* transfer() override { return this; }
  // KV that a transfer brings, beside the steps.
  void WriteCell(int32_t model, int32_t group, PageId page, int32_t token, const FakeCell& cell);
  int depth() const override { return options_.depth; }

  // Ends the oldest step and reports it. REQUIRES: one is in flight.
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
  // What a step's rows are, resolved.
  struct Rows {
    std::vector<TokenId> tokens;      // [T]
    std::vector<int32_t> segment_of;  // [T]
    std::vector<uint64_t> adapters;   // [S] hashes
  };

  void Run(const Step& step);
  Rows Resolve(const BatchView& view) const;
  void WriteCells(const BatchView& view, const Rows& rows);
  // All keys must be there of what is computed and not sampled from: Sample looks at the rest.
  void CheckKeys(const BatchView& view, const Rows& rows) const;
  SampledRow Sample(const BatchView& view, const Rows& rows, const SamplerRow& row);
  void TakeTaps(const BatchView& view, const Rows& rows, StepResult* result) const;
  uint64_t HashVisible(const BatchView& view, int32_t segment, int32_t position,
                       uint64_t adapter) const;

  const FakeRunnerOptions options_;
  std::vector<std::vector<TokenId>> slot_tokens_;  // [model][slot]
  std::function<void(Completion)> on_done_;
  mutable std::mutex mutex_;  // loaders write pages while steps run
  std::deque<Step> steps_;    // launched, oldest first
  FakeMemory memory_;
};

// What a text depends on beside model and prompt.
struct FakeVariant {
  std::string adapter;  // the bytes of its pages; empty: none
  uint64_t draw = 0;    // FakeDraw where the runner samples apart
};
uint64_t FakeDraw(uint64_t seed, int32_t index);

// The tokens that `model` generates after `prompt` on a FakeRunner.
std::vector<TokenId> ExpectedTokens(const EngineModel& model, std::vector<TokenId> prompt,
                                    int64_t num_tokens, const FakeVariant& variant = {});

// A model for fake runs: windows has one entry per KV group.
EngineModel FakeModel(const std::string& name, const std::vector<int32_t>& windows,
                      int32_t page_tokens, int64_t max_model_len);

}  // namespace tessera::testing

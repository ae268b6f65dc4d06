// A runner without tensors that still proves the engine right: it keeps which token and position
// each page cell holds, checks that every run shows exactly the keys it claims, and "samples" a
// hash of all tokens that the query can see. A wrong page, a stale prefix hit or a lost token gives
// another text than ExpectedTokens, which looks at no page.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "kernels/base/clock.h"
#include "kernels/model/runner.h"
#include "scheduler/step/engine.h"

namespace tessera::testing {

struct FakeRunnerOptions {
  std::vector<EngineModel> models;
  int64_t num_slabs = 0;
  int depth = 1;
  int max_num_seqs = 256;
  ManualClock* clock = nullptr;  // advanced by each step's time when given
  std::function<int64_t(const StepBatch&)> step_us = [](const StepBatch& batch) {
    return int64_t{1000} + 10 * static_cast<int64_t>(batch.tokens.count);
  };
};

class FakeRunner final : public Runner {
 public:
  explicit FakeRunner(FakeRunnerOptions options);

  void Launch(const StepBatch* batch, const BatchArena* arena) override;
  StepResult Wait() override;
  void WritePage(PageId page, const char* bytes, int64_t num_bytes) override {}
  int depth() const override { return options_.depth; }

 private:
  struct Cell {
    TokenId token = -7;
    int32_t position = -7;
  };
  struct Slab {
    int32_t model = -1;
    int32_t group = -1;
    std::vector<Cell> cells;
  };

  Cell* CellAt(int32_t model, int32_t group, PageId page, int32_t token);
  uint64_t HashVisible(const BatchView& view, int32_t segment, int32_t position);

  const FakeRunnerOptions options_;
  std::vector<Slab> slabs_;
  std::vector<std::vector<TokenId>> slot_tokens_;  // [model][slot]
  std::deque<StepResult> results_;
};

// The tokens that a model of `windows` (per KV group) and `vocab_size` generates after `prompt` on
// a FakeRunner.
std::vector<TokenId> ExpectedTokens(const EngineModel& model, std::vector<TokenId> prompt,
                                    int64_t num_tokens);

// A model for fake runs: windows has one entry per KV group.
EngineModel FakeModel(const std::string& name, const std::vector<int32_t>& windows,
                      int32_t page_tokens, int64_t max_model_len);

}  // namespace tessera::testing

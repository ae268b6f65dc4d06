// CoreStack is an EngineCore with a fake runner and a manual clock. It records the output of the
// requests. A test owns the stack and runs it round by round on its own thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/step/engine_core.h"
#include "tests/lib/core_driver.h"
#include "tests/lib/fake_adapters.h"
#include "tests/lib/fake_runner.h"

namespace tessera::testing {

// The output of one sequence.
struct SequenceOutput {
  std::vector<TokenId> tokens;
  std::vector<OutputToken> prompt_logprobs;
  std::vector<float> embedding;
  bool finished = false;
  FinishReason reason = FinishReason::kError;
  absl::Status status;
  SequenceUsage usage;
  SequenceTiming timing;
};
using RequestOutput = std::map<int32_t, SequenceOutput>;  // key: index of the sequence

struct CoreStack {
  // The members up to step_us are options; a test sets them before Start.
  std::vector<EngineModel> models;
  EngineOptions options;
  int64_t num_slabs = 65;  // slabs of the pool, including the null page
  int depth = 1;
  bool samples_apart = false;
  std::vector<int32_t> adapter_pages;   // pages of each adapter of the first model; empty: none
  std::unique_ptr<QueuePolicy> policy;  // moved to the core; null: the policy that `options` names
  std::function<int64_t(const StepBatch&)> step_us;  // null: the default of FakeRunnerOptions
  std::function<bool(const SamplerRow&)> is_finite;  // FakeRunnerOptions::is_finite

  ManualClock clock;
  std::unique_ptr<EngineStats> stats;
  std::unique_ptr<FakeAdapters> adapters;
  std::unique_ptr<EngineCore> core;
  std::unique_ptr<CoreDriver> driver;
  KvManager* kv = nullptr;              // owned by the core
  FakeAdapterLoader* loader = nullptr;  // owned by the core
  FakeRunner* runner = nullptr;         // owned by the core
  int left_queue = 0;                   // number of sequences that have left the queue

  void Start();
  std::unique_ptr<Request> NewRequest(std::vector<TokenId> prompt, int64_t max_tokens,
                                      RequestOutput* out);
  // Returns the id of the request.
  uint64_t Submit(std::unique_ptr<Request> request);
  uint64_t Submit(std::vector<TokenId> prompt, int64_t max_tokens, RequestOutput* out) {
    return Submit(NewRequest(std::move(prompt), max_tokens, out));
  }
  // Runs one round of the core and checks its invariants. Returns whether the round did anything.
  bool Round();
  // Ends all reads and copies that the core has asked the loader for. Returns whether there were
  // any.
  bool FinishLoads();
  // Runs rounds and ends loads until nothing is left to do.
  void RunAll();
  // Returns the running sequence with this index of a request.
  Sequence* Running(uint64_t request_id, int32_t index = 0);

  uint64_t next_id = 1;  // id of the next request
};

// Returns a prompt of `length` tokens. The shorter of two prompts with the same seed is a prefix of
// the longer one.
std::vector<TokenId> FakePrompt(int seed, int length);

}  // namespace tessera::testing

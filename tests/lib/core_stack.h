// An engine core on a fake runner with a manual clock, and what its requests received.
//
// Owned by a test, used on its thread: rounds are run one by one.
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

// What one sequence received.
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
using RequestOutput = std::map<int32_t, SequenceOutput>;  // by index

struct CoreStack {
  // Read by Start.
  std::vector<EngineModel> models;
  EngineOptions options;
  int64_t num_slabs = 65;  // with the null page's
  int depth = 1;
  bool samples_apart = false;
  std::vector<int32_t> adapter_pages;                // of the first model's adapters; empty: none
  std::unique_ptr<QueuePolicy> policy;               // taken; null: the options'
  std::function<int64_t(const StepBatch&)> step_us;  // null: FakeRunnerOptions'

  ManualClock clock;
  std::unique_ptr<EngineStats> stats;
  std::unique_ptr<FakeAdapters> adapters;
  std::unique_ptr<EngineCore> core;
  std::unique_ptr<CoreDriver> driver;
  KvManager* kv = nullptr;              // the core's
  FakeAdapterLoader* loader = nullptr;  // the core's
  FakeRunner* runner = nullptr;         // the core's
  int left_queue = 0;                   // sequences

  void Start();
  std::unique_ptr<Request> NewRequest(std::vector<TokenId> prompt, int64_t max_tokens,
                                      RequestOutput* out);
  // Returns the id.
  uint64_t Submit(std::unique_ptr<Request> request);
  uint64_t Submit(std::vector<TokenId> prompt, int64_t max_tokens, RequestOutput* out) {
    return Submit(NewRequest(std::move(prompt), max_tokens, out));
  }
  // One round of the core, checked. Whether it did anything.
  bool Round();
  // Ends whatever the loader was asked for. Whether there was anything.
  bool FinishLoads();
  // Rounds and loads until nothing is left to do.
  void RunAll();
  // The sequence of that request that is on the device.
  Sequence* Running(uint64_t request_id, int32_t index = 0);

  uint64_t next_id = 1;  // of a request
};

// Equal seeds make equal prefixes of any lengths.
std::vector<TokenId> FakePrompt(int seed, int length);

}  // namespace tessera::testing

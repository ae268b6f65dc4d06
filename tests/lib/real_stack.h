// RealStack is an EngineCore with real models and a real backend, run round by round. The
// metamorphic tests of the engine compare the results of different stacks. A test owns the stack
// and uses it on its own thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/clock.h"
#include "scheduler/device/assemble.h"
#include "scheduler/step/engine_core.h"
#include "tests/lib/core_driver.h"

namespace tessera::testing {

struct RealStackOptions {
  std::vector<std::string> model_dirs;
  std::string backend = "ref";  // "ref" or one of CpuIsas()
  int num_threads = 1;
  int64_t num_slabs = 512;
  int32_t page_tokens = 16;  // tokens of a page, if there is one model
  bool bf16 = false;         // whether weights are bf16; otherwise fp32
  KvDtype kv_dtype = KvDtype::kAuto;
  // Becomes AssembleOptions::new_backend.
  std::function<std::unique_ptr<Backend>(const std::string&, ThreadTeam*, std::string*)>
      new_backend;
  EngineOptions engine;  // RealStack fills in the models
};

// The output of one sequence of a request.
struct Generated {
  std::vector<OutputToken> tokens;
  std::vector<OutputToken> prompt_logprobs;
  std::vector<float> embedding;
  int num_finished = 0;
  FinishReason reason = FinishReason::kError;
  absl::Status status;
  SequenceUsage usage;
};

// Returns whether tokens and finish are equal, and logprobs and embeddings bitwise equal. Usage is
// not compared.
bool SameResults(const Generated& a, const Generated& b);

class RealStack {
  class ManualLoader;

 public:
  // Aborts with the reason if a model does not load.
  explicit RealStack(const RealStackOptions& options);
  ~RealStack();

  // Submits a copy of `request` with id, arrival time and sink filled in. Returns the number of the
  // request for result().
  int Submit(const Request& request);
  // Runs one round of the core.
  bool RunOnce() { return driver_->RunOnce(); }
  // Runs rounds of the core, and the adapter loads that the core asks for, until nothing is left to
  // do.
  void RunAll();
  const Generated& result(int request, int index = 0) { return results_[request][index]; }
  // Submits a request, runs until nothing is left to do, and returns the output of index 0.
  const Generated& Run(const Request& request);

  EngineCore& core() { return *core_; }
  const EngineStats& stats() const { return *stats_; }
  const std::vector<EngineModel>& models() const { return models_; }
  AdapterRegistry& adapters() { return *adapters_; }
  // Ends all reads and copies that the core has asked the adapter loader for. Returns false if
  // there were none.
  bool RunLoader();
  KvManager& kv() { return *kv_; }
  // The request's running sequence `index`; null if that sequence is not running.
  Sequence* Running(int request, int index = 0);
  // Copy whole pages of the pool to or from host memory, where the pages are contiguous. REQUIRES:
  // no step is in flight.
  void ReadPages(const std::vector<PageId>& pages, char* to);
  void WritePages(const std::vector<PageId>& pages, const char* from);
  uint64_t engine_id(int request) const { return static_cast<uint64_t>(request) + 1; }

 private:
  SteadyClock clock_;
  std::vector<EngineModel> models_;
  std::unique_ptr<AdapterRegistry> adapters_;
  ManualLoader* loader_ = nullptr;  // owned by the core
  KvManager* kv_ = nullptr;         // owned by the core
  std::unique_ptr<EngineStats> stats_;
  std::vector<std::map<int32_t, Generated>> results_;
  std::unique_ptr<EngineCore> core_;
  std::unique_ptr<CoreDriver> driver_;
};

}  // namespace tessera::testing

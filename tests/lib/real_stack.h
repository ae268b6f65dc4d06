// The engine core on real models and a real backend, driven by hand: what metamorphic tests of the
// engine compare.
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
  int32_t page_tokens = 16;  // of a single model
  bool bf16 = false;         // weights; else fp32
  KvDtype kv_dtype = KvDtype::kAuto;
  // AssembleOptions::new_backend.
  std::function<std::unique_ptr<Backend>(const std::string&, ThreadTeam*, std::string*)>
      new_backend;
  EngineOptions engine;  // models are filled in
};

// Everything one index of a request got.
struct Generated {
  std::vector<OutputToken> tokens;
  std::vector<OutputToken> prompt_logprobs;
  std::vector<float> embedding;
  int num_finished = 0;
  FinishReason reason = FinishReason::kError;
  absl::Status status;
  SequenceUsage usage;
};

// Equal tokens and bitwise equal logprobs, embeddings and finish; usage is not compared.
bool SameResults(const Generated& a, const Generated& b);

class RealStack {
  class ManualLoader;

 public:
  // Aborts with the reason when a model does not load.
  explicit RealStack(const RealStackOptions& options);
  ~RealStack();

  // Queues a copy of `request` (id, arrival and sink are filled in). Results are read with
  // result().
  int Submit(const Request& request);
  // A round of the core.
  bool RunOnce() { return driver_->RunOnce(); }
  // Rounds, and what they ask of the loader, until nothing is left to do.
  void RunAll();
  const Generated& result(int request, int index = 0) { return results_[request][index]; }
  // Alone in this stack: submits, runs, returns index 0.
  const Generated& Run(const Request& request);

  EngineCore& core() { return *core_; }
  const EngineStats& stats() const { return *stats_; }
  const std::vector<EngineModel>& models() const { return models_; }
  AdapterRegistry& adapters() { return *adapters_; }
  // Does what the core asked of the adapter loader so far. False: nothing was asked.
  bool RunLoader();
  KvManager& kv() { return *kv_; }
  // The request's sequence that is on the device; null: none is.
  Sequence* Running(int request, int index = 0);
  // Whole pages of the pool, one after the other in host memory, between two steps.
  void ReadPages(const std::vector<PageId>& pages, char* to);
  void WritePages(const std::vector<PageId>& pages, const char* from);
  uint64_t engine_id(int request) const { return static_cast<uint64_t>(request) + 1; }

 private:
  SteadyClock clock_;
  std::vector<EngineModel> models_;
  std::unique_ptr<AdapterRegistry> adapters_;
  ManualLoader* loader_ = nullptr;  // the core's
  KvManager* kv_ = nullptr;         // the core's
  std::unique_ptr<EngineStats> stats_;
  std::vector<std::map<int32_t, Generated>> results_;
  std::unique_ptr<EngineCore> core_;
  std::unique_ptr<CoreDriver> driver_;
};

}  // namespace tessera::testing

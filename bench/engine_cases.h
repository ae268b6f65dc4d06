// The cases that tessera_engine_bench measures: an engine without a server, driven by hand, so that
// a case begins and ends exactly at a step. Adapters come through the real loader. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "kernels/base/clock.h"
#include "kernels/base/mailbox.h"
#include "scheduler/device/assemble.h"
#include "scheduler/step/engine_core.h"

namespace tessera::bench {

struct Measured {
  int64_t tokens = 0;  // of the prompt for prefills, else generated
  double seconds = 0.0;
  int64_t adapter_loads = 0;  // from disk
  int64_t preemptions = 0;
};

// A closed loop: as soon as one request ends the next one is sent. Lengths are uniform in
// [min, max], drawn from the seed alone: loops that differ only in their adapters are of the same
// requests.
struct Loop {
  int64_t streams = 0;
  int64_t requests = 0;
  int64_t min_input = 0;
  int64_t max_input = 0;
  int64_t min_output = 0;
  int64_t max_output = 0;
  int64_t num_adapters = 0;  // of the first ones; 0: the base model
  uint32_t seed = 0;
};

struct Streams {
  int64_t streams = 0;
  int64_t context = 0;
  int64_t num_tokens = 0;    // more of each
  int64_t num_adapters = 0;  // stream i has adapter i modulo this; 0: none
  int64_t probes_per_s = 0;  // asked meanwhile, from another thread
};

class EngineCases final {
 public:
  // `adapters` are what cases mean by numbers.
  EngineCases(Device device, std::vector<ResolvedAdapter> adapters);

  int64_t num_adapters() const { return static_cast<int64_t>(adapters_.size()); }

  // Until the first token of one prompt that nothing is cached of.
  Measured Prefill(int64_t num_tokens);

  // `num_tokens` more tokens of each stream, from the moment the last one has its first. No stream
  // ends before that: the early ones go on while the late ones prefill. Prompts are the same each
  // time and stay cached, so that another round need not compute them.
  Measured Decode(const Streams& asked);

  Measured Run(const Loop& loop);

 private:
  // What the sinks count.
  struct Counts {
    int64_t tokens = 0;
    int64_t finished = 0;
  };
  class Sink;
  class ProbeLoad;

  std::vector<TokenId> RandomPrompt(int64_t num_tokens, std::mt19937* rng) const;
  void Submit(std::vector<TokenId> prompt, bool cached, int64_t max_tokens, int64_t adapter,
              Counts* counts);
  // One round of the engine; waits for a step's end or the loader unless there are new requests.
  void Turn();
  bool AnyWithoutFirstToken() const;
  std::unique_ptr<AdapterLoader> NewLoader();
  Measured Since(const Measured& begin, int64_t tokens) const;
  Measured Now() const;

  SteadyClock clock_;
  const std::unique_ptr<AdapterRegistry> registry_;
  const std::vector<ResolvedAdapter> adapters_;
  const std::vector<EngineModel> models_;
  const int64_t step_tokens_;
  EngineStats stats_;
  Mailbox<std::function<void()>> events_;  // ends of steps, and the loader's reports
  Runner* const runner_;                   // the core's
  EngineCore core_;
  bool submitted_ = false;  // since the last round
  std::mt19937 rng_{1};
  uint64_t next_id_ = 1;
};

}  // namespace tessera::bench

// The cases that tessera_engine_bench measures. The benchmark runs the rounds of an engine core
// itself, without a server, so that a case starts and ends exactly at a step. The real loader loads
// adapters. One thread.
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
  int64_t tokens = 0;  // tokens of the prompt for Prefill, else generated tokens
  double seconds = 0.0;
  int64_t adapter_loads = 0;  // adapters read from disk
  int64_t preemptions = 0;
};

// A closed loop, which sends a request as soon as one ends. Lengths are uniform in [min, max] and
// depend on the seed alone, so that loops that differ only in their adapters have requests of the
// same lengths.
struct Loop {
  int64_t streams = 0;
  int64_t requests = 0;
  int64_t min_input = 0;
  int64_t max_input = 0;
  int64_t min_output = 0;
  int64_t max_output = 0;
  int64_t num_adapters = 0;  // requests use the first num_adapters adapters; 0: the base model
  uint32_t seed = 0;
};

struct Streams {
  int64_t streams = 0;
  int64_t context = 0;
  int64_t num_tokens = 0;    // measured tokens of each stream
  int64_t num_adapters = 0;  // stream i has adapter i modulo num_adapters; 0: the base model
  int64_t probes_per_s = 0;  // probes that another thread sends meanwhile
};

class EngineCases final {
 public:
  // Cases name adapters by their index in `adapters`.
  EngineCases(Device device, std::vector<ResolvedAdapter> adapters);

  int64_t num_adapters() const { return static_cast<int64_t>(adapters_.size()); }

  // Measures the time until the first token of one prompt without a prefix hit.
  Measured Prefill(int64_t num_tokens);

  // Measures `num_tokens` tokens of each stream, from the time at which all streams have their
  // first token. No stream ends within the measurement: the first streams decode while the last
  // ones prefill. The prompts are the same in each call and stay cached, so a later call need not
  // compute them.
  Measured Decode(const Streams& asked);

  Measured Run(const Loop& loop);

 private:
  // The events that the sinks have counted.
  struct Counts {
    int64_t tokens = 0;
    int64_t finished = 0;
  };
  class Sink;
  class ProbeLoad;

  std::vector<TokenId> RandomPrompt(int64_t num_tokens, std::mt19937* rng) const;
  void Submit(std::vector<TokenId> prompt, bool cached, int64_t max_tokens, int64_t adapter,
              Counts* counts);
  // Runs one round of the engine. Waits for the end of a step or for the loader, unless requests
  // were submitted since the last round.
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
  Mailbox<std::function<void()>> events_;  // ends of steps, events of the loader, and probes
  Runner* const runner_;                   // owned by the core
  EngineCore core_;
  bool submitted_ = false;  // whether a request was submitted since the last round
  std::mt19937 rng_{1};
  uint64_t next_id_ = 1;
};

}  // namespace tessera::bench

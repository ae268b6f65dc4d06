// The engine of one device: one thread that owns the scheduler, the KV metadata and all sequences
// of all models on the device, without locks. Messages come in through one inbox, events go out
// through each request's sink, steps go to the runner. The loop is in engine.cc;
// scheduler/README.md is its contract.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/clock.h"
#include "kernels/base/stats.h"
#include "kernels/model/runner.h"
#include "kernels/page_layout.h"
#include "kvstore/kv_manager.h"
#include "scheduler/adapter_registry.h"
#include "scheduler/generator.h"
#include "scheduler/queue_policy.h"

namespace tessera {

struct EngineModel {
  std::string name;
  std::string revision;  // of the weights; part of the prefix root
  int64_t vocab_size = 0;
  int64_t hidden = 0;
  int32_t num_layers = 0;
  int64_t max_model_len = 0;  // tokens, prompt and output; REQUIRES: fits the pool
  PageLayout layout;
};

struct EngineOptions {
  std::vector<EngineModel> models;
  // Sequences that may be admitted at once, over all models. More: better throughput, more KV
  // memory, slower streams.
  int32_t max_num_seqs = 256;
  // Tokens of one step. More: faster prefill, longer gaps between the tokens of running streams.
  int32_t max_num_batched_tokens = 512;
  // While streams run, prefill chunks are cut so that a step is predicted to take no longer than
  // this, or than target_step_ratio times the streams' step alone, whichever is longer. 0: no
  // bound.
  int64_t target_step_us = 200'000;
  // Each step reads all weights, however few tokens of prompts it takes along: a large ratio keeps
  // that share small, at the price of longer gaps between tokens while prompts are computed.
  int32_t target_step_ratio = 8;
  // Sequences that may wait for their first step; a request of more is refused at once, unless
  // nothing waits. A request counts as its n.
  int32_t max_queue = 1024;
  QueuePolicyKind queue_policy = QueuePolicyKind::kPriority;
  // A waiting request gains one priority class each time it has waited this long.
  int64_t ageing_us = 5'000'000;
  // Of kEarlyAbort: a request whose predicted wait for the first token is longer is refused.
  int64_t early_abort_us = 6'000'000;
  // Share of the pool's slabs that admission leaves free for running sequences to grow into.
  double watermark = 0.01;
  // Adapters that requests may have; null: none. Outlives the engine.
  AdapterRegistry* adapters = nullptr;
  // Bytes of adapters kept in host memory after they left the pool.
  int64_t adapter_host_bytes = int64_t{1} << 30;
  // Root secret of the prefix hashes; drawn at start when empty.
  std::string deployment_secret;
};

// Written by the engine, read by any thread. Histogram bounds are those of the exported metrics.
struct EngineStats {
  explicit EngineStats(size_t num_models);

  struct PerModel {
    std::array<Counter, kNumFinishReasons> finished;  // requests' sequences, by FinishReason
  };
  std::vector<PerModel> models;
  Counter sequences_running;
  Counter sequences_waiting;     // queued, preempted or paused
  Counter prompt_tokens;         // of admitted sequences
  Counter cached_prompt_tokens;  // of them, found in the prefix cache
  Counter generated_tokens;
  Counter preemptions;
  Counter adapter_loads;      // read from disk
  Counter adapter_evictions;  // out of the pool, to make room or by an operator
  Counter refused;            // queue full
  Counter steps;
  // As KvUsage, in slabs.
  Counter slabs_total, slabs_free, slabs_cached, slabs_kv, slabs_adapter, slabs_staging;
  Gauge queue_delay_us;
  Gauge cost_model_error;  // mean relative error of predicted step times, exponentially weighted
  Histogram ttft_s;
  Histogram itl_s;
  Histogram queue_s;
  Histogram e2e_s;
  Histogram step_s;
  Histogram batch_tokens;
};

class Engine : public Generator {
 public:
  virtual const EngineStats& stats() const = 0;
  virtual const std::vector<EngineModel>& models() const = 0;
  // Clock time at which the loop last came round; it does so at least every 200 ms when idle, and
  // after each step.
  virtual int64_t heartbeat_us() const = 0;
  // Brings an adapter into the pool, pinned if asked for; the wait is done when it is there or
  // cannot be. With `pin` false a pin stays as it is.
  virtual void LoadAdapter(AdapterId id, bool pin, AdapterWait wait) = 0;
  virtual void UnpinAdapter(AdapterId id) = 0;
  // As soon as no sequence uses it.
  virtual void UnloadAdapter(AdapterId id) = 0;
  // Ends all that was submitted before; `reason` as in Cancel. Requests that come later are taken.
  virtual void CancelAll(CancelReason reason) = 0;
  // CancelAll, joins the thread. Called by the destructor too.
  virtual void Stop() = 0;
};

// Starts the engine thread. REQUIRES: every model was added to `kv` in order; `clock` outlives the
// engine.
std::unique_ptr<Engine> NewEngine(EngineOptions options, std::unique_ptr<KvManager> kv,
                                  std::unique_ptr<Runner> runner, const Clock* clock);

}  // namespace tessera

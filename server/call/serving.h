// What all parts of the serving path share: the generator, the models, the open calls, counters and
// limits. Owned by main (or a test), outlives the server.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "kernels/base/clock.h"
#include "kernels/base/stats.h"
#include "scheduler/residency/adapters/adapter_id.h"
#include "server/call/live_calls.h"

namespace tessera {

class AdapterRegistry;
class Generator;
class ModelRegistry;

// How busy the node is, for Control and its watchers. Bytes of the page pool add up to pool_bytes.
struct LoadSnapshot {
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t queue_delay_us = 0;
  int64_t pool_bytes = 0;
  int64_t free_bytes = 0;
  int64_t cached_bytes = 0;
  int64_t kv_bytes = 0;
  int64_t adapter_bytes = 0;
  int64_t staging_bytes = 0;
  int64_t generated_tokens = 0;
  int64_t prompt_tokens = 0;
};

inline constexpr int kNumMethods = 5;       // Method of prepare.h
inline constexpr int kNumStatusCodes = 17;  // of gRPC

// Written by the serving path, read by metrics.
struct ServerStats {
  std::array<std::array<Counter, kNumStatusCodes>, kNumMethods> calls;  // ended, by status
  Counter streams_paused;  // times a slow reader paused a stream
};

// The engine's verbs; see Engine.
struct AdapterVerbs {
  std::function<void(AdapterId id, bool pin, AdapterWait wait)> load;
  std::function<void(AdapterId id)> unpin;
  std::function<void(AdapterId id)> unload;
};

struct ServingContext {
  Generator* generator = nullptr;
  const ModelRegistry* models = nullptr;
  AdapterRegistry* adapters = nullptr;
  AdapterVerbs adapter_verbs;
  const Clock* clock = nullptr;  // the generator's
  std::function<LoadSnapshot()> load;
  std::string version;
  std::string device;
  int64_t stream_buffer_bytes = 1 << 20;
  int64_t max_open_calls = 4096;  // further ones are refused before they are read
  int64_t max_prompt_bytes = 0;   // as configured; 0: by each model's context

  LiveCalls live;
  ServerStats stats;
  std::atomic<bool> draining{false};
  std::atomic<bool> exit_requested{false};  // by Control.Drain
  std::atomic<uint64_t> next_call{1};
  std::atomic<uint64_t> next_engine_id{1};
};

}  // namespace tessera

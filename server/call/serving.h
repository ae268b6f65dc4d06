// The objects that all parts of the serving path share: the generator, the models, the open calls,
// counters and limits. The node (or a test) owns the context, which outlives the server. Any
// thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/base/clock.h"
#include "kernels/base/stats.h"
#include "scheduler/residency/adapters/adapter_id.h"
#include "server/call/call_log.h"
#include "server/call/live_calls.h"

namespace tessera {

class AdapterRegistry;
class Generator;
class ModelRegistry;

// The load of the node, as Control reports it. free_bytes, cached_bytes, kv_bytes, adapter_bytes
// and staging_bytes add up to pool_bytes.
struct LoadSnapshot {
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t paused = 0;  // wait for a slow reader
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

inline constexpr int kNumMethods = 5;       // number of values of Method (prepare.h)
inline constexpr int kNumStatusCodes = 17;  // number of gRPC status codes

// Counters that the serving path writes and metrics read.
struct ServerStats {
  // Ended calls by method and status code.
  std::array<std::array<Counter, kNumStatusCodes>, kNumMethods> calls;
  Counter streams_paused;   // times that a stream was paused because its reader was slow
  Counter replies_dropped;  // unary replies that ended unread (UnreadReplies)
};

// The engine's operations on adapters; see Engine.
struct AdapterVerbs {
  std::function<void(AdapterId id, bool pin, AdapterWait wait)> load;
  std::function<void(AdapterId id)> unpin;
  std::function<void(AdapterId id, bool unpin)> unload;
};

// Who may call Control.
enum class ControlAccess {
  kDefault,   // with identities: admins, from any address; without: clients on this machine
  kLoopback,  // the same, but only clients on this machine
  kOff,
};

struct ServingContext {
  Generator* generator = nullptr;
  const ModelRegistry* models = nullptr;
  AdapterRegistry* adapters = nullptr;
  AdapterVerbs adapter_verbs;
  // The folders below which RegisterAdapters may read; empty: any folder.
  std::vector<std::string> adapter_roots;
  const Clock* clock = nullptr;  // the same clock as the generator's
  std::function<LoadSnapshot()> load;
  std::string version;
  std::string device;
  int64_t stream_buffer_bytes = 1 << 20;
  int64_t max_open_calls = 4096;  // admitted calls; a further call is refused before it is read
  ControlAccess control = ControlAccess::kDefault;
  int64_t max_prompt_bytes = 0;  // the configured limit; 0: derived from each model's context

  LiveCalls live;
  ServerStats stats;
  CallLog log;
  std::atomic<bool> draining{false};
  std::atomic<bool> port_answers{true};     // the last checks of the gRPC port succeeded
  std::atomic<bool> exit_requested{false};  // set by Control.Drain
  std::atomic<uint64_t> next_call{1};
  std::atomic<uint64_t> next_engine_id{1};
};

}  // namespace tessera

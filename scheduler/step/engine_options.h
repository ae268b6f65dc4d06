// What an engine is made of: its models and the options that the server's configuration sets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/step/page_layout.h"
#include "kvstore/identity.h"
#include "scheduler/plan/scheduler_options.h"
#include "scheduler/residency/adapters/adapter_registry.h"

namespace tessera {

struct EngineModel {
  std::string name;
  ModelIdentity identity;
  int64_t vocab_size = 0;
  int64_t hidden = 0;
  int32_t num_layers = 0;
  int64_t max_model_len = 0;  // tokens, prompt and output; REQUIRES: fits the pool
  PageLayout layout;
};

struct EngineOptions : SchedulerOptions {
  std::vector<EngineModel> models;
  // Sequences that may wait for their first step; a request of more is refused at once, unless
  // nothing waits. A request counts as its n.
  int32_t max_queue = 1024;
  // Adapters that requests may have; null: none. Outlives the engine.
  AdapterRegistry* adapters = nullptr;
  // Bytes of adapters kept in host memory after they left the pool.
  int64_t adapter_host_bytes = int64_t{1} << 30;
  // Part of every Identity; drawn at start when empty. Engines that share KV have the same one.
  std::string deployment_secret;
};

}  // namespace tessera

// The models and the options of an engine. The server's configuration sets the options; they do not
// change after NewEngine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kernels/step/page_layout.h"
#include "kvstore/identity.h"
#include "scheduler/plan/scheduler_options.h"
#include "scheduler/plan/tenant_accounts.h"
#include "scheduler/residency/adapters/adapter_registry.h"

namespace tessera {

struct EngineModel {
  std::string name;
  ModelIdentity identity;
  int64_t vocab_size = 0;
  int64_t hidden = 0;
  int32_t num_layers = 0;
  // The largest number of tokens of a sequence, prompt and output. REQUIRES: their KV fits the
  // pool.
  int64_t max_model_len = 0;
  PageLayout layout;
};

struct EngineOptions : SchedulerOptions {
  std::vector<EngineModel> models;
  // The largest number of sequences that may wait for their first step. A request counts as its n
  // sequences. A request that would exceed this number is refused at once, unless nothing waits.
  int32_t max_queue = 1024;
  // While the load exceeds what the device can serve, requests that would wait longer than this for
  // their first step are refused (queue_gate.h). A smaller value gives a shorter time to the first
  // token under overload, a larger value refuses less. 0: no bound.
  int64_t max_queue_delay_us = 750'000;
  // The limits of tenants, by name. A tenant without an entry has the default limits.
  absl::flat_hash_map<std::string, TenantLimits> tenants;
  // The adapters that requests may use; null: no adapters. Outlives the engine.
  AdapterRegistry* adapters = nullptr;
  // The number of bytes of adapters that are kept in host memory after they have left the pool.
  int64_t adapter_host_bytes = int64_t{1} << 30;
  // The time after which the requests that wait for the files of an adapter fail.
  int64_t max_adapter_read_us = 60'000'000;
  // The secret in every Identity. If empty, the engine draws a random secret. Engines that share KV
  // have the same secret.
  std::string deployment_secret;
};

}  // namespace tessera

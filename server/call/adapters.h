// The adapters that a request names, as calls and Control ask the registry for them. Any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/residency/adapters/adapter_id.h"

namespace tessera {

class AdapterRegistry;
struct AdapterUse;

// An error of the registry with the reason that clients see.
absl::Status AdapterError(const absl::Status& status);

// AdapterRegistry::Resolve with errors as clients see them.
absl::StatusOr<ResolvedAdapter> ResolveAdapters(AdapterRegistry* adapters, int32_t model,
                                                const std::vector<AdapterUse>& uses,
                                                int32_t max_rank = 0);

}  // namespace tessera

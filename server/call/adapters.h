// Looks up the adapters that a request names, and gives registry errors the form that clients see.
// Shared by calls and the Control service. Any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/residency/adapters/adapter_id.h"

namespace tessera {

class AdapterRegistry;
struct AdapterUse;

// The registry's error with a google.rpc.ErrorInfo reason added for clients.
absl::Status AdapterError(const absl::Status& status);

// Calls AdapterRegistry::Resolve and converts its error by AdapterError.
absl::StatusOr<ResolvedAdapter> ResolveAdapters(AdapterRegistry* adapters, int32_t model,
                                                const std::vector<AdapterUse>& uses,
                                                int32_t max_rank = 0);

}  // namespace tessera

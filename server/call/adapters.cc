#include "server/call/adapters.h"

#include "scheduler/residency/adapters/adapter_registry.h"
#include "server/call/errors.h"

namespace tessera {

absl::Status AdapterError(const absl::Status& status) {
  if (status.ok()) return status;
  const char* const reason = absl::IsNotFound(status)            ? "ADAPTER_NOT_FOUND"
                             : absl::IsAlreadyExists(status)     ? "ADAPTER_NAME_IN_USE"
                             : absl::IsResourceExhausted(status) ? "TOO_MANY_ADAPTERS"
                             : absl::IsPermissionDenied(status)  ? "OUTSIDE_ADAPTER_ROOTS"
                                                                 : "INVALID_ADAPTER";
  return MakeError(status.code(), reason, status.message());
}

absl::StatusOr<ResolvedAdapter> ResolveAdapters(AdapterRegistry* adapters, int32_t model,
                                                const std::vector<AdapterUse>& uses,
                                                int32_t max_rank) {
  absl::StatusOr<ResolvedAdapter> resolved = adapters->Resolve(model, uses, max_rank);
  if (!resolved.ok()) return AdapterError(resolved.status());
  return resolved;
}

}  // namespace tessera

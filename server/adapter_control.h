// What Control does about adapters, without gRPC: requests to the registry and the engine, states
// as messages. Any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/adapter_id.h"

namespace tessera {

namespace v1 {
class ListAdaptersResponse;
class RegisterAdaptersRequest;
class RegisterAdaptersResponse;
}  // namespace v1

class AdapterRegistry;
struct AdapterUse;
struct ServingContext;

// The engine's verbs; see Engine.
struct AdapterVerbs {
  std::function<void(AdapterId id, bool pin, AdapterWait wait)> load;
  std::function<void(AdapterId id)> unpin;
  std::function<void(AdapterId id)> unload;
};

// AdapterRegistry::Resolve with errors as the wire has them.
absl::StatusOr<ResolvedAdapter> ResolveAdapters(AdapterRegistry* adapters, int32_t model,
                                                const std::vector<AdapterUse>& uses,
                                                int32_t max_rank = 0);

absl::Status RegisterAdapters(const ServingContext& context,
                              const v1::RegisterAdaptersRequest& request,
                              v1::RegisterAdaptersResponse* response);
// The version that a registered adapter's name means now, or the blend that a recipe names.
absl::StatusOr<AdapterId> FindAdapter(const ServingContext& context, const std::string& name);
void FillAdapters(const ServingContext& context, v1::ListAdaptersResponse* response);

}  // namespace tessera

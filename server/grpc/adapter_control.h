// What Control does about adapters, without gRPC: requests to the registry and the engine, states
// as messages. Any thread, but for RegisterAdapters, which asks the disk: none of gRPC's.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/residency/adapters/adapter_id.h"

namespace tessera {

namespace v1 {
class ListAdaptersResponse;
class RegisterAdaptersRequest;
class RegisterAdaptersResponse;
}  // namespace v1

struct ServingContext;

absl::Status RegisterAdapters(const ServingContext& context,
                              const v1::RegisterAdaptersRequest& request,
                              v1::RegisterAdaptersResponse* response);
// The version that a registered adapter's name means now, or the blend that a recipe names.
absl::StatusOr<ResolvedAdapter> FindAdapter(const ServingContext& context, const std::string& name);
void FillAdapters(const ServingContext& context, v1::ListAdaptersResponse* response);

}  // namespace tessera

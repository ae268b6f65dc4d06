// The adapter methods of the Control service without gRPC types. The functions are thread-safe.
// RegisterAdapters reads the disk, so it must not run on gRPC's threads.
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
// Finds the current version of a registered adapter by its name, or a blend in memory by its
// recipe.
absl::StatusOr<ResolvedAdapter> FindAdapter(const ServingContext& context, const std::string& name);
void FillAdapters(const ServingContext& context, v1::ListAdaptersResponse* response);

}  // namespace tessera

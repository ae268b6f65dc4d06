// The adapter methods of the Control service without gRPC types. The functions are thread-safe.
// RegisterAdapters reads the disk, so it must not run on gRPC's threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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

// Registers adapters whose files lie below one of `roots` (empty: anywhere). Returns their number.
// Those that were found in a folder of adapters and cannot be loaded are left out; their errors are
// added to `skipped`.
absl::StatusOr<int64_t> RegisterLoadable(const ServingContext& context,
                                         const std::vector<std::string>& roots,
                                         const v1::RegisterAdaptersRequest& request,
                                         std::vector<absl::Status>* skipped);
// The messages of the first 100, and how many more there are. Valid UTF-8.
std::vector<std::string> DescribeSkipped(const std::vector<absl::Status>& skipped);
// RegisterLoadable, which must register at least one adapter if it skips any.
absl::Status RegisterAdapters(const ServingContext& context, const std::vector<std::string>& roots,
                              const v1::RegisterAdaptersRequest& request,
                              v1::RegisterAdaptersResponse* response);
// Removes an adapter and has its memory freed when no request uses it.
absl::Status UnregisterAdapter(const ServingContext& context, const std::string& name);
// Has the memory of an adapter or a blend freed when no running request uses it.
// FAILED_PRECONDITION: it is pinned, and `unpin` is false.
absl::Status UnloadAdapter(const ServingContext& context, const std::string& name, bool unpin);
absl::Status UnpinAdapter(const ServingContext& context, const std::string& name);
// Finds the current version of a registered adapter by its name, or a blend in memory by its
// recipe.
absl::StatusOr<ResolvedAdapter> FindAdapter(const ServingContext& context, const std::string& name);
void FillAdapters(const ServingContext& context, v1::ListAdaptersResponse* response);

}  // namespace tessera

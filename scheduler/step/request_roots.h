// The roots of requests and probes: the one place where an engine turns a request into an Identity.
// kvstore/identity.h tells the two levels of an identity apart.
//
// Owned by the engine core; engine thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvstore/identity.h"
#include "scheduler/generator.h"
#include "scheduler/request.h"
#include "scheduler/step/engine_options.h"

namespace tessera {

class RequestRoots final {
 public:
  // `options` outlives the object and has a deployment secret.
  explicit RequestRoots(const EngineOptions* options);

  // The root of the page names of a request's sequences. Each call for a request with bypass_prefix
  // returns another private root.
  PageHash RootOf(const Request& request);
  // The root of a request that says what the query says.
  PageHash RootOf(const ProbeQuery& query) const;
  // The root of the request's run names, which may leave the process. Unset when the request's KV
  // may not leave (bypass_prefix), or while its adapter has not been read.
  std::optional<PageHash> ExportRootOf(const Request& request) const;

 private:
  Identity IdentityOf(int32_t model, const std::string& adapter, const std::string& tenant,
                      const std::string& salt) const;

  const EngineOptions* const options_;
  std::vector<Identity> models_;  // each with all fields that no request changes
  uint64_t next_private_root_ = 1;
};

}  // namespace tessera

// RequestRoots computes the roots of the page names and run names of requests and probes
// (kvstore/page_hash.h). Only this class turns a request into an Identity. kvstore/identity.h
// explains the two levels of an identity, inside and outside the process.
//
// The engine core owns it; engine thread only.
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
  // The root of a request with the same model, adapter, tenant and salt as the query.
  PageHash RootOf(const ProbeQuery& query) const;
  // The root of the request's run names, which may leave the process. The names are those of exact
  // KV: tokens beyond KvState::exact_tokens have no such name. Returns nullopt if the request's KV
  // may not leave the process (bypass_prefix, prompt_logprobs, embeddings), or while the request's
  // adapter has not been read.
  std::optional<PageHash> ExportRootOf(const Request& request) const;

 private:
  Identity IdentityOf(int32_t model, const std::string& adapter, const std::string& tenant,
                      const std::string& salt) const;

  const EngineOptions* const options_;
  std::vector<Identity> models_;  // [models] with the fields that do not depend on a request
  uint64_t next_private_root_ = 1;
};

}  // namespace tessera

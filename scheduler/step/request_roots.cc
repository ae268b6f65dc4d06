#include "scheduler/step/request_roots.h"

#include "kernels/base/log.h"

namespace tessera {

RequestRoots::RequestRoots(const EngineOptions* options) : options_(options) {
  CHECK(!options->deployment_secret.empty());
  for (const EngineModel& model : options->models) {
    Identity& identity = models_.emplace_back();
    identity.deployment_secret = options->deployment_secret;
    identity.model = model.identity;
    identity.kv = KvKey(model.layout);
  }
}

Identity RequestRoots::IdentityOf(int32_t model, const std::string& adapter,
                                  const std::string& tenant, const std::string& salt) const {
  Identity identity = models_[static_cast<size_t>(model)];
  identity.adapter = adapter;
  identity.tenant = tenant;
  identity.salt = salt;
  return identity;
}

PageHash RequestRoots::RootOf(const Request& request) {
  const PageHash root =
      tessera::RootOf(IdentityOf(request.model, request.adapter.key, request.tenant, request.salt));
  return request.bypass_prefix ? PrivateRoot(root, next_private_root_++) : root;
}

PageHash RequestRoots::RootOf(const ProbeQuery& query) const {
  return tessera::RootOf(IdentityOf(query.model, query.adapter_key, query.tenant, query.salt));
}

std::optional<PageHash> RequestRoots::ExportRootOf(const Request& request) const {
  const bool scores = request.kind == RequestKind::kEmbed || request.prompt_logprobs >= 0;
  if (request.bypass_prefix || scores) return std::nullopt;
  std::string adapter;
  if (request.adapter.id != kNoAdapter) {
    adapter = options_->adapters->ContentName(request.adapter.id);
    if (adapter.empty()) return std::nullopt;
  }
  return tessera::RootOf(IdentityOf(request.model, adapter, request.tenant, request.salt));
}

}  // namespace tessera

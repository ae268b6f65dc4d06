#include "server/grpc/adapter_control.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "server/call/adapters.h"
#include "server/call/errors.h"
#include "server/call/limits.h"
#include "server/call/served_model.h"
#include "server/call/serving.h"
#include "server/text/tokenizer/utf8.h"
#include "tessera/v1/control.pb.h"

namespace tessera {
namespace {

v1::AdapterResidency ResidencyOf(AdapterResidency residency) {
  switch (residency) {
    case AdapterResidency::kPool:
      return v1::ADAPTER_RESIDENCY_POOL;
    case AdapterResidency::kHost:
      return v1::ADAPTER_RESIDENCY_HOST;
    default:
      return v1::ADAPTER_RESIDENCY_DISK;
  }
}

}  // namespace

absl::Status RegisterAdapters(const ServingContext& context,
                              const v1::RegisterAdaptersRequest& request,
                              v1::RegisterAdaptersResponse* response) {
  std::vector<AdapterSource> sources;
  for (int i = 0; i < request.adapters_size(); ++i) {
    const v1::AdapterSource& wire = request.adapters(i);
    const std::string field = absl::StrCat("adapters[", i, "]");
    if (wire.path().empty()) {
      return FieldError(field + ".path", "is empty; name a folder on the server's disk");
    }
    if (wire.name().size() > static_cast<size_t>(kMaxNameBytes)) {
      return FieldError(field + ".name", absl::StrCat("has ", wire.name().size(),
                                                      " bytes; give at most ", kMaxNameBytes));
    }
    ASSIGN_OR_RETURN(const ServedModel* const model, context.models->Find(wire.model()));
    absl::StatusOr<std::vector<AdapterSource>> sources_at =
        AdapterRegistry::FindSources(wire.path(), model->index);
    if (!sources_at.ok()) return AdapterError(sources_at.status());
    std::vector<AdapterSource>& found = *sources_at;
    if (!wire.name().empty()) {
      if (found.size() != 1) {
        return FieldError(field + ".name", absl::StrCat("is '", wire.name(), "', but ", wire.path(),
                                                        " holds ", found.size(),
                                                        " adapters; leave it out and each is named "
                                                        "as its folder"));
      }
      found[0].name = wire.name();
    }
    for (AdapterSource& source : found) {
      if (!IsValidUtf8(source.name)) {
        return FieldError(field + ".path", absl::StrCat("holds the folder ", source.path,
                                                        ", whose name is not UTF-8; rename it"));
      }
      source.revision = wire.revision();
      sources.push_back(std::move(source));
    }
  }
  RETURN_IF_ERROR(AdapterError(context.adapters->Register(sources)));
  response->set_registered(static_cast<int64_t>(sources.size()));
  return absl::OkStatus();
}

absl::StatusOr<ResolvedAdapter> FindAdapter(const ServingContext& context,
                                            const std::string& name) {
  const std::optional<int32_t> model = context.adapters->ModelOf(name);
  if (!model.has_value()) {
    ResolvedAdapter blend = context.adapters->FindBlend(name);
    if (blend.id != kNoAdapter) return blend;
  }
  return ResolveAdapters(context.adapters, model.value_or(0), {{name, "", {}}});
}

void FillAdapters(const ServingContext& context, v1::ListAdaptersResponse* response) {
  const int64_t now_us = context.clock->NowUs();
  for (const AdapterListing& listing : context.adapters->List()) {
    v1::AdapterInfo* info = response->add_adapters();
    info->set_name(listing.name);
    info->set_revision(listing.revision);
    info->set_model(context.models->models()[static_cast<size_t>(listing.model)].name);
    info->set_loaded(listing.residency == AdapterResidency::kPool);
    info->set_pinned(listing.pinned);
    info->set_bytes(listing.bytes);
    info->set_residency(ResidencyOf(listing.residency));
    info->set_rank(listing.rank);
    info->set_running(listing.num_running);
    if (listing.last_use_us > 0) {
      info->set_idle_ms(std::max<int64_t>(0, now_us - listing.last_use_us) / 1000);
    }
  }
}

}  // namespace tessera

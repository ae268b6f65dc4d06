#include "server/grpc/adapter_control.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "scheduler/residency/adapters/adapter_name.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "server/call/adapters.h"
#include "server/call/errors.h"
#include "server/call/served_model.h"
#include "server/call/serving.h"
#include "server/text/tokenizer/utf8.h"
#include "tessera/v1/control.pb.h"

namespace tessera {
namespace {

constexpr size_t kMaxSkippedShown = 100;

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

v1::AdapterFiles FilesOf(AdapterFilesState files) {
  switch (files) {
    case AdapterFilesState::kMissing:
      return v1::ADAPTER_FILES_MISSING;
    case AdapterFilesState::kInvalid:
      return v1::ADAPTER_FILES_INVALID;
    default:
      return v1::ADAPTER_FILES_PRESENT;
  }
}

// The versions in use of a registered adapter, or the blends of this recipe.
absl::StatusOr<std::vector<ResolvedAdapter>> FindVersions(const ServingContext& context,
                                                          const std::string& name) {
  absl::StatusOr<std::vector<ResolvedAdapter>> versions = context.adapters->VersionsOf(name);
  if (!versions.ok()) return AdapterError(versions.status());
  return versions;
}

// The message of an error that may contain names of files.
std::string WireText(const std::string& message) {
  return BoundedMessage(IsValidUtf8(message) ? message : absl::CHexEscape(message));
}

}  // namespace

absl::StatusOr<int64_t> RegisterLoadable(const ServingContext& context,
                                         const std::vector<std::string>& roots,
                                         const v1::RegisterAdaptersRequest& request,
                                         std::vector<absl::Status>* skipped) {
  std::vector<AdapterSource> sources;
  for (int i = 0; i < request.adapters_size(); ++i) {
    const v1::AdapterSource& wire = request.adapters(i);
    const std::string field = absl::StrCat("adapters[", i, "]");
    if (wire.path().empty()) {
      return FieldError(field + ".path", "is empty; name a folder on the server's disk");
    }
    const std::string wrong = wire.name().empty() ? "" : WrongWithAdapterName(wire.name());
    if (!wrong.empty()) return FieldError(field + ".name", wrong);
    const std::string wrong_revision =
        wire.revision().empty() ? "" : WrongWithAdapterName(wire.revision());
    if (!wrong_revision.empty()) return FieldError(field + ".revision", wrong_revision);
    ASSIGN_OR_RETURN(const ServedModel* const model, context.models->Find(wire.model()));
    absl::StatusOr<std::vector<AdapterSource>> sources_at =
        FindAdapters(wire.path(), model->index, roots);
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
      found[0].listed = false;
    }
    for (AdapterSource& source : found) {
      source.revision = wire.revision();
      sources.push_back(std::move(source));
    }
    if (sources.size() > kMaxAdaptersAtOnce) {
      return FieldError("adapters", absl::StrCat("name more than ", kMaxAdaptersAtOnce,
                                                 " adapters; register them by several calls"));
    }
  }
  const size_t num_before = skipped->size();
  RETURN_IF_ERROR(AdapterError(context.adapters->Register(sources, skipped)));
  return static_cast<int64_t>(sources.size() - (skipped->size() - num_before));
}

std::vector<std::string> DescribeSkipped(const std::vector<absl::Status>& skipped) {
  std::vector<std::string> texts;
  for (const absl::Status& each : skipped) {
    if (texts.size() == kMaxSkippedShown) {
      texts.push_back(absl::StrCat("and ", skipped.size() - kMaxSkippedShown, " more"));
      break;
    }
    texts.push_back(WireText(std::string(each.message())));
  }
  return texts;
}

absl::Status RegisterAdapters(const ServingContext& context, const std::vector<std::string>& roots,
                              const v1::RegisterAdaptersRequest& request,
                              v1::RegisterAdaptersResponse* response) {
  std::vector<absl::Status> skipped;
  ASSIGN_OR_RETURN(const int64_t registered, RegisterLoadable(context, roots, request, &skipped));
  if (registered == 0 && !skipped.empty()) return AdapterError(skipped.front());
  response->set_registered(registered);
  for (std::string& text : DescribeSkipped(skipped)) response->add_skipped(std::move(text));
  return absl::OkStatus();
}

absl::Status UnregisterAdapter(const ServingContext& context, const std::string& name) {
  const auto versions = context.adapters->Unregister(name);
  if (!versions.ok()) return AdapterError(versions.status());
  for (const ResolvedAdapter& version : *versions) {
    context.adapter_verbs.unload(version.id, /*unpin=*/true);
  }
  return absl::OkStatus();
}

absl::Status UnloadAdapter(const ServingContext& context, const std::string& name, bool unpin) {
  ASSIGN_OR_RETURN(const std::vector<ResolvedAdapter> versions, FindVersions(context, name));
  for (const ResolvedAdapter& version : versions) {
    if (unpin || !context.adapters->status(version.id)->pinned.load()) continue;
    return MakeError(absl::StatusCode::kFailedPrecondition, "ADAPTER_PINNED",
                     absl::StrCat("adapter ", name,
                                  " is pinned; unpin it first (Control.PinAdapter with pinned "
                                  "false), or set unpin"));
  }
  for (const ResolvedAdapter& version : versions) context.adapter_verbs.unload(version.id, unpin);
  return absl::OkStatus();
}

absl::Status UnpinAdapter(const ServingContext& context, const std::string& name) {
  ASSIGN_OR_RETURN(const std::vector<ResolvedAdapter> versions, FindVersions(context, name));
  for (const ResolvedAdapter& version : versions) context.adapter_verbs.unpin(version.id);
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
    if (!listing.is_blend) info->set_files(FilesOf(listing.files));
    info->set_files_error(WireText(listing.files_error));
    if (listing.last_use_us > 0) {
      info->set_idle_ms(std::max<int64_t>(0, now_us - listing.last_use_us) / 1000);
    }
  }
}

}  // namespace tessera

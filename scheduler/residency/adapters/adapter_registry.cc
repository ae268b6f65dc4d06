#include "scheduler/residency/adapters/adapter_registry.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

constexpr size_t kMaxVersions = 1 << 20;
constexpr size_t kMaxBlend = 16;

// What stays the same as long as an adapter's files do.
absl::StatusOr<std::string> IdentityOf(const std::string& path) {
  std::string identity;
  for (const char* name : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    const std::string file = path + name;
    struct stat info;
    if (stat(file.c_str(), &info) != 0) {
      return absl::NotFoundError(
          absl::StrCat(file,
                       ": no such file; an adapter is a folder with adapter_config.json and "
                       "adapter_model.safetensors"));
    }
    absl::StrAppend(&identity, info.st_dev, ".", info.st_ino, ".", info.st_size, ".",
                    info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, ";");
  }
  return identity;
}

bool IsAdapterFolder(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path / "adapter_config.json", error);
}

// Weights are printed as short as they can be read back.
void AppendToRecipe(const AdapterSource& source, float weight, std::string* recipe) {
  char digits[32];
  const std::to_chars_result end = std::to_chars(digits, digits + sizeof(digits), weight);
  absl::StrAppend(recipe, recipe->empty() ? "" : "+", source.name,
                  source.revision.empty() ? "" : "@", source.revision, "*",
                  absl::string_view(digits, static_cast<size_t>(end.ptr - digits)));
}

void ListStatus(const AdapterStatus& status, AdapterListing* listing) {
  listing->residency = status.residency.load(std::memory_order_relaxed);
  listing->pinned = status.pinned.load(std::memory_order_relaxed);
  listing->rank = status.rank.load(std::memory_order_relaxed);
  listing->bytes = status.bytes.load(std::memory_order_relaxed);
  listing->last_use_us = status.last_use_us.load(std::memory_order_relaxed);
  listing->num_running = status.num_running.load(std::memory_order_relaxed);
}

bool IsInMemory(const AdapterStatus& status) {
  return status.residency.load(std::memory_order_relaxed) != AdapterResidency::kDisk;
}

}  // namespace

absl::StatusOr<std::vector<AdapterSource>> AdapterRegistry::FindSources(const std::string& path,
                                                                        int32_t model) {
  const std::filesystem::path folder = std::filesystem::path(path).lexically_normal();
  std::vector<AdapterSource> sources;
  const auto add = [&](const std::filesystem::path& of) {
    const std::string name = of.has_filename() ? of.filename() : of.parent_path().filename();
    sources.push_back({name, "", model, of.string()});
  };
  if (IsAdapterFolder(folder)) {
    add(folder);
    return sources;
  }
  std::error_code error;
  std::filesystem::directory_iterator it(folder, error);
  const std::filesystem::directory_iterator end;
  for (; !error && it != end; it.increment(error)) {
    if (IsAdapterFolder(it->path())) add(it->path());
  }
  if (error) {
    return absl::NotFoundError(
        absl::StrCat(path, ": ", error.message(), "; name a folder on the server's disk"));
  }
  if (sources.empty()) {
    return absl::NotFoundError(
        absl::StrCat(path, ": neither an adapter (adapter_config.json) nor a folder of adapters"));
  }
  std::sort(sources.begin(), sources.end(),
            [](const AdapterSource& a, const AdapterSource& b) { return a.name < b.name; });
  return sources;
}

absl::Status AdapterRegistry::Register(const std::vector<AdapterSource>& sources) {
  for (const AdapterSource& source : sources) {
    if (source.name.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the adapter at ", source.path, " has no name; give it one"));
    }
    for (const Model& model : models_) {
      if (model.name != source.name) continue;
      return absl::AlreadyExistsError(absl::StrCat("a model is called ", source.name,
                                                   ": give the adapter at ", source.path,
                                                   " another name"));
    }
    if (!IsAdapterFolder(source.path)) {
      return absl::NotFoundError(absl::StrCat("adapter ", source.name, ": ", source.path,
                                              " holds no adapter_config.json; name a folder in "
                                              "PEFT's layout on the server's disk"));
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const AdapterSource& source : sources) {
    const auto [it, is_new] = by_name_.try_emplace(source.name, entries_.size());
    if (is_new) {
      entries_.push_back({source, kNoAdapter});
    } else {
      entries_[it->second] = {source, kNoAdapter};
    }
  }
  revision_.fetch_add(1, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<AdapterSource>> AdapterRegistry::Find(
    int32_t model, absl::Span<const AdapterUse> uses) const {
  std::vector<AdapterSource> sources;
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const AdapterUse& use : uses) {
    const auto it = by_name_.find(use.name);
    if (it == by_name_.end()) {
      return absl::NotFoundError(absl::StrCat("no adapter is called \"", use.name,
                                              "\"; register it first (Control.RegisterAdapters)"));
    }
    const AdapterSource& source = entries_[it->second].source;
    if (!use.revision.empty() && use.revision != source.revision) {
      return absl::NotFoundError(absl::StrCat("adapter ", use.name, " is of revision \"",
                                              source.revision, "\", not \"", use.revision, "\""));
    }
    if (source.model != model) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter ", use.name, " is for the model ",
                       models_[static_cast<size_t>(source.model)].name, "; ask for that one"));
    }
    sources.push_back(source);
  }
  return sources;
}

absl::StatusOr<ResolvedAdapter> AdapterRegistry::Resolve(int32_t model,
                                                         absl::Span<const AdapterUse> uses,
                                                         int32_t max_rank) {
  if (uses.empty()) return ResolvedAdapter{};
  if (uses.size() > kMaxBlend) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapters: a blend has at most ", kMaxBlend, " entries"));
  }
  ASSIGN_OR_RETURN(const std::vector<AdapterSource> sources, Find(model, uses));
  // The disk is asked without the lock: a slow one holds up nobody else.
  std::string key = absl::StrCat(model, "|", max_rank, "|");
  std::vector<Part> parts;
  std::string recipe;
  for (size_t i = 0; i < uses.size(); ++i) {
    const AdapterSource& source = sources[i];
    Part part;
    part.path = source.path;
    part.weight = uses[i].weight.value_or(1.0f);
    if (!std::isfinite(part.weight)) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapters: the weight of ", uses[i].name, " is not finite"));
    }
    ASSIGN_OR_RETURN(part.identity, IdentityOf(source.path));
    for (const std::string& field : {source.name, source.revision, source.path, part.identity}) {
      absl::StrAppend(&key, field.size(), ":", field);
    }
    uint32_t bits;
    std::memcpy(&bits, &part.weight, sizeof(bits));
    absl::StrAppend(&key, "*", bits, ";");
    AppendToRecipe(source, part.weight, &recipe);
    parts.push_back(std::move(part));
  }
  const bool plain = uses.size() == 1 && parts[0].weight == 1.0f && max_rank == 0;
  if (max_rank > 0) absl::StrAppend(&recipe, ":r", max_rank);
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto [it, is_new] = by_key_.try_emplace(key, static_cast<AdapterId>(versions_.size()));
  if (is_new) {
    if (versions_.size() >= kMaxVersions) {
      by_key_.erase(it);
      return absl::ResourceExhaustedError(
          "too many versions and blends of adapters were asked for; restart the server");
    }
    Version& fresh = versions_.emplace_back();
    fresh.model = model;
    fresh.max_rank = max_rank;
    fresh.parts = std::move(parts);
    if (!plain) {
      fresh.recipe = std::move(recipe);
      blends_.push_back(it->second);
    }
  }
  if (plain) entries_[by_name_.at(uses[0].name)].latest = it->second;
  return ResolvedAdapter{it->second, std::move(key)};
}

std::optional<int32_t> AdapterRegistry::ModelOf(const std::string& name) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto it = by_name_.find(name);
  if (it == by_name_.end()) return std::nullopt;
  return entries_[it->second].source.model;
}

std::vector<AdapterListing> AdapterRegistry::List() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<AdapterListing> listings;
  listings.reserve(entries_.size());
  for (const Entry& entry : entries_) {
    AdapterListing& listing = listings.emplace_back();
    listing.name = entry.source.name;
    listing.revision = entry.source.revision;
    listing.model = entry.source.model;
    if (entry.latest == kNoAdapter) continue;
    ListStatus(versions_[static_cast<size_t>(entry.latest)].status, &listing);
  }
  for (const AdapterId id : blends_) {
    const Version& of = versions_[static_cast<size_t>(id)];
    if (!IsInMemory(of.status)) continue;
    AdapterListing& listing = listings.emplace_back();
    listing.name = of.recipe;
    listing.model = of.model;
    ListStatus(of.status, &listing);
  }
  return listings;
}

AdapterId AdapterRegistry::FindBlend(const std::string& recipe) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  AdapterId found = kNoAdapter;
  for (auto id = blends_.rbegin(); id != blends_.rend(); ++id) {
    const Version& of = versions_[static_cast<size_t>(*id)];
    if (of.recipe != recipe) continue;
    if (IsInMemory(of.status)) return *id;
    if (found == kNoAdapter) found = *id;
  }
  return found;
}

const AdapterRegistry::Version& AdapterRegistry::version(AdapterId id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return versions_.at(static_cast<size_t>(id));
}

AdapterStatus* AdapterRegistry::status(AdapterId id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return &versions_.at(static_cast<size_t>(id)).status;
}

int32_t AdapterRegistry::model(AdapterId id) const { return version(id).model; }

absl::StatusOr<AdapterImage> AdapterRegistry::Build(AdapterId id) const {
  const Version& of = version(id);  // what it was made of never changes
  const Model& model = models_[static_cast<size_t>(of.model)];
  std::vector<std::unique_ptr<PeftAdapter>> adapters;
  std::vector<WeightedAdapter> weighted;
  for (const Part& part : of.parts) {
    ASSIGN_OR_RETURN(auto adapter, PeftAdapter::Open(model.spec, part.path));
    ASSIGN_OR_RETURN(const std::string identity, IdentityOf(part.path));
    if (identity != part.identity) {
      return absl::FailedPreconditionError(absl::StrCat(
          part.path,
          ": the adapter's files changed after it was asked for; send the request again"));
    }
    weighted.push_back({adapter.get(), part.weight});
    adapters.push_back(std::move(adapter));
  }
  return BuildAdapterImage(model.spec, weighted, model.dtype, model.page_bytes, of.max_rank);
}

}  // namespace tessera

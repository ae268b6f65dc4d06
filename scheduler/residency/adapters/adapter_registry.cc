#include "scheduler/residency/adapters/adapter_registry.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/sha256.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

constexpr size_t kMaxBlend = 16;
// The number of adapters whose files are examined per interval. This takes some milliseconds of a
// thread of low priority.
constexpr size_t kCheckedInOneGo = 1000;

// Appends an adapter to a recipe. The weight is printed with the fewest digits that read back as
// the same float.
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

// The order of a blend's adapters counts: sums of floats depend on it. `nearest` is the digest of
// the matrices that BuildAdapterImage re-compressed.
std::string NameContent(const std::vector<WeightedAdapter>& adapters, DType dtype, int32_t max_rank,
                        const Sha256Digest& nearest) {
  Sha256 sha;
  sha.AddField("tessera adapter 1");
  sha.AddField(DTypeName(dtype));
  sha.AddNumber(static_cast<uint64_t>(max_rank));
  sha.Add(nearest.data(), nearest.size());
  for (const WeightedAdapter& of : adapters) {
    const Sha256Digest hash = of.adapter->ContentHash();
    sha.Add(hash.data(), hash.size());
    sha.Add(&of.weight, sizeof(of.weight));
  }
  const Sha256Digest digest = sha.Finish();
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
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
  if (IsAdapterFolder(folder.string())) {
    add(folder);
    return sources;
  }
  std::error_code error;
  std::filesystem::directory_iterator it(folder, error);
  const std::filesystem::directory_iterator end;
  for (; !error && it != end; it.increment(error)) {
    if (IsAdapterFolder(it->path().string())) add(it->path());
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
  const std::lock_guard<std::mutex> files_lock(files_mutex_);
  std::vector<absl::StatusOr<std::string>> identities;
  identities.reserve(sources.size());
  for (const AdapterSource& source : sources) identities.push_back(options_.identity(source.path));
  const std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 0; i < sources.size(); ++i) {
    const auto [it, is_new] = by_name_.try_emplace(sources[i].name, entries_.size());
    Entry entry{sources[i], std::move(identities[i])};
    if (is_new) {
      entries_.push_back(std::move(entry));
    } else {
      entries_[it->second] = std::move(entry);
    }
  }
  if (watch_ == nullptr && options_.check_interval_us > 0 && !entries_.empty()) {
    watch_ = std::make_unique<FileWatch>(options_.check_interval_us, [this] { CheckNextFiles(); });
  }
  ForgetUnheld();
  revision_.fetch_add(1, std::memory_order_relaxed);
  return absl::OkStatus();
}

void AdapterRegistry::CheckFilesNow() {
  size_t num_entries;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    num_entries = entries_.size();
  }
  for (size_t entry = 0; entry < num_entries; ++entry) CheckFiles(entry);
}

void AdapterRegistry::CheckNextFiles() {
  size_t num_entries;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    num_entries = entries_.size();
  }
  for (size_t i = 0; i < std::min(num_entries, kCheckedInOneGo); ++i) {
    CheckFiles(next_check_++ % num_entries);
  }
}

// Accesses the disk without holding mutex_, so that a slow disk does not delay requests.
void AdapterRegistry::CheckFiles(size_t entry) {
  const std::lock_guard<std::mutex> files_lock(files_mutex_);
  std::string path;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    path = entries_[entry].source.path;
  }
  absl::StatusOr<std::string> identity = options_.identity(path);
  const std::lock_guard<std::mutex> lock(mutex_);
  Entry& of = entries_[entry];
  if (of.identity == identity) return;
  TLOG_INFO("adapter {}: its files changed", of.source.name);
  of.identity = std::move(identity);
}

absl::StatusOr<size_t> AdapterRegistry::FindEntry(int32_t model, const AdapterUse& use) const {
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
    return absl::InvalidArgumentError(absl::StrCat("adapter ", use.name, " is for the model ",
                                                   models_[static_cast<size_t>(source.model)].name,
                                                   "; ask for that one"));
  }
  return it->second;
}

absl::StatusOr<AdapterRegistry::Content> AdapterRegistry::ContentOf(
    int32_t model, absl::Span<const AdapterUse> uses, int32_t max_rank) const {
  Content content;
  content.model = model;
  content.max_rank = max_rank;
  content.key = absl::StrCat(model, "|", max_rank, "|");
  for (const AdapterUse& use : uses) {
    Part part;
    ASSIGN_OR_RETURN(part.entry, FindEntry(model, use));
    part.weight = use.weight.value_or(1.0f);
    if (!std::isfinite(part.weight)) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapters: the weight of ", use.name, " is not finite"));
    }
    const AdapterSource& source = entries_[part.entry].source;
    part.path = source.path;
    ASSIGN_OR_RETURN(part.identity, entries_[part.entry].identity);
    for (const std::string& field : {source.name, source.revision, source.path, part.identity}) {
      absl::StrAppend(&content.key, field.size(), ":", field);
    }
    uint32_t bits;
    std::memcpy(&bits, &part.weight, sizeof(bits));
    absl::StrAppend(&content.key, "*", bits, ";");
    AppendToRecipe(source, part.weight, &content.recipe);
    content.parts.push_back(std::move(part));
  }
  const bool is_blend = uses.size() > 1 || content.parts[0].weight != 1.0f || max_rank > 0;
  if (max_rank > 0) absl::StrAppend(&content.recipe, ":r", max_rank);
  if (!is_blend) content.recipe.clear();
  return content;
}

absl::StatusOr<AdapterRegistry::Version*> AdapterRegistry::FindOrAdd(Content content) {
  const auto it = by_key_.find(content.key);
  if (it != by_key_.end()) return it->second;
  if (static_cast<int64_t>(versions_.size()) >= options_.max_versions) {
    return absl::ResourceExhaustedError(absl::StrCat(
        versions_.size(),
        " versions and blends of adapters are in use at once, and more cannot be; send the request "
        "again when others have ended, or unload blends (Control.UnloadAdapter)"));
  }
  const AdapterId id = next_id_++;
  auto fresh = std::make_unique<Version>(id, std::move(content), &unheld_);
  Version* const version = fresh.get();
  by_key_.emplace(version->content.key, version);
  if (!version->content.recipe.empty()) blends_.emplace(id, version);
  versions_.emplace(id, std::move(fresh));
  return version;
}

absl::StatusOr<ResolvedAdapter> AdapterRegistry::Resolve(int32_t model,
                                                         absl::Span<const AdapterUse> uses,
                                                         int32_t max_rank) {
  if (uses.empty()) return ResolvedAdapter{};
  if (uses.size() > kMaxBlend) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapters: a blend has at most ", kMaxBlend, " entries"));
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  ForgetUnheld();
  ASSIGN_OR_RETURN(Content content, ContentOf(model, uses, max_rank));
  ASSIGN_OR_RETURN(Version* const version, FindOrAdd(std::move(content)));
  ResolvedAdapter resolved{version->id, version->content.key, AdapterHold(version)};
  if (version->content.recipe.empty()) {
    Entry& entry = entries_[version->content.parts[0].entry];
    entry.latest = version;
    entry.hold = resolved.hold;
  }
  return resolved;
}

void AdapterRegistry::ForgetUnheld() {
  unheld_.Drain([this](Holdable* held) {
    const auto* const version = static_cast<const Version*>(held);
    by_key_.erase(version->content.key);
    blends_.erase(version->id);
    versions_.erase(version->id);
  });
}

AdapterRegistry::~AdapterRegistry() {
  watch_.reset();
  entries_.clear();
  ForgetUnheld();
  CHECK(versions_.empty()) << versions_.size() << " versions of adapters are still held";
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
    if (entry.latest != nullptr) ListStatus(entry.latest->status, &listing);
  }
  for (const auto& [id, blend] : blends_) {
    if (!IsInMemory(blend->status)) continue;
    AdapterListing& listing = listings.emplace_back();
    listing.name = blend->content.recipe;
    listing.model = blend->content.model;
    ListStatus(blend->status, &listing);
  }
  return listings;
}

ResolvedAdapter AdapterRegistry::FindBlend(const std::string& recipe) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ForgetUnheld();
  Version* found = nullptr;
  for (auto it = blends_.rbegin(); it != blends_.rend(); ++it) {
    Version* const blend = it->second;
    if (blend->content.recipe != recipe) continue;
    if (found == nullptr || IsInMemory(blend->status)) found = blend;
    if (IsInMemory(found->status)) break;
  }
  if (found == nullptr) return {};
  return {found->id, found->content.key, AdapterHold(found)};
}

int64_t AdapterRegistry::num_versions() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ForgetUnheld();
  return static_cast<int64_t>(versions_.size());
}

AdapterRegistry::Version* AdapterRegistry::version(AdapterId id) const {
  const auto it = versions_.find(id);
  CHECK(it != versions_.end()) << "adapter " << id << " is used, but nobody holds it";
  return it->second.get();
}

std::string AdapterRegistry::ContentName(AdapterId id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return version(id)->content_name;
}

std::string AdapterRegistry::NameOf(AdapterId id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Content& content = version(id)->content;
  return content.recipe.empty() ? entries_[content.parts.front().entry].source.name
                                : content.recipe;
}

AdapterHold AdapterRegistry::Hold(AdapterId id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return AdapterHold(version(id));
}

AdapterStatus* AdapterRegistry::status(AdapterId id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return &version(id)->status;
}

int32_t AdapterRegistry::model(AdapterId id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return version(id)->content.model;
}

absl::StatusOr<AdapterImage> AdapterRegistry::Build(AdapterId id) {
  Version* built;
  AdapterHold hold;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    built = version(id);
    hold = AdapterHold(built);
  }
  std::string content_name;
  absl::StatusOr<AdapterImage> image = BuildFrom(built->content, &content_name);
  if (image.ok()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    built->content_name = std::move(content_name);
    return image;
  }
  // A client that sends the request again gets the current files.
  for (const Part& part : built->content.parts) CheckFiles(part.entry);
  return image;
}

absl::StatusOr<AdapterImage> AdapterRegistry::BuildFrom(const Content& content,
                                                        std::string* content_name) const {
  const Model& model = models_[static_cast<size_t>(content.model)];
  std::vector<std::unique_ptr<PeftAdapter>> adapters;
  std::vector<WeightedAdapter> weighted;
  for (const Part& part : content.parts) {
    ASSIGN_OR_RETURN(auto adapter, PeftAdapter::Open(model.spec, part.path));
    ASSIGN_OR_RETURN(const std::string identity, options_.identity(part.path));
    if (identity != part.identity) {
      return absl::FailedPreconditionError(absl::StrCat(
          part.path,
          ": the adapter's files changed after it was asked for; send the request again"));
    }
    weighted.push_back({adapter.get(), part.weight});
    adapters.push_back(std::move(adapter));
  }
  Sha256 nearest;
  absl::StatusOr<AdapterImage> image = BuildAdapterImage(
      model.spec, weighted, model.dtype, model.page_bytes, content.max_rank, &nearest);
  *content_name = NameContent(weighted, model.dtype, content.max_rank, nearest.Finish());
  return image;
}

}  // namespace tessera

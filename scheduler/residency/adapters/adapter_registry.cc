#include "scheduler/residency/adapters/adapter_registry.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/sha256.h"
#include "kernels/base/status.h"
#include "scheduler/residency/adapters/adapter_name.h"

namespace tessera {
namespace {

absl::Status OfAdapter(const std::string& name, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("adapter ", name, ": ", status.message()));
}

constexpr size_t kMaxBlend = 16;
constexpr float kMaxWeight = 1e6f;
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

absl::Status UnknownAdapter(const std::string& name) {
  return absl::NotFoundError(absl::StrCat("no adapter is called \"", name,
                                          "\"; register it first (Control.RegisterAdapters)"));
}

AdapterFilesState StateOf(const absl::Status& files) {
  if (files.ok()) return AdapterFilesState::kPresent;
  return absl::IsNotFound(files) ? AdapterFilesState::kMissing : AdapterFilesState::kInvalid;
}

// Whether the same files may be loaded later: the error is not of their content.
bool MayPass(const absl::Status& files) { return !files.ok() && !absl::IsInvalidArgument(files); }

bool IsInMemory(const AdapterStatus& status) {
  return status.residency.load(std::memory_order_relaxed) != AdapterResidency::kDisk;
}

}  // namespace

absl::Status AdapterRegistry::CheckName(const AdapterSource& source) const {
  if (const std::string wrong = WrongWithAdapterName(source.name); !wrong.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the name of the adapter at ", absl::Utf8SafeCHexEscape(source.path), " ",
                     wrong, ", by a name of its own or by renaming the folder"));
  }
  const std::string wrong = source.revision.empty() ? "" : WrongWithAdapterName(source.revision);
  if (!wrong.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the revision of the adapter ", source.name, " ", wrong));
  }
  for (const AdapterModel& model : models_) {
    if (model.name != source.name) continue;
    return absl::AlreadyExistsError(absl::StrCat(
        "a model is called ", source.name, ": give the adapter at ", source.path, " another name"));
  }
  return absl::OkStatus();
}

absl::StatusOr<AdapterRegistry::Entry> AdapterRegistry::NewEntry(
    const AdapterSource& source) const {
  const auto refuse = [&](const absl::Status& status) { return OfAdapter(source.name, status); };
  CHECK_LT(static_cast<size_t>(source.model), models_.size());
  RETURN_IF_ERROR(CheckName(source));
  Entry entry;
  entry.source = source;
  absl::StatusOr<std::string> identity = options_.identity(source.path);
  if (!identity.ok()) return refuse(identity.status());
  const AdapterModel& model = models_[static_cast<size_t>(source.model)];
  const absl::StatusOr<AdapterFacts> facts = options_.inspect(model, source, /*whole=*/false);
  if (!facts.ok()) return refuse(facts.status());
  entry.identity = *std::move(identity);
  entry.seen = entry.identity;
  entry.facts = *facts;
  return entry;
}

absl::Status AdapterRegistry::CheckValues() const {
  std::vector<AdapterSource> sources;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [id, entry] : entries_) sources.push_back(entry.source);
  }
  for (const AdapterSource& source : sources) {
    const AdapterModel& model = models_[static_cast<size_t>(source.model)];
    const absl::Status status = options_.inspect(model, source, /*whole=*/true).status();
    if (!status.ok()) return OfAdapter(source.name, status);
  }
  return absl::OkStatus();
}

absl::Status AdapterRegistry::Register(const std::vector<AdapterSource>& sources,
                                       std::vector<absl::Status>* skipped) {
  const std::lock_guard<std::mutex> files_lock(files_mutex_);
  std::vector<Entry> entries;
  entries.reserve(sources.size());
  for (const AdapterSource& source : sources) {
    absl::StatusOr<Entry> entry = NewEntry(source);
    if (entry.ok()) {
      entries.push_back(*std::move(entry));
    } else if (skipped != nullptr && source.listed) {
      skipped->push_back(entry.status());
    } else {
      return entry.status();
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto num_new = absl::c_count_if(
      entries, [this](const Entry& entry) { return !by_name_.contains(entry.source.name); });
  if (entries_.size() + static_cast<size_t>(num_new) > options_.max_adapters) {
    return absl::ResourceExhaustedError(absl::StrCat(
        entries_.size(), " adapters are registered, and ", options_.max_adapters,
        " can be; unregister some (Control.UnregisterAdapter) or register fewer at once"));
  }
  for (Entry& entry : entries) {
    const auto [it, is_new] = by_name_.try_emplace(entry.source.name, next_entry_);
    next_entry_ += is_new ? 1 : 0;
    Entry& registered = entries_[it->second];
    if (!is_new) KeepWhatIsSame(&registered, &entry);
    registered = std::move(entry);
  }
  if (watch_ == nullptr && options_.check_interval_us > 0 && !entries_.empty()) {
    watch_ = std::make_unique<FileWatch>(options_.check_interval_us, [this] { CheckNextFiles(); });
  }
  ForgetUnheld();
  AnnounceChange();
  return absl::OkStatus();
}

// An adapter that is registered again with the same files keeps its version, and what a load found
// in the files, because a registration checks their headers only.
void AdapterRegistry::KeepWhatIsSame(Entry* old, Entry* fresh) {
  const AdapterSource& source = fresh->source;
  if (old->source.path != source.path || old->source.model != source.model) return;
  if (old->seen == fresh->seen && absl::IsInvalidArgument(old->files)) fresh->files = old->files;
  if (old->source.revision != source.revision || old->identity != fresh->identity) return;
  fresh->latest = old->latest;
  fresh->hold = std::move(old->hold);
}

absl::StatusOr<std::vector<ResolvedAdapter>> AdapterRegistry::Unregister(const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto it = by_name_.find(name);
  if (it == by_name_.end()) return UnknownAdapter(name);
  std::vector<ResolvedAdapter> retired;
  for (const auto& [id, version] : versions_) {
    const std::vector<Part>& parts = version->content.parts;
    if (absl::c_none_of(parts, [&](const Part& part) { return part.name == name; })) continue;
    version->status.retired.store(true, std::memory_order_relaxed);
    retired.push_back(Resolved(version.get()));
  }
  entries_.erase(it->second);
  by_name_.erase(it);
  ForgetUnheld();
  AnnounceChange();
  return retired;
}

void AdapterRegistry::CheckFilesNow() {
  std::vector<std::string> names;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [id, entry] : entries_) names.push_back(entry.source.name);
  }
  for (const std::string& name : names) CheckFiles(name);
}

void AdapterRegistry::CheckNextFiles() {
  std::vector<std::string> names;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto it = entries_.lower_bound(next_check_);
    while (names.size() < std::min(entries_.size(), kCheckedInOneGo)) {
      if (it == entries_.end()) it = entries_.begin();
      names.push_back(it->second.source.name);
      next_check_ = it->first + 1;
      ++it;
    }
  }
  for (const std::string& name : names) CheckFiles(name);
}

void AdapterRegistry::CheckFiles(const std::string& name) {
  const std::lock_guard<std::mutex> files_lock(files_mutex_);
  Examine(name);
}

// Accesses the disk without holding mutex_, so that a slow disk does not delay requests.
void AdapterRegistry::Examine(const std::string& name) {
  AdapterSource source;
  std::string seen;
  bool look_again = false;
  bool in_memory = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Entry* const entry = FindEntry(name);
    if (entry == nullptr) return;
    source = entry->source;
    seen = entry->seen;
    look_again = MayPass(entry->files);
    in_memory = entry->latest != nullptr && IsInMemory(entry->latest->status);
  }
  const absl::StatusOr<std::string> identity = options_.identity(source.path);
  const std::string now = identity.ok() ? *identity : "";
  const bool is_same = now == seen;
  if (is_same && !look_again) return;
  // New files are read whole before they replace a version in memory.
  const auto inspect = [&]() -> absl::StatusOr<AdapterFacts> {
    RETURN_IF_ERROR(identity.status());
    return options_.inspect(models_[static_cast<size_t>(source.model)], source, in_memory);
  };
  const absl::StatusOr<AdapterFacts> facts = inspect();
  const std::lock_guard<std::mutex> lock(mutex_);
  Entry* const entry = FindEntry(name);
  if (entry == nullptr) return;  // unregistered meanwhile
  if (is_same && facts.status() == entry->files) return;
  entry->seen = now;
  if (facts.ok()) {
    TLOG_INFO("adapter {}: its files {}", name, is_same ? "can be read" : "changed");
    entry->identity = now;
    entry->facts = *facts;
  } else if (entry->files.ok()) {
    TLOG_WARN("adapter {}: {}; requests get the version in memory while it stays there", name,
              std::string(facts.status().message()));
  }
  entry->files = facts.status();
  AnnounceChange();
}

AdapterRegistry::Entry* AdapterRegistry::FindEntry(const std::string& name) {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &entries_.at(it->second);
}

absl::StatusOr<AdapterRegistry::EntryId> AdapterRegistry::FindEntry(int32_t model,
                                                                    const AdapterUse& use) const {
  const auto it = by_name_.find(use.name);
  if (it == by_name_.end()) return UnknownAdapter(use.name);
  const AdapterSource& source = entries_.at(it->second).source;
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
    ASSIGN_OR_RETURN(const EntryId id, FindEntry(model, use));
    part.weight = use.weight.value_or(1.0f);
    if (!(std::abs(part.weight) <= kMaxWeight)) {
      return absl::InvalidArgumentError(absl::StrCat("adapters: the weight of ", use.name, " is ",
                                                     part.weight, "; give a number from -",
                                                     kMaxWeight, " to ", kMaxWeight));
    }
    const Entry& entry = entries_.at(id);
    const AdapterSource& source = entry.source;
    part.name = source.name;
    part.path = source.path;
    part.roots = source.roots;
    part.identity = entry.identity;
    if (content.files.ok() && !entry.files.ok()) {
      content.files = absl::Status(
          entry.files.code(), absl::StrCat("adapter ", source.name, ": ", entry.files.message()));
    }
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
  if (it != by_key_.end() && (content.files.ok() || IsInMemory(it->second->status))) {
    // A retired version is of adapters that were registered again.
    it->second->status.retired.store(false, std::memory_order_relaxed);
    return it->second;
  }
  RETURN_IF_ERROR(content.files);
  const bool is_blend = !content.recipe.empty();
  if (is_blend && static_cast<int64_t>(blends_.size()) >= options_.max_blends) {
    return absl::ResourceExhaustedError(absl::StrCat(
        blends_.size(),
        " blends of adapters are in use or in memory, and more cannot be; send the request again "
        "when others have ended, or unload blends (Control.UnloadAdapter)"));
  }
  const AdapterId id = next_id_++;
  auto fresh = std::make_unique<Version>(id, std::move(content), &unheld_);
  Version* const version = fresh.get();
  by_key_.emplace(version->content.key, version);
  if (is_blend) blends_.emplace(id, version);
  versions_.emplace(id, std::move(fresh));
  return version;
}

ResolvedAdapter AdapterRegistry::Resolved(Version* version) {
  return {version->id, version->content.key, AdapterHold(version)};
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
  ResolvedAdapter resolved = Resolved(version);
  if (version->content.recipe.empty()) {
    Entry* const entry = FindEntry(uses[0].name);
    entry->latest = version;
    entry->hold = resolved.hold;
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
  return entries_.at(it->second).source.model;
}

absl::StatusOr<std::vector<ResolvedAdapter>> AdapterRegistry::VersionsOf(const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ForgetUnheld();
  const auto it = by_name_.find(name);
  std::vector<ResolvedAdapter> found;
  for (const auto& [id, version] : versions_) {
    const Content& content = version->content;
    const bool is_it = it == by_name_.end()
                           ? content.recipe == name
                           : content.recipe.empty() && content.parts[0].name == name;
    if (is_it && !name.empty()) found.push_back(Resolved(version.get()));
  }
  if (it == by_name_.end() && found.empty()) return UnknownAdapter(name);
  return found;
}

std::vector<AdapterListing> AdapterRegistry::List() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<AdapterListing> listings;
  listings.reserve(entries_.size());
  for (const auto& [id, entry] : entries_) {
    AdapterListing& listing = listings.emplace_back();
    listing.name = entry.source.name;
    listing.revision = entry.source.revision;
    listing.model = entry.source.model;
    if (entry.latest != nullptr) ListStatus(entry.latest->status, &listing);
    if (listing.rank == 0) {  // not loaded yet
      listing.rank = entry.facts.rank;
      listing.bytes = entry.facts.bytes;
    }
    listing.files = StateOf(entry.files);
    listing.files_error = std::string(entry.files.message());
  }
  for (const auto& [id, blend] : blends_) {
    if (!IsInMemory(blend->status)) continue;
    AdapterListing& listing = listings.emplace_back();
    listing.name = blend->content.recipe;
    listing.model = blend->content.model;
    listing.is_blend = true;
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
  return Resolved(found);
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
  return content.recipe.empty() ? content.parts.front().name : content.recipe;
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
  const Part* unread = nullptr;
  absl::StatusOr<AdapterImage> image = BuildFrom(built->content, &content_name, &unread);
  if (image.ok()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    built->content_name = std::move(content_name);
    return image;
  }
  if (unread != nullptr) NoteDamage(built->content.model, *unread, image.status());
  // A client that sends the request again gets the current files. A registration may hold the mutex
  // for long, and other adapters wait for this thread; then the registry's thread examines the
  // files later.
  const std::unique_lock<std::mutex> files_lock(files_mutex_, std::try_to_lock);
  if (!files_lock.owns_lock()) return image;
  for (const Part& part : built->content.parts) Examine(part.name);
  return image;
}

// Lets Resolve refuse an adapter whose headers fit the model and whose values are damaged.
// Otherwise each request would read the adapter again. A status that is not INVALID_ARGUMENT says
// nothing about the content.
void AdapterRegistry::NoteDamage(int32_t model, const Part& part, const absl::Status& damage) {
  if (!absl::IsInvalidArgument(damage)) return;
  const absl::StatusOr<std::string> identity = options_.identity(part.path);
  if (!identity.ok() || *identity != part.identity) return;  // other files may have been read
  const std::lock_guard<std::mutex> lock(mutex_);
  Entry* const entry = FindEntry(part.name);
  if (entry == nullptr || entry->source.model != model || entry->source.path != part.path) return;
  if (entry->seen != part.identity || !entry->files.ok()) return;
  TLOG_WARN("adapter {}: {}", part.name, std::string(damage.message()));
  entry->files = damage;
  AnnounceChange();
}

absl::StatusOr<AdapterImage> AdapterRegistry::BuildFrom(const Content& content,
                                                        std::string* content_name,
                                                        const Part** unread) const {
  const AdapterModel& model = models_[static_cast<size_t>(content.model)];
  std::vector<std::unique_ptr<PeftAdapter>> adapters;
  std::vector<WeightedAdapter> weighted;
  for (const Part& part : content.parts) {
    *unread = &part;
    ASSIGN_OR_RETURN(auto adapter, PeftAdapter::Open(model.spec, part.path, part.roots));
    *unread = nullptr;
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

// The adapters that requests may use: their names, the folders of their files, and their versions
// in use. A version is one state of an adapter's files (size, time, inode). Changed files are a new
// version, so KV of the old version is never used for the new one. A blend is a version, too.
//
// A version exists while it has a hold (adapter_hold.h): of a request, of the store for an adapter
// in memory or being read, or of the registry for the latest version of a registered adapter. A
// version without a hold is forgotten. If it is requested again, it gets a new id and the same key,
// so its cached prefixes are found.
//
// The headers of an adapter's files are checked when it is registered, and the files are read when
// the adapter is loaded. The registry's own thread examines the files regularly (1,000 adapters a
// second, in turn). Before that, requests get the old version of changed files, unless the adapter
// is registered again. Build examines the files too, so that a version is never loaded from other
// files. If the files vanish or the new ones cannot be loaded, requests get the version in memory
// as long as it stays there, and the list says what is wrong.
//
// Owned by Device (assemble.h); thread-safe. The server registers and resolves, the loader builds,
// the engine reports states. Resolve, FindBlend and List never access the disk.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/model/lora/peft.h"
#include "kernels/model/model_spec.h"
#include "scheduler/residency/adapters/adapter_files.h"
#include "scheduler/residency/adapters/adapter_hold.h"
#include "scheduler/residency/adapters/adapter_id.h"
#include "scheduler/residency/adapters/adapter_status.h"

namespace tessera {

// One entry of a request's adapters.
struct AdapterUse {
  std::string name;
  std::string revision;         // empty: any revision
  std::optional<float> weight;  // unset: the weight is 1
};

struct AdapterRegistryOptions {
  // Time after which the registry's thread examines the files of the next 1,000 adapters. 0: never.
  int64_t check_interval_us = 1'000'000;
  // The largest number of registered adapters. Each takes about a kilobyte.
  size_t max_adapters = size_t{1} << 18;
  // The largest number of blends that requests and the store may hold at once, a kilobyte each.
  int64_t max_blends = int64_t{1} << 16;
  // Returns a string that changes when the files at `path` change. Only tests replace it.
  std::function<absl::StatusOr<std::string>(const std::string& path)> identity =
      IdentityOfAdapterFiles;
  // See InspectAdapter. Only tests replace it.
  std::function<absl::StatusOr<AdapterFacts>(const AdapterModel& model, const AdapterSource& source,
                                             bool whole)>
      inspect = InspectAdapter;
};

class AdapterRegistry final {
 public:
  explicit AdapterRegistry(std::vector<AdapterModel> models, AdapterRegistryOptions options = {})
      : models_(std::move(models)), options_(std::move(options)) {}
  // REQUIRES: no version has a hold outside the registry.
  ~AdapterRegistry();

  // Registers all sources, or none on an error, whose message names the adapter: a name that is a
  // model's or breaks the grammar (adapter_name.h), a missing file, a configuration or a header
  // that does not fit the model. RESOURCE_EXHAUSTED: too many adapters. Replaces adapters that have
  // the same names: later requests get the new files. With `skipped`, a listed source that has an
  // error is left out instead, and the error is added to `skipped`. Accesses the disk.
  absl::Status Register(const std::vector<AdapterSource>& sources,
                        std::vector<absl::Status>* skipped = nullptr);
  // Removes an adapter: later requests for it and for its blends are refused. Returns the versions
  // that used it, which are now retired (adapter_status.h); the caller unloads them, and sequences
  // that hold one finish with it. NOT_FOUND: no adapter has this name.
  absl::StatusOr<std::vector<ResolvedAdapter>> Unregister(const std::string& name);

  // Reads the files of all adapters whole and returns the first error, as a load would. Slow.
  absl::Status CheckValues() const;

  // Examines the files of all adapters. Files that changed before the call are then new versions.
  void CheckFilesNow();

  // The current version of `uses`, re-compressed to at most `max_rank` (0: exact). NOT_FOUND names
  // an unknown adapter or a missing file. INVALID_ARGUMENT: the adapter is for another model, or
  // its files cannot be loaded. RESOURCE_EXHAUSTED: too many blends are held. Check all else of a
  // request first, because this call registers a new blend.
  absl::StatusOr<ResolvedAdapter> Resolve(int32_t model, absl::Span<const AdapterUse> uses,
                                          int32_t max_rank = 0);
  // The model of a registered adapter.
  std::optional<int32_t> ModelOf(const std::string& name) const;
  // All versions of a registered adapter that are held, or else all blends of that recipe.
  // NOT_FOUND if there is no adapter and no blend of that name.
  absl::StatusOr<std::vector<ResolvedAdapter>> VersionsOf(const std::string& name);

  // The registered adapters, then the blends in memory. The name of a blend is its recipe: its
  // adapters, their weights and the requested rank, as in "zorvan-1*0.6+keltish-1@v2*0.4:r8".
  std::vector<AdapterListing> List() const;
  // The blend of that recipe: one in memory, or else the newest; kNoAdapter if none is held.
  ResolvedAdapter FindBlend(const std::string& recipe);
  int64_t num_versions();  // number of versions that are held
  // Changes with every registration and every change of a version's state.
  int64_t revision() const { return revision_.load(std::memory_order_relaxed); }

  // Reads a version's files. FAILED_PRECONDITION: the files have changed; the registry soon knows
  // their new state. Slow; loader threads. REQUIRES for these six: the version has a hold.
  absl::StatusOr<AdapterImage> Build(AdapterId id);
  // The hash of a version's content: its adapters' tensors, ranks and scales, the blend's weights
  // and rank, and the dtype in the pool; not names, folders or times. Empty before the first Build.
  std::string ContentName(AdapterId id) const;
  // The name of a version as List gives it.
  std::string NameOf(AdapterId id) const;
  AdapterHold Hold(AdapterId id) const;
  int32_t model(AdapterId id) const;
  // The engine's report on a version; the address of the report does not change. The engine calls
  // AnnounceChange after each change of a report.
  AdapterStatus* status(AdapterId id) const;
  void AnnounceChange() { revision_.fetch_add(1, std::memory_order_relaxed); }

 private:
  using EntryId = int64_t;
  struct Part {
    std::string name;
    std::string path;
    std::vector<std::string> roots;  // AdapterSource::roots
    std::string identity;            // state of the files at `path`
    float weight = 1.0f;
  };
  // The immutable definition of a version.
  struct Content {
    int32_t model = 0;
    int32_t max_rank = 0;  // 0: exact
    std::vector<Part> parts;
    std::string key;
    std::string recipe;  // empty: the version is a registered adapter, not a blend
    absl::Status files;  // an error: only a version in memory may be used
  };
  struct Version final : Holdable {
    Version(AdapterId id, Content content, UnheldList* unheld)
        : Holdable(unheld), id(id), content(std::move(content)) {}
    const AdapterId id;
    const Content content;
    AdapterStatus status;
    std::string content_name;  // guarded by the registry's mutex_
  };
  struct Entry {
    AdapterSource source;
    std::string identity;  // state of the last files that could be loaded
    AdapterFacts facts;    // of these files
    std::string seen;      // state of the files when they were last examined; empty: missing
    // Why the files `seen` cannot be loaded. OK: they are those of `identity`. INVALID_ARGUMENT
    // stays until the files change; the cause of another error may go away.
    absl::Status files;
    Version* latest = nullptr;         // the last resolved version that is not a blend
    AdapterHold hold = AdapterHold();  // of `latest`
  };

  absl::StatusOr<AdapterImage> BuildFrom(const Content& content, std::string* content_name,
                                         const Part** unread) const;
  void NoteDamage(int32_t model, const Part& part, const absl::Status& damage);
  absl::Status CheckName(const AdapterSource& source) const;
  absl::StatusOr<Entry> NewEntry(const AdapterSource& source) const;
  void CheckFiles(const std::string& name);
  void Examine(const std::string& name);  // REQUIRES: the caller holds files_mutex_
  void CheckNextFiles();
  static void KeepWhatIsSame(Entry* old, Entry* fresh);
  // REQUIRES for the functions below: the caller holds mutex_.
  Entry* FindEntry(const std::string& name);
  absl::StatusOr<EntryId> FindEntry(int32_t model, const AdapterUse& use) const;
  absl::StatusOr<Content> ContentOf(int32_t model, absl::Span<const AdapterUse> uses,
                                    int32_t max_rank) const;
  absl::StatusOr<Version*> FindOrAdd(Content content);
  static ResolvedAdapter Resolved(Version* version);
  void ForgetUnheld();
  Version* version(AdapterId id) const;

  const std::vector<AdapterModel> models_;
  const AdapterRegistryOptions options_;
  std::mutex files_mutex_;  // taken before mutex_, and held while files are examined on disk
  mutable std::mutex mutex_;
  std::map<EntryId, Entry> entries_;  // in the order of registration
  EntryId next_entry_ = 0;            // an id is never reused
  absl::flat_hash_map<std::string, EntryId> by_name_;
  EntryId next_check_ = 0;  // the first entry that may be examined next; of watch_ only
  UnheldList unheld_;
  AdapterId next_id_ = 0;
  absl::flat_hash_map<AdapterId, std::unique_ptr<Version>> versions_;
  absl::flat_hash_map<absl::string_view, Version*> by_key_;  // versions_, by key
  std::map<AdapterId, Version*> blends_;                     // blends in versions_, oldest first
  std::atomic<int64_t> revision_{0};
  std::unique_ptr<FileWatch> watch_;  // null before the first registration
};

}  // namespace tessera

// The adapters that requests may use: their names, the folders of their files, and their versions
// in use. A version is one state of an adapter's files (size, time, inode). Changed files are a new
// version, so KV of the old version is never used for the new one. A blend is a version, too.
//
// A version exists while it has a hold (adapter_hold.h): of a request, of the store for an adapter
// in memory or being read, or of the registry for the latest version of a registered adapter. A
// version without a hold is forgotten. If it is requested again, it gets a new id and the same key,
// so its cached prefixes are found.
//
// Files are read when an adapter is loaded. The state of an adapter's files is examined when it is
// registered, and then regularly on the registry's own thread (1,000 adapters a second, in turn).
// Before that, requests get the old version of changed files, unless the adapter is registered
// again. Build examines the files too, so that a version is never loaded from other files.
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

struct AdapterSource {
  std::string name;
  std::string revision;  // the operator's name of this content; may be empty
  int32_t model = 0;
  std::string path;  // a folder in PEFT's layout
};

// One entry of a request's adapters.
struct AdapterUse {
  std::string name;
  std::string revision;         // empty: any revision
  std::optional<float> weight;  // unset: the weight is 1
};

struct AdapterRegistryOptions {
  // Time after which the registry's thread examines the files of the next 1,000 adapters. A smaller
  // value finds changed files sooner. 0: only CheckFilesNow examines files.
  int64_t check_interval_us = 1'000'000;
  // The largest number of versions that may be held at once.
  int64_t max_versions = int64_t{1} << 20;
  // Returns a string that changes when the files at `path` change. Only tests replace it.
  std::function<absl::StatusOr<std::string>(const std::string& path)> identity =
      IdentityOfAdapterFiles;
};

class AdapterRegistry final {
 public:
  struct Model {
    std::string name;
    ModelSpec spec;
    int64_t page_bytes = 0;
    DType dtype = DType::kBF16;  // dtype of adapters in the pool
  };

  explicit AdapterRegistry(std::vector<Model> models, AdapterRegistryOptions options = {})
      : models_(std::move(models)), options_(std::move(options)) {}
  // REQUIRES: no version has a hold outside the registry.
  ~AdapterRegistry();

  // Registers all sources, or none on an error, whose message names the adapter. Replaces adapters
  // that have the same names: later requests get the new files. Accesses the disk.
  absl::Status Register(const std::vector<AdapterSource>& sources);
  // The adapter folders directly in `path`, or `path` itself if it is an adapter folder. Each
  // adapter has the name of its folder. Accesses the disk.
  static absl::StatusOr<std::vector<AdapterSource>> FindSources(const std::string& path,
                                                                int32_t model);

  // Examines the files of all registered adapters on disk. Files that changed before the call are
  // new versions after it.
  void CheckFilesNow();

  // The current version of `uses`, re-compressed to at most `max_rank` (0: exact). NOT_FOUND names
  // an unknown adapter or a missing file. INVALID_ARGUMENT: the adapter is for another model.
  // RESOURCE_EXHAUSTED: too many versions are held.
  absl::StatusOr<ResolvedAdapter> Resolve(int32_t model, absl::Span<const AdapterUse> uses,
                                          int32_t max_rank = 0);
  // The model of a registered adapter.
  std::optional<int32_t> ModelOf(const std::string& name) const;

  // The registered adapters, then the blends in memory. The name of a blend is its recipe: its
  // adapters, their weights and the requested rank, as in "zorvan-1*0.6+keltish-1@v2*0.4:r8".
  std::vector<AdapterListing> List() const;
  // The blend of that recipe. Blends in memory are preferred, then newer ones. Returns id
  // kNoAdapter if no blend of that recipe is held.
  ResolvedAdapter FindBlend(const std::string& recipe);
  int64_t num_versions();  // number of versions that are held
  // A number that changes with every registration and every change of a version's state.
  int64_t revision() const { return revision_.load(std::memory_order_relaxed); }

  // Reads a version's files. FAILED_PRECONDITION: the files have changed; the registry then knows
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
  struct Part {
    size_t entry = 0;  // index in entries_
    std::string path;
    std::string identity;  // state of the files at `path`
    float weight = 1.0f;
  };
  // The immutable definition of a version.
  struct Content {
    int32_t model = 0;
    int32_t max_rank = 0;  // 0: exact
    std::vector<Part> parts;
    std::string key;
    std::string recipe;  // empty: the version is a registered adapter, not a blend
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
    absl::StatusOr<std::string> identity;  // state of its files when they were last examined
    Version* latest = nullptr;             // the last resolved version that is not a blend
    AdapterHold hold = AdapterHold();      // hold of `latest`
  };

  absl::StatusOr<AdapterImage> BuildFrom(const Content& content, std::string* content_name) const;
  void CheckFiles(size_t entry);
  void CheckNextFiles();
  // REQUIRES for the functions below: the caller holds mutex_.
  absl::StatusOr<size_t> FindEntry(int32_t model, const AdapterUse& use) const;
  absl::StatusOr<Content> ContentOf(int32_t model, absl::Span<const AdapterUse> uses,
                                    int32_t max_rank) const;
  absl::StatusOr<Version*> FindOrAdd(Content content);
  void ForgetUnheld();
  Version* version(AdapterId id) const;

  const std::vector<Model> models_;
  const AdapterRegistryOptions options_;
  std::mutex files_mutex_;  // taken before mutex_, and held while files are examined on disk
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;                        // in the order of registration
  absl::flat_hash_map<std::string, size_t> by_name_;  // index in entries_, by adapter name
  size_t next_check_ = 0;                             // index in entries_; used by watch_ only
  UnheldList unheld_;
  AdapterId next_id_ = 0;
  absl::flat_hash_map<AdapterId, std::unique_ptr<Version>> versions_;
  absl::flat_hash_map<absl::string_view, Version*> by_key_;  // versions_, by key
  std::map<AdapterId, Version*> blends_;                     // blends in versions_, oldest first
  std::atomic<int64_t> revision_{0};
  std::unique_ptr<FileWatch> watch_;  // null before the first registration
};

}  // namespace tessera

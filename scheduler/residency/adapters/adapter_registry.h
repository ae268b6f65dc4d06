// The adapters that requests may ask for: their names, where their files lie, and the versions of
// them that are in use. A version is what an adapter's files are now (size, time, inode): files
// that change make a new one, and what was computed with the old one is never mistaken for it. A
// blend is a version like any other, named by its recipe.
//
// A version lives while somebody holds it: a request, the store while the adapter is in memory or
// on its way there, the registry itself if it is the latest of a registered adapter. Then it is
// forgotten. Asked for again it has another id, but the same key, so its prefixes are found again.
//
// Files are read when an adapter is loaded. What they are is asked of the disk when an adapter is
// registered and then once a second on the registry's own thread (1,000 adapters a second, in
// turn), so requests may get an adapter's old version for as long after its files changed; whoever
// cannot wait registers it again. Loading checks again: it never gives a version other files.
//
// Thread-safe. The server registers and resolves, the loader builds, the engine reports states.
// Resolve, FindBlend and List never ask the disk.
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
  std::string revision;  // what the operator calls this content; may be empty
  int32_t model = 0;
  std::string path;  // a folder in PEFT's layout
};

// One entry of a request's adapters.
struct AdapterUse {
  std::string name;
  std::string revision;         // empty: any
  std::optional<float> weight;  // unset: 1
};

struct AdapterRegistryOptions {
  // How often the registry's own thread looks at the files of the next 1,000 adapters. Less:
  // changed files are seen sooner. 0: they are seen by CheckFilesNow alone.
  int64_t check_interval_us = 1'000'000;
  // That may be held at once. Far more than requests that wait and adapters that fit into memory.
  int64_t max_versions = int64_t{1} << 20;
  // What stays the same as long as the files at a path do; other than the disk's in tests alone.
  std::function<absl::StatusOr<std::string>(const std::string& path)> identity =
      IdentityOfAdapterFiles;
};

class AdapterRegistry final {
 public:
  struct Model {
    std::string name;
    ModelSpec spec;
    int64_t page_bytes = 0;
    DType dtype = DType::kBF16;  // of adapters in the pool
  };

  explicit AdapterRegistry(std::vector<Model> models, AdapterRegistryOptions options = {})
      : models_(std::move(models)), options_(std::move(options)) {}
  // REQUIRES: no holds are left.
  ~AdapterRegistry();

  // All or none. An adapter of that name and model is replaced: requests from now on get the new
  // files. Errors name the adapter: no such folder, a name that a model has. Asks the disk.
  absl::Status Register(const std::vector<AdapterSource>& sources);
  // The adapter folders directly in `path`, each named as its folder, or `path` itself when it is
  // one, named as it. Asks the disk.
  static absl::StatusOr<std::vector<AdapterSource>> FindSources(const std::string& path,
                                                                int32_t model);

  // Asks the disk about all registered adapters: files that changed before this was called are new
  // versions once it has returned.
  void CheckFilesNow();

  // The version that `uses` mean now, re-compressed to at most `max_rank` (0: exact). NOT_FOUND
  // names the adapter or its missing file; INVALID_ARGUMENT when it is for another model;
  // RESOURCE_EXHAUSTED when too many versions are in use at once.
  absl::StatusOr<ResolvedAdapter> Resolve(int32_t model, absl::Span<const AdapterUse> uses,
                                          int32_t max_rank = 0);
  // The model of a registered adapter.
  std::optional<int32_t> ModelOf(const std::string& name) const;

  // The registered adapters, then the blends that are in memory, named by their recipes: what they
  // are made of times its weight, and the rank asked for: "zorvan-1*0.6+keltish-1@v2*0.4:r8".
  std::vector<AdapterListing> List() const;
  // The blend of that recipe, rather one that is in memory, rather a newer one; id kNoAdapter: none
  // is in use.
  ResolvedAdapter FindBlend(const std::string& recipe);
  int64_t num_versions();  // in use
  // Changes with every registration and every change of a state.
  int64_t revision() const { return revision_.load(std::memory_order_relaxed); }

  // Reads a version's files. FAILED_PRECONDITION when they are no longer what they were; what they
  // are now is known then. Slow; loader threads. REQUIRES for these five: somebody holds it.
  absl::StatusOr<AdapterImage> Build(AdapterId id);
  // The hash of a version's content: its adapters' tensors, ranks and scales, the recipe, and the
  // dtype in the pool; not names, folders or times. Empty until the version was built.
  std::string ContentName(AdapterId id) const;
  AdapterHold Hold(AdapterId id) const;
  int32_t model(AdapterId id) const;
  // The engine's report on a version: written there, then announced. The address stays.
  AdapterStatus* status(AdapterId id) const;
  void AnnounceChange() { revision_.fetch_add(1, std::memory_order_relaxed); }

 private:
  struct Part {
    size_t entry = 0;  // index of entries_
    std::string path;
    std::string identity;  // of its files
    float weight = 1.0f;
  };
  // What a version is made of; never changes.
  struct Content {
    int32_t model = 0;
    int32_t max_rank = 0;  // 0: exact
    std::vector<Part> parts;
    std::string key;
    std::string recipe;  // empty: an adapter as it is registered, no blend
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
    absl::StatusOr<std::string> identity;  // of its files, when the disk was asked last
    Version* latest = nullptr;             // resolved alone, without a weight
    AdapterHold hold = AdapterHold();      // of `latest`
  };

  absl::StatusOr<AdapterImage> BuildFrom(const Content& content, std::string* content_name) const;
  void CheckFiles(size_t entry);
  void CheckNextFiles();
  // With mutex_ held:
  absl::StatusOr<size_t> FindEntry(int32_t model, const AdapterUse& use) const;
  absl::StatusOr<Content> ContentOf(int32_t model, absl::Span<const AdapterUse> uses,
                                    int32_t max_rank) const;
  absl::StatusOr<Version*> FindOrAdd(Content content);
  void ForgetUnheld();
  Version* version(AdapterId id) const;

  const std::vector<Model> models_;
  const AdapterRegistryOptions options_;
  std::mutex files_mutex_;  // taken before mutex_, held while the disk is asked what files are
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;                        // in order of registration
  absl::flat_hash_map<std::string, size_t> by_name_;  // index of entries_
  size_t next_check_ = 0;                             // index of entries_; the watch's alone
  UnheldList unheld_;
  AdapterId next_id_ = 0;
  absl::flat_hash_map<AdapterId, std::unique_ptr<Version>> versions_;
  absl::flat_hash_map<absl::string_view, Version*> by_key_;  // of versions_
  std::map<AdapterId, Version*> blends_;                     // of versions_, oldest first
  std::atomic<int64_t> revision_{0};
  std::unique_ptr<FileWatch> watch_;  // from the first registration on
};

}  // namespace tessera

// The adapters that requests may ask for: their names, where their files lie, and which versions
// were asked for so far. Files are read when an adapter is loaded, not when it is registered. A
// version is what its files are now (size, time, inode): files that change make a new one, and what
// was computed with the old one is never mistaken for it. A blend is a version like any other,
// named by its recipe.
//
// Thread-safe. The server registers and resolves, the loader builds, the engine reports states.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/model/lora/peft.h"
#include "kernels/model/model_spec.h"
#include "scheduler/residency/adapters/adapter_id.h"

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

enum class AdapterResidency : int32_t { kDisk = 0, kHost = 1, kPool = 2 };

// What the engine reports of a version; atomics, so that it never waits for who lists them.
struct AdapterStatus {
  std::atomic<AdapterResidency> residency{AdapterResidency::kDisk};
  std::atomic<bool> pinned{false};
  std::atomic<int32_t> rank{0};
  std::atomic<int64_t> bytes{0};
  std::atomic<int64_t> last_use_us{0};
  std::atomic<int64_t> num_running{0};
};

struct AdapterListing {
  std::string name;
  std::string revision;
  int32_t model = 0;
  AdapterResidency residency = AdapterResidency::kDisk;
  bool pinned = false;
  int32_t rank = 0;         // the largest; 0 until it was loaded once
  int64_t bytes = 0;        // in the pool; 0 until it was loaded once
  int64_t last_use_us = 0;  // Clock; 0: never
  int64_t num_running = 0;  // sequences
};

class AdapterRegistry final {
 public:
  struct Model {
    std::string name;
    ModelSpec spec;
    int64_t page_bytes = 0;
    DType dtype = DType::kBF16;  // of adapters in the pool
  };

  explicit AdapterRegistry(std::vector<Model> models) : models_(std::move(models)) {}

  // All or none. An adapter of that name and model is replaced: requests from now on get the new
  // files. Errors name the adapter: no such folder, a name that a model has.
  absl::Status Register(const std::vector<AdapterSource>& sources);
  // The adapter folders directly in `path`, each named as its folder, or `path` itself when it is
  // one, named as it.
  static absl::StatusOr<std::vector<AdapterSource>> FindSources(const std::string& path,
                                                                int32_t model);

  // The version that `uses` mean now, re-compressed to at most `max_rank` (0: exact). NOT_FOUND
  // names the adapter; INVALID_ARGUMENT when it is for another model.
  absl::StatusOr<ResolvedAdapter> Resolve(int32_t model, absl::Span<const AdapterUse> uses,
                                          int32_t max_rank = 0);
  // The model of a registered adapter.
  std::optional<int32_t> ModelOf(const std::string& name) const;

  // The registered adapters, then the blends that are in memory, named by their recipes: what they
  // are made of times its weight, and the rank asked for: "zorvan-1*0.6+keltish-1@v2*0.4:r8".
  std::vector<AdapterListing> List() const;
  // The blend of that recipe, rather one that is in memory, rather a newer one; kNoAdapter: none
  // was asked for.
  AdapterId FindBlend(const std::string& recipe) const;
  // Changes with every registration and every change of a state.
  int64_t revision() const { return revision_.load(std::memory_order_relaxed); }

  // Reads a version's files. FAILED_PRECONDITION when they are no longer what they were. Slow;
  // loader threads.
  absl::StatusOr<AdapterImage> Build(AdapterId id) const;
  int32_t model(AdapterId id) const;

  // The engine's report on a version: written there, then announced. The address stays.
  AdapterStatus* status(AdapterId id);
  void AnnounceChange() { revision_.fetch_add(1, std::memory_order_relaxed); }

 private:
  struct Part {
    std::string path;
    std::string identity;  // of its files
    float weight = 1.0f;
  };
  struct Version {
    int32_t model = 0;
    int32_t max_rank = 0;  // 0: exact
    std::vector<Part> parts;
    std::string recipe;  // empty: an adapter as it is registered, no blend
    AdapterStatus status;
  };
  struct Entry {
    AdapterSource source;
    AdapterId latest = kNoAdapter;  // resolved alone, without a weight
  };

  // Where the files of the uses lie, as registered now.
  absl::StatusOr<std::vector<AdapterSource>> Find(int32_t model,
                                                  absl::Span<const AdapterUse> uses) const;
  const Version& version(AdapterId id) const;

  const std::vector<Model> models_;
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;                          // in order of registration
  absl::flat_hash_map<std::string, size_t> by_name_;    // index of entries_
  std::deque<Version> versions_;                        // by AdapterId; addresses stay
  absl::flat_hash_map<std::string, AdapterId> by_key_;  // of versions_
  std::vector<AdapterId> blends_;                       // of versions_, oldest first
  std::atomic<int64_t> revision_{0};
};

}  // namespace tessera

// Which adapters lie in the page pool: S-LoRA's unified paging (arXiv 2311.03285) with one state
// machine per adapter. An adapter is read from disk by the loader, gets pages of the KV page pool,
// is copied there, and stays until its pages are worth more to others. Images of what left the pool
// stay in host memory up to a bound, so that coming back is a copy.
//
//   (absent) -> reading -> in host memory -> copying -> in the pool -> in host memory or absent
//
// Owned by the engine core; engine thread only. The loader's threads report through the engine's
// inbox.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/clock.h"
#include "kernels/step/adapter_layout.h"
#include "kvstore/kv_manager.h"
#include "scheduler/residency/adapters/adapter_registry.h"

namespace tessera {

// What the engine has done elsewhere. Neither blocks; the store hears of the end by OnRead and
// OnCopied.
class AdapterLoader {
 public:
  virtual ~AdapterLoader() = default;
  virtual void Read(AdapterId id) = 0;
  // Writes the image's pages to `pages` of the pool. `image` stays until OnCopied.
  virtual void Copy(AdapterId id, const AdapterImage* image, std::vector<PageId> pages) = 0;
};

struct AdapterStoreOptions {
  // Bytes of images kept in host memory beside those that are being copied. More: adapters that
  // left the pool come back faster.
  int64_t host_bytes = int64_t{1} << 30;
};

class AdapterStore final {
 public:
  AdapterStore(const AdapterStoreOptions& options, AdapterRegistry* registry, KvManager* kv,
               AdapterLoader* loader, const Clock* clock);

  enum class Access {
    kReady,    // in the pool
    kLoading,  // on its way
    kNoRoom,   // in host memory; the pool has no pages for it beside `reserve_slabs`
  };
  // Brings an adapter closer to the pool. `alone`: nothing runs, so what has no room now never
  // will: that is a failure (see TakeFailures).
  Access Want(AdapterId id, int64_t reserve_slabs, bool alone);
  bool IsReady(AdapterId id) const;

  // A running sequence uses it: it stays. REQUIRES: IsReady.
  void Acquire(AdapterId id);
  void Release(AdapterId id);
  // For its worth: a sequence began to use it.
  void CountUse(AdapterId id);

  // REQUIRES: IsReady.
  const AdapterLayout& layout(AdapterId id) const { return entries_.at(id).image->layout; }
  // That it takes in the pool. REQUIRES: ready, or held.
  int64_t slabs(AdapterId id) const { return entries_.at(id).slabs; }
  const std::vector<PageId>& pages(AdapterId id) const { return entries_.at(id).pages; }

  // Operators. A pinned adapter is loaded and stays. Unloading waits for the sequences that run.
  void Pin(AdapterId id);
  void Unpin(AdapterId id);
  void Unload(AdapterId id);

  // The loader's reports.
  void OnRead(AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us);
  void OnCopied(AdapterId id);

  // Adapters that could not be loaded since the last call: what waits for them fails.
  std::vector<std::pair<AdapterId, absl::Status>> TakeFailures();

  // Gives up an idle adapter's pages, the one that is worth least: what bringing its pages back
  // costs, times how often it was used, by how long ago. Unless `must`, only one that is worth less
  // than `kv_us_per_slab` by `kv_idle_ticks`, the price of the pages that would go instead. False:
  // there is none.
  bool Reclaim(bool must, double kv_us_per_slab, uint64_t kv_idle_ticks);

  int64_t num_loads() const { return num_loads_; }
  int64_t num_evictions() const { return num_evictions_; }
  // CHECK-fails unless pages, counts and lists agree.
  void CheckInvariants() const;

 private:
  enum class State { kReading, kHost, kCopying, kPool };
  struct Entry {
    State state = State::kReading;
    AdapterHold hold;                 // the registry knows it as long as it is here
    AdapterStatus* status = nullptr;  // the registry's
    int32_t model = 0;
    int64_t slabs = 0;                    // that it takes in the pool, from kHost on
    std::unique_ptr<AdapterImage> image;  // but for its pages' bytes, from kHost on
    int64_t image_bytes = 0;              // 0 once they were dropped
    std::vector<PageId> pages;
    int32_t num_running = 0;
    bool pinned = false;
    bool unload = false;  // as soon as nobody uses it
    double uses = 0.0;
    double cost_us = 0.0;  // of bringing it back
    uint64_t last_use_ticks = 0;
    std::list<AdapterId>::iterator host;  // in host_order_ while image_bytes > 0
  };

  Entry& BeginRead(AdapterId id);
  Access PlaceInPool(AdapterId id, Entry* entry, int64_t reserve_slabs, bool alone);
  void Fail(AdapterId id, absl::Status status);
  void Evict(AdapterId id);
  void DropImage(Entry* entry);
  // Drops images, least recently used first, to keep the bound; never `keep`'s nor pinned ones.
  void TrimHost(AdapterId keep);
  void Forget(AdapterId id);
  void Report(const Entry& entry);
  void CountRunning(Entry* entry, int32_t change);
  bool IsIdle(const Entry& entry) const;

  const AdapterStoreOptions options_;
  AdapterRegistry* const registry_;
  KvManager* const kv_;
  AdapterLoader* const loader_;
  const Clock* const clock_;
  absl::flat_hash_map<AdapterId, Entry> entries_;
  std::list<AdapterId> host_order_;  // least recently used first
  int64_t host_bytes_ = 0;
  std::vector<std::pair<AdapterId, absl::Status>> failures_;
  int64_t num_reading_ = 0;
  int64_t num_copying_ = 0;
  int64_t num_loads_ = 0;
  int64_t num_evictions_ = 0;
};

}  // namespace tessera

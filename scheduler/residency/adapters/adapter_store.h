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
#include <list>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/clock.h"
#include "kernels/step/adapter_layout.h"
#include "kvstore/kv_manager.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "scheduler/residency/page_owner.h"

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

class AdapterStore final : public PageOwner {
 public:
  AdapterStore(const AdapterStoreOptions& options, AdapterRegistry* registry, KvManager* kv,
               AdapterLoader* loader, const Clock* clock);

  enum class Access {
    kReady,    // in the pool
    kLoading,  // on its way: TakeChanges tells when to ask again
    kBusy,     // too many others are being read
    kInHost,   // in host memory: Place brings it to the pool
  };
  // Brings an adapter closer to the pool.
  Access Want(AdapterId id);
  // Pages that Place would take; 0 when it is not in host memory.
  int64_t PagesToPlace(AdapterId id) const;
  // Gives an adapter in host memory pages of the pool and has it copied there. False: the pool has
  // none for it. REQUIRES: Want answered kInHost.
  bool Place(AdapterId id);
  // There will never be room for it. REQUIRES: as Place.
  void FailForRoom(AdapterId id);
  bool IsReady(AdapterId id) const;

  // A running sequence uses it: it stays. REQUIRES: IsReady.
  void Acquire(AdapterId id);
  void Release(AdapterId id);
  // REQUIRES: IsReady.
  const AdapterLayout& layout(AdapterId id) const { return entries_.at(id).image->layout; }
  // REQUIRES: wanted before, and no change was told of since.
  int32_t model(AdapterId id) const { return entries_.at(id).model; }
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

  // Adapters that were read, copied, evicted, forgotten, or that failed (a status that is not OK)
  // since the last call: whoever waits for one asks again, or fails.
  std::vector<std::pair<AdapterId, absl::Status>> TakeChanges();

  // A sequence waits that needs the adapter, or does so no more. Those that nobody waits for are
  // given up first.
  void AddWaiter(AdapterId id) { ++awaited_[id]; }
  void DropWaiter(AdapterId id);
  // Idle adapters: in the pool, used by nobody, not pinned. The one that is worth least: what
  // bringing its pages back costs, times how often it was used, by how long ago.
  std::optional<double> LeastWorth(int32_t model) const override;
  void GiveUp(int32_t model) override;
  int64_t num_idle() const { return static_cast<int64_t>(idle_.size()); }
  bool IsIdle(AdapterId id) const;
  // Pages of the model's size that giving up all idle adapters would free, at least.
  int64_t NumIdlePages(int32_t model) const;
  // Of them, those of adapters that are awaited. Linear in the idle ones.
  int64_t NumAwaitedPages(int32_t model) const;
  // And that one adapter's; 0 unless it is idle.
  int64_t NumIdlePages(AdapterId id, int32_t model) const;
  // Slabs of all idle adapters, in pages of any size.
  int64_t NumIdleSlabs() const;
  int64_t num_copying() const { return num_copying_; }

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
    double cost_us = 0.0;     // of bringing it back
    int32_t idle_index = -1;  // in idle_; -1: not there
    uint64_t last_use_ticks = 0;
    std::list<AdapterId>::iterator host;  // in host_order_ while image_bytes > 0
  };

  Entry& BeginRead(AdapterId id);
  void Fail(AdapterId id, absl::Status status);
  void Evict(AdapterId id);
  void DropImage(Entry* entry);
  // Drops images, least recently used first, to keep the bound; never `keep`'s nor pinned ones.
  void TrimHost(AdapterId keep);
  void Forget(AdapterId id);
  void Report(const Entry& entry);
  void CountRunning(Entry* entry, int32_t change);
  // Puts an adapter into the list of idle ones, or takes it out, as its state asks.
  void FileIdle(AdapterId id, Entry* entry);
  AdapterId Cheapest(double* worth) const;
  int64_t PagesOf(int64_t num_pages, int32_t of_model, int32_t in_model) const;

  const AdapterStoreOptions options_;
  AdapterRegistry* const registry_;
  KvManager* const kv_;
  AdapterLoader* const loader_;
  const Clock* const clock_;
  absl::flat_hash_map<AdapterId, Entry> entries_;
  absl::flat_hash_map<AdapterId, int64_t> awaited_;  // waiting sequences
  std::list<AdapterId> host_order_;                  // least recently used first
  int64_t host_bytes_ = 0;
  std::vector<AdapterId> idle_;      // unordered
  std::vector<int64_t> idle_pages_;  // [models], each in pages of its own size
  std::vector<std::pair<AdapterId, absl::Status>> changes_;
  int64_t num_reading_ = 0;
  int64_t num_copying_ = 0;
  int64_t num_loads_ = 0;
  int64_t num_evictions_ = 0;
};

}  // namespace tessera

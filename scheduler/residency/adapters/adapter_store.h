// The adapters in the page pool: S-LoRA's unified paging (arXiv 2311.03285) with one state machine
// per adapter. The loader reads an adapter from disk into host memory. The store then allocates
// pages of the KV page pool for it, and the loader copies it there. The adapter stays in the pool
// until it is evicted. Images of adapters stay in host memory up to a bound, so that an evicted
// adapter can be copied back without reading the disk.
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

// The slow work of the store, done on other threads. Read and Copy do not block; the engine reports
// their ends to the store by OnRead and OnCopied.
class AdapterLoader {
 public:
  virtual ~AdapterLoader() = default;
  virtual void Read(AdapterId id) = 0;
  // Writes the image to the pages `pages` of the pool. REQUIRES: `image` exists until OnCopied.
  virtual void Copy(AdapterId id, const AdapterImage* image, std::vector<PageId> pages) = 0;
};

struct AdapterStoreOptions {
  // The largest number of bytes of adapter images in host memory, except the images that are pinned
  // or being copied. With a larger value, more evicted adapters need no reading from disk.
  int64_t host_bytes = int64_t{1} << 30;
  // The largest number of these images. It bounds the memory of the records of many small blends.
  int64_t max_host_images = 32'768;
  // The time after which a read from disk fails for those who wait for it. A file system may hang,
  // and a read cannot be interrupted.
  int64_t max_read_us = 60'000'000;
};

class AdapterStore final : public PageOwner {
 public:
  AdapterStore(const AdapterStoreOptions& options, AdapterRegistry* registry, KvManager* kv,
               AdapterLoader* loader, const Clock* clock);

  enum class Access {
    kReady,    // the adapter is in the pool
    kLoading,  // the adapter is being read or copied; TakeChanges reports when to ask again
    kBusy,     // too many other adapters are being read
    kInHost,   // the adapter is in host memory; Place copies it to the pool
  };
  // Starts to read the adapter if it is absent, and returns where it is.
  Access Want(AdapterId id);
  // The number of pages that Place would take; 0 if the adapter is not in host memory.
  int64_t PagesToPlace(AdapterId id) const;
  // Allocates pool pages for an adapter that is in host memory, and starts to copy the adapter to
  // these pages. Returns false if the pool has too few pages. REQUIRES: Want returned kInHost.
  bool Place(AdapterId id);
  // Fails the adapter because the pool can never have room for it. REQUIRES: as Place.
  void FailForRoom(AdapterId id);
  bool IsReady(AdapterId id) const;

  // A running sequence starts or stops to use the adapter, which is not evicted meanwhile. Acquire
  // REQUIRES: IsReady.
  void Acquire(AdapterId id);
  void Release(AdapterId id);
  // REQUIRES: IsReady.
  const AdapterLayout& layout(AdapterId id) const { return entries_.at(id).image->layout; }
  // REQUIRES: Want was called for the adapter, and TakeChanges has not reported it since.
  int32_t model(AdapterId id) const { return entries_.at(id).model; }
  // The number of slabs that the adapter takes in the pool. REQUIRES: the adapter is ready or held.
  int64_t slabs(AdapterId id) const { return entries_.at(id).slabs; }
  const std::vector<PageId>& pages(AdapterId id) const { return entries_.at(id).pages; }

  // Calls of operators. A pinned adapter is loaded and not evicted. An adapter is unloaded after
  // the running sequences that use it have released it; a retired adapter (adapter_status.h) also
  // waits for the sequences that wait for it. Unload does nothing to a pinned adapter, unless
  // `unpin` or the adapter is retired.
  void Pin(AdapterId id);
  void Unpin(AdapterId id);
  void Unload(AdapterId id, bool unpin);

  // The time at which the oldest read reaches its limit; -1: nothing is being read.
  int64_t NextReadLimitUs() const;
  // Fails the adapters whose reads have reached the limit. The loader may still end such a read: a
  // new demand for the adapter waits for it, and its result is dropped otherwise.
  void FailLateReads();

  // Reports of the loader.
  void OnRead(AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us);
  void OnCopied(AdapterId id);

  // The adapters that were read, copied, evicted or forgotten since the last call (OK), and those
  // that failed (another status). The sequences that wait for these adapters must ask again, or
  // fail.
  std::vector<std::pair<AdapterId, absl::Status>> TakeChanges();

  // A sequence that needs the adapter starts or stops to wait. Idle adapters without a waiting
  // sequence are evicted before the others.
  void AddWaiter(AdapterId id) { ++awaited_[id]; }
  void DropWaiter(AdapterId id);
  // An adapter is idle if it is in the pool, no running sequence uses it and it is not pinned. The
  // worth of an idle adapter is the time to read one of its slabs, times the number of its uses,
  // divided by its idle time.
  std::optional<double> LeastWorth(int32_t model) const override;
  void GiveUp(int32_t model) override;
  int64_t num_idle() const { return static_cast<int64_t>(idle_.size()); }
  bool IsIdle(AdapterId id) const;
  // The number of pages of the model's size that evicting all idle adapters would free at least.
  int64_t NumIdlePages(int32_t model) const;
  // The part of NumIdlePages(model) that belongs to adapters with a waiting sequence. Takes linear
  // time in the number of idle adapters.
  int64_t NumAwaitedPages(int32_t model) const;
  // The part of NumIdlePages(model) that belongs to one adapter; 0 unless the adapter is idle.
  int64_t NumIdlePages(AdapterId id, int32_t model) const;
  // The number of slabs of all idle adapters, in pages of any size.
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
    AdapterHold hold;                 // keeps the version known to the registry
    AdapterStatus* status = nullptr;  // the registry's status of the version, which is updated here
    int32_t model = 0;
    int64_t read_begin_us = 0;  // in kReading: when somebody first asked for it
    int64_t slabs = 0;          // number of slabs that the adapter takes in the pool; 0 in kReading
    // Null in kReading. DropImage frees the bytes of its pages and keeps its layout.
    std::unique_ptr<AdapterImage> image;
    int64_t image_bytes = 0;    // number of bytes of the image's pages in host memory
    std::vector<PageId> pages;  // pages in the pool, in kCopying and kPool
    int32_t num_running = 0;    // number of running sequences that use the adapter
    bool pinned = false;
    bool unload = false;          // the adapter is removed when no running sequence uses it
    double uses = 0.0;            // number of calls of Acquire
    double cost_us = 0.0;         // time of reading the adapter from disk
    int32_t idle_index = -1;      // position in idle_; -1: not idle
    uint64_t last_use_ticks = 0;  // KvManager::ticks when the last sequence released the adapter
    std::list<AdapterId>::iterator host;  // position in host_order_ while image_bytes > 0
  };

  Entry& BeginRead(AdapterId id);
  void Fail(AdapterId id, absl::Status status);
  void Evict(AdapterId id);
  void DropImage(Entry* entry);
  // Drops images, least recently used first, until host memory is within its bound. Keeps the
  // images of `keep`, of pinned adapters and of adapters that are being copied.
  void TrimHost(AdapterId keep);
  void Forget(AdapterId id);
  void UnloadRetired();
  void MarkUnload(AdapterId id);
  static bool IsRetired(const Entry& entry);
  bool IsHostFull() const;
  void Report(const Entry& entry);
  void CountRunning(Entry* entry, int32_t change);
  // Adds an adapter to idle_ if it is idle, and removes it if it is not.
  void FileIdle(AdapterId id, Entry* entry);
  // The idle adapter that is evicted next, with its worth; kNoAdapter: no adapter is idle.
  AdapterId Cheapest(double* worth) const;
  int64_t PagesOf(int64_t num_pages, int32_t of_model, int32_t in_model) const;

  const AdapterStoreOptions options_;
  AdapterRegistry* const registry_;
  KvManager* const kv_;
  AdapterLoader* const loader_;
  const Clock* const clock_;
  absl::flat_hash_map<AdapterId, Entry> entries_;
  // The holds of adapters whose reads have failed because of their time and still run.
  absl::flat_hash_map<AdapterId, AdapterHold> late_reads_;
  absl::flat_hash_map<AdapterId, int64_t> awaited_;  // number of waiting sequences, by adapter
  std::list<AdapterId> host_order_;  // adapters with an image in host memory, least recent first
  int64_t host_bytes_ = 0;           // sum of Entry::image_bytes
  std::vector<AdapterId> idle_;      // idle adapters, in no order
  std::vector<int64_t> idle_pages_;  // [models]: pages of idle adapters, of each model's own size
  std::vector<std::pair<AdapterId, absl::Status>> changes_;
  std::vector<AdapterId> retired_;  // retired adapters that a sequence has stopped to use or await
  std::vector<AdapterId> reading_;  // adapters in kReading, in the order of read_begin_us
  int64_t num_copying_ = 0;
  int64_t num_loads_ = 0;
  int64_t num_evictions_ = 0;
};

}  // namespace tessera

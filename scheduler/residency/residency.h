// A need is what must be in the page pool before a sequence may run; so far every need is a version
// of an adapter. Residency tracks which needs are in the pool, loads needs, and chooses the pages
// that are evicted for a need. The scheduler knows needs, not adapters: the scheduler asks whether
// a need is ready, asks to load a need, and learns from TakeChanges when to ask again. A need is
// loaded into pages that no step reads yet, and the end of the load is a message in the engine's
// inbox. No thread polls.
//
// Unused pages that may be evicted have owners (page_owner.h). MakeRoom evicts pages of the owner
// whose pages are worth least. KvManager and PagePool never call Residency.
//
// Owned by the engine core; engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kvstore/kv_manager.h"
#include "scheduler/residency/adapters/adapter_id.h"
#include "scheduler/residency/page_owner.h"

namespace tessera {

class AdapterStore;

// The id of a need. A sequence holds its need while the sequence runs.
using NeedId = AdapterId;
inline constexpr NeedId kNoNeed = kNoAdapter;

enum class NeedState : int32_t {
  kReady,    // the need is in the pool
  kLoading,  // the need is being loaded; TakeChanges reports when to ask again
  kBusy,     // too many other needs are being read: ask again in a later round
  kNoRoom,   // the pool has too few pages for the need beside the reserve
};

struct NeedChange {
  NeedId id = kNoNeed;
  absl::Status status;  // not OK: the need cannot be loaded, and its waiting sequences fail
};

class Residency final {
 public:
  // `adapters` may be null if no sequence has a need. `kv` and `adapters` outlive the residency.
  Residency(KvManager* kv, AdapterStore* adapters, size_t num_models);
  ~Residency();

  // A sequence without a need is always ready.
  bool IsReady(NeedId id) const;
  // The number of pages of the need's model that Want would take now because the need is in host
  // memory. 0 if the need is ready, is being loaded, or is not read yet.
  int64_t PagesToPlace(NeedId id) const;
  // Starts the next part of loading the need: reading it, or copying it to the pool. The copy
  // leaves `reserve_slabs` for running sequences. `alone`: no sequence runs, so no further pages
  // will become free. If `alone` is true and the pool has no room for the need, the need fails, and
  // TakeChanges reports the error.
  NeedState Want(NeedId id, int64_t reserve_slabs, bool alone);
  // The needs whose state changed since the last call. The sequences that wait for these needs must
  // ask again.
  std::vector<NeedChange> TakeChanges();

  // A sequence that has the need starts or stops to wait. Among idle needs (in the pool, but held
  // by no running sequence), those without a waiting sequence are evicted first. No-ops for
  // kNoNeed.
  void AddWaiter(NeedId id);
  void DropWaiter(NeedId id);
  // A running sequence starts or stops to hold its need. Acquire REQUIRES: IsReady. No-ops for
  // kNoNeed.
  void Acquire(NeedId id);
  void Release(NeedId id);
  // The number of slabs that the need takes in the pool. REQUIRES: the need is ready or held.
  int64_t slabs(NeedId id) const;

  // Evicts pages until `num_fresh` pages of the model's size are free. Returns whether
  // `num_required` pages are free or cached afterwards. Evicts the cheapest pages of all owners
  // first. Evicts idle needs that are worth more than cached prefixes only if `num_required` pages
  // cannot be had otherwise. On false nothing changed, with one exception: idle needs in smaller
  // pages may be evicted if their slabs would have been enough.
  // REQUIRES: num_fresh <= num_required.
  bool MakeRoom(int32_t model, int64_t num_fresh, int64_t num_required);
  // The number of pages of the model's size that are free, cached, or held by idle needs. Idle
  // needs in smaller pages are not counted, because they may not free whole pages.
  int64_t AvailablePages(int32_t model) const;
  // The part of AvailablePages that idle needs of waiting sequences hold.
  int64_t AwaitedPages(int32_t model) const;
  // The number of pages that Acquire of the need would take out of AvailablePages.
  int64_t IdlePages(NeedId id, int32_t model) const;
  // Whether an idle need other than `but` could be evicted.
  bool HasIdleNeeds(NeedId but = kNoNeed) const;
  // Whether a need is being copied to pages that cannot be evicted before the copy has ended.
  bool IsPlacing() const;

  // Sets the predicted microseconds to compute a slab of the model's cached KV again. The scheduler
  // calls it after each step.
  void SetRecomputeUs(int32_t model, double us_per_slab);

 private:
  class CachedPrefixes;

  // Returns false if even evicting all unused pages could not free so many pages of the model.
  bool MayHave(int32_t model, int64_t num_pages) const;

  KvManager* const kv_;
  AdapterStore* const adapters_;
  const std::unique_ptr<CachedPrefixes> prefixes_;
};

}  // namespace tessera

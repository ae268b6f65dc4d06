// What must be in the page pool before a sequence may run, and who gives way for it. The scheduler
// knows needs, not adapters: it asks whether a need is ready, wants it, and is told when to ask
// again. A need that is on its way arrives in pages that nobody reads yet, and its end comes
// through the engine's inbox: nobody waits in a loop.
//
// Pages that nobody uses have owners (page_owner.h). MakeRoom takes pages from the owner whose
// pages are worth least; KvManager and PagePool never call up.
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

// A need that a sequence holds while it runs: a version of an adapter.
using NeedId = AdapterId;
inline constexpr NeedId kNoNeed = kNoAdapter;

enum class NeedState : int32_t {
  kReady,    // in the pool
  kLoading,  // on its way: TakeChanges tells when to ask again
  kBusy,     // not begun, because too many others are being read: ask again in a later round
  kNoRoom,   // the pool has no pages for it beside the reserve
};

struct NeedChange {
  NeedId id = kNoNeed;
  absl::Status status;  // not OK: it cannot be brought; whoever waits for it fails
};

class Residency final {
 public:
  // `adapters` may be null: no sequence has needs then. Both outlive the residency.
  Residency(KvManager* kv, AdapterStore* adapters, size_t num_models);
  ~Residency();

  // A sequence without a need is always ready.
  bool IsReady(NeedId id) const;
  // Pages of the need's model that Want would take now, because its bytes wait in host memory; 0
  // when it is ready, on its way, or not read yet.
  int64_t PagesToPlace(NeedId id) const;
  // Brings a need nearer to the pool, with `reserve_slabs` left for what runs. `alone`: nothing
  // runs, so what has no room now never will: that is a failure (a change).
  NeedState Want(NeedId id, int64_t reserve_slabs, bool alone);
  // Needs that moved since the last call: whoever waits for one asks again.
  std::vector<NeedChange> TakeChanges();

  // A sequence waits that has the need, or does so no more. Idle needs that nobody waits for are
  // given up first. No-ops for kNoNeed.
  void AddWaiter(NeedId id);
  void DropWaiter(NeedId id);
  // A running sequence holds its need. REQUIRES: IsReady. No-ops for kNoNeed.
  void Acquire(NeedId id);
  void Release(NeedId id);
  // Slabs that the need takes in the pool. REQUIRES: ready or held.
  int64_t slabs(NeedId id) const;

  // Frees pages until `num_fresh` of the model's pages are free, and answers whether
  // `num_required` can be had (free or cached). Takes the cheapest first, from all owners; pages
  // that are worth more than cached prefixes only as far as `num_required` demands it. On false
  // nothing changed, but that idle needs may be gone when some lie in smaller pages and the slabs
  // would have been enough. REQUIRES: num_fresh <= num_required.
  bool MakeRoom(int32_t model, int64_t num_fresh, int64_t num_required);
  // Pages of the model's size that could be had now: free, cached, or held by idle needs. Idle
  // needs in smaller pages are not counted: they may not free whole pages.
  int64_t AvailablePages(int32_t model) const;
  // Of them, those of idle needs that waiting sequences have.
  int64_t AwaitedPages(int32_t model) const;
  // What Acquire would take out of AvailablePages.
  int64_t IdlePages(NeedId id, int32_t model) const;
  // Whether some owner beside the cached prefixes has something to give up, `but` for one need.
  bool HasIdleNeeds(NeedId but = kNoNeed) const;
  // Whether a need is being copied to pages that nobody can take meanwhile.
  bool IsPlacing() const;

  // Microseconds that it costs to compute a slab of cached KV again. From the cost model, after
  // steps.
  void SetRecomputeUs(int32_t model, double us_per_slab);

 private:
  class CachedPrefixes;

  // False: not even all that could be given up makes so many pages of the model's size.
  bool MayHave(int32_t model, int64_t num_pages) const;

  KvManager* const kv_;
  AdapterStore* const adapters_;
  const std::unique_ptr<CachedPrefixes> prefixes_;
};

}  // namespace tessera

// The paged KV store of one device: which pages hold which tokens, which pages can be reused, and
// which may be evicted. It knows page indices and hashes, never tensors. The scheduler sees six
// verbs: Match, Admit, Grow, Advance, Release, TakePageOps. A plan asks by the const verbs and
// writes a KvScratch (kv_state.h); its commit calls the others. The engine returns what TakePageOps
// handed out by ReleasePageOps.
//
// Pages are equal byte ranges of one pool for all models (page_pool.h); a model's layers are split
// into KV groups with a page table each. Whole pages, written by prefill or by decode, are found
// again by a chained hash (prefix_index.h) whose root names everything that their contents depend
// on. A prefix hits only if every group has its pages; a group with a window needs only the
// pages that the next token can still see. Unreferenced pages stay until they are evicted, least
// recently used first; a sequence's last pages are evicted before its first. Page tables are
// append-only: if another sequence has published the same contents, a page stays private.
//
// Owned by the engine, used on the engine thread only: no locks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "kernels/base/types.h"
#include "kernels/step/batch.h"
#include "kernels/step/page_layout.h"
#include "kvstore/kv_state.h"
#include "kvstore/page_hash.h"

namespace tessera {

class KvManager {
 public:
  virtual ~KvManager() = default;

  // Returns the model's index, used in KvState::model. REQUIRES: layout.slab_bytes is the pool's;
  // before any Admit.
  virtual int32_t AddModel(const PageLayout& layout) = 0;

  // Answers how many of `tokens` are reusable. Extends the names in the state as a memo; changes
  // nothing else. With a scratch, answers for the store after the plan is committed. REQUIRES:
  // !state->admitted; `tokens` extends what the state was asked about before.
  virtual KvMatch Match(KvState* state, absl::Span<const TokenId> tokens,
                        const KvScratch* scratch) const = 0;
  KvMatch Match(KvState* state, absl::Span<const TokenId> tokens) const {
    return Match(state, tokens, nullptr);
  }
  // Adds to the scratch the changes that Admit of the same state and tokens will make. REQUIRES:
  // `match` is what Match answered for them; neither store nor scratch has changed since.
  virtual void Foresee(KvState* state, absl::Span<const TokenId> tokens, const KvMatch& match,
                       KvScratch* scratch) const = 0;

  // Takes the pages that Match finds: they are not evicted while the state holds them. Afterwards
  // state->num_tokens is the hit, and the whole pages of `tokens` beyond it are announced. A hit
  // that needs a class bounds state->exact_tokens by its exact part and sets state->kv_class.
  // Takes no page for tokens beyond the hit, see Grow. REQUIRES: !state->admitted.
  virtual void Admit(KvState* state, absl::Span<const TokenId> tokens) = 0;

  // Makes room for tokens [0, num_tokens) in all groups; evicts as needed. On false nothing
  // changed.
  virtual bool Grow(KvState* state, int64_t num_tokens) = 0;

  // Says that KV of tokens [0, num_tokens) is written (`tokens` holds at least these). Publishes
  // pages that became whole, withdraws their announcements, gives back pages that left a window.
  // REQUIRES: room was granted; num_tokens does not decrease.
  virtual void Advance(KvState* state, absl::Span<const TokenId> tokens, int64_t num_tokens) = 0;

  // KV of tokens from `from_token` on is approximate from now on (lossy or reused KV, and all that
  // is computed on it). Bounds state->exact_tokens; withdraws the exact announcements of pages
  // beyond, and announces them in the class instead. kv_class: an index in state->accepted, or
  // kNoKvClass, which keeps these pages private. Pages that are written already keep their names.
  // REQUIRES: admitted; `tokens` are those of Admit or more; if KV of the state is approximate
  // already, its class.
  virtual void MarkApproximate(KvState* state, absl::Span<const TokenId> tokens, int64_t from_token,
                               int32_t kv_class) = 0;

  // Gives all pages back, those of the last tokens first, and withdraws announcements. Published
  // pages stay findable until they are evicted. The state keeps its roots and hashes and is as new
  // otherwise: Admit sets exact_tokens again by what it takes. No-op when not admitted.
  virtual void Release(KvState* state) = 0;

  // Prepares tokens [token_begin, token_end), whose KV is written, to be written again (holes).
  // Replaces their pages that others hold or can find by private ones, and queues page ops that
  // copy the written KV. On false (not enough pages) nothing changed. Appending never needs
  // it: room from Grow is private. KV that depends on what is written over published tokens must
  // not be published under exact names: call MarkApproximate, unless the root has a kv_policy or
  // the state is not cacheable.
  virtual bool EnsureWritable(KvState* state, int64_t token_begin, int64_t token_end) = 0;

  // Takes pages for an adapter of the model, in the model's page size, all or none; evicts as
  // needed. `adapter` names the owner.
  virtual bool AllocateAdapter(int32_t model, int64_t num_pages, int32_t adapter,
                               std::vector<PageId>* pages) = 0;
  virtual void FreeAdapter(absl::Span<const PageId> pages) = 0;
  // Splits the pool for good, to compare one shared pool with a split one: adapters of all models
  // live only in these pages of `model`'s size, sequences in the others. False: the pool has no
  // room for them. REQUIRES: before any adapter and any Admit; one model, or equal pages.
  virtual bool SetAsideForAdapters(int32_t model, int64_t num_pages) = 0;
  virtual bool adapters_apart() const = 0;  // SetAsideForAdapters was called
  // The number of pages that AllocateAdapter could take now.
  virtual int64_t AvailableAdapterPages(int32_t model) const = 0;

  // The numbers of pages of the model's size that are free, and that are free or cached.
  virtual int64_t FreePages(int32_t model) const = 0;
  virtual int64_t AvailablePages(int32_t model) const = 0;
  // Ticks for which the cached pages that would be evicted first have been idle. Nothing when no
  // page is cached.
  virtual std::optional<uint64_t> OldestIdleTicks() const = 0;
  // Frees the cached pages that have been idle longest, until one more page of the model's size is
  // free. REQUIRES: AvailablePages > FreePages.
  virtual void EvictOldest(int32_t model) = 0;
  // The clock of eviction: counts pages taken and given back.
  virtual uint64_t ticks() const = 0;

  // Hands out the page ops that the next step of `model` must run first (copies before writes to
  // shared pages). They belong to that step's plan. Their sources are held until ReleasePageOps. So
  // are destinations that their sequences give back meanwhile: no page is handed out that a
  // launched step still reads or writes. If a sequence gives back the destination of an op that is
  // not taken yet, the op is dropped (page_op_ledger.h).
  virtual std::vector<PageOp> TakePageOps(int32_t model) = 0;
  // The step that took `ops` has retired. REQUIRES: TakePageOps handed them out; once.
  virtual void ReleasePageOps(absl::Span<const PageOp> ops) = 0;

  // The largest number of slabs that a new sequence of `num_tokens` tokens of `model` occupies,
  // without reuse, if no step computes more than `step_tokens` of them: a group with a window holds
  // the pages that the window and a step cover.
  virtual int64_t SlabsFor(int32_t model, int64_t num_tokens, int64_t step_tokens) const = 0;
  int64_t SlabsFor(int32_t model, int64_t num_tokens) const {
    return SlabsFor(model, num_tokens, 1);
  }
  // Whether the page of that name could be hit in a group of the model.
  virtual bool Findable(int32_t model, int32_t group, const PageHash& hash) const = 0;
  // The announced name of a page that is in match.announced_tokens, for WatchAnnounced. `scratch`
  // may be null. REQUIRES: `match` is what Match answered for the state and the scratch.
  virtual PageHash AnnouncedName(const KvState& state, const KvMatch& match, int64_t page,
                                 const KvScratch* scratch) const = 0;
  // Asks TakeSettled to return the name once no admitted sequence of the model announces it any
  // more. False when none announces it now.
  virtual bool WatchAnnounced(int32_t model, const PageHash& hash) = 0;
  // The watched names, with their models, that ceased to be announced since the last call.
  virtual std::vector<std::pair<PageHash, int32_t>> TakeSettled() = 0;
  virtual const PageLayout& layout(int32_t model) const = 0;
  // The number of pages that only this state holds: Release would make them free or evictable.
  virtual int64_t ExclusivePages(const KvState& state) const = 0;
  // The number of pages that Grow takes for tokens [0, num_tokens).
  int64_t PagesToGrow(const KvState& state, int64_t num_tokens) const;
  virtual KvUsage usage() const = 0;
  virtual KvStats stats() const = 0;
  // Frees all unreferenced pages.
  virtual void DropCached() = 0;

  // CHECK-fails unless every count, list and index entry agrees. `live` holds all admitted states.
  virtual void CheckInvariants(absl::Span<const KvState* const> live) const = 0;
};

// num_slabs counts the null page's slabs (slabs [0, max slabs_per_page) are never handed out).
// max_slabs_per_page: the largest of all models that will be added.
std::unique_ptr<KvManager> NewKvManager(int64_t num_slabs, int64_t slab_bytes,
                                        int32_t max_slabs_per_page);

}  // namespace tessera

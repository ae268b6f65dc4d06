// The paged KV store of one device: which pages hold which tokens, which pages can be reused, and
// which may be evicted. KvManager handles page indices and hashes, never tensors. The scheduler
// uses six verbs: Match, Admit, Grow, Advance, Release, TakePageOps. Planning a step calls only
// const verbs and writes a KvScratch (kv_state.h); committing the plan calls the other verbs. The
// engine passes the page ops of TakePageOps to ReleasePageOps when their step has retired.
//
// Pages are equal byte ranges of one pool for all models (page_pool.h); a model's layers are split
// into KV groups with a page table each. Whole pages, written by prefill or by decode, are looked
// up by a chained hash (prefix_index.h) whose root stands for everything besides tokens that the
// contents depend on. A prefix hits only if every group has its pages; a group with a window needs
// only the pages that the next token can still see. Unreferenced pages stay until they are evicted,
// least recently used first; a sequence's last pages are evicted before its first. Page tables are
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

  // Returns how many of `tokens` have reusable KV. Stores the computed page names in the state and
  // changes nothing else. With a scratch, the answer is for the store after the scratch's plan is
  // committed. REQUIRES: !state->admitted; `tokens` starts with the tokens of earlier calls for the
  // state.
  virtual KvMatch Match(KvState* state, absl::Span<const TokenId> tokens,
                        const KvScratch* scratch) const = 0;
  KvMatch Match(KvState* state, absl::Span<const TokenId> tokens) const {
    return Match(state, tokens, nullptr);
  }
  // Adds to the scratch the changes that Admit of the same state and tokens will make. REQUIRES:
  // Match returned `match` for the same arguments, and neither store nor scratch has changed since.
  virtual void Foresee(KvState* state, absl::Span<const TokenId> tokens, const KvMatch& match,
                       KvScratch* scratch) const = 0;

  // Takes the pages that Match finds; pages are not evicted while a state holds them. Afterwards
  // state->num_tokens is the length of the hit, and the whole pages of `tokens` beyond the hit are
  // announced. If the hit has pages of a class, Admit limits state->exact_tokens to the exact part
  // of the hit and sets state->kv_class. Only Grow takes pages for tokens beyond the hit. REQUIRES:
  // !state->admitted.
  virtual void Admit(KvState* state, absl::Span<const TokenId> tokens) = 0;

  // Takes pages for tokens [0, num_tokens) in all groups, and evicts as needed. Returns false, and
  // changes nothing, if there are not enough pages.
  virtual bool Grow(KvState* state, int64_t num_tokens) = 0;

  // Reports that KV of tokens [0, num_tokens) is written (`tokens` has at least these tokens).
  // Publishes pages that became whole, withdraws their announcements, and releases pages that are
  // no longer inside their window. REQUIRES: Grow returned true for these tokens; num_tokens does
  // not decrease.
  virtual void Advance(KvState* state, absl::Span<const TokenId> tokens, int64_t num_tokens) = 0;

  // Declares that KV of tokens from `from_token` on is approximate (lossy or reused KV, and KV
  // computed on it). Limits state->exact_tokens, withdraws the exact announcements of pages beyond
  // that limit, and announces these pages in the class instead. kv_class: an index in
  // state->accepted, or kNoKvClass, which keeps these pages private. Pages that are written already
  // keep their names. REQUIRES: the state is admitted; `tokens` starts with the tokens of Admit; if
  // KV of the state is approximate already, kv_class is state->kv_class.
  virtual void MarkApproximate(KvState* state, absl::Span<const TokenId> tokens, int64_t from_token,
                               int32_t kv_class) = 0;

  // Releases all pages of the state, the pages of the last tokens first, and withdraws
  // announcements. Lookups find published pages until they are evicted. The state keeps its roots,
  // hashes and accepted classes; its pages, num_tokens, exact_tokens and kv_class are reset, and
  // the next Admit sets them by the pages that it takes. No-op if the state is not admitted.
  virtual void Release(KvState* state) = 0;

  // Prepares tokens [token_begin, token_end), whose KV is written, to be written again (holes).
  // Pages of these tokens that other states hold or lookups can find are replaced by private pages,
  // and page ops that copy the written KV are queued. Returns false, and changes nothing, if there
  // are not enough pages. Appending tokens does not need this call, because pages from Grow are
  // private. If KV of published tokens is overwritten, KV that depends on the new KV must not be
  // published under exact names: call MarkApproximate, unless the root has a kv_policy or the state
  // is not cacheable.
  virtual bool EnsureWritable(KvState* state, int64_t token_begin, int64_t token_end) = 0;

  // Takes pages of the model's page size for an adapter of the model, and evicts as needed. Returns
  // false, and takes no page, if there are not enough pages. `adapter` is the id of the adapter.
  virtual bool AllocateAdapter(int32_t model, int64_t num_pages, int32_t adapter,
                               std::vector<PageId>* pages) = 0;
  virtual void FreeAdapter(absl::Span<const PageId> pages) = 0;
  // Splits the pool permanently, for comparisons of a shared pool with a split pool: adapters of
  // all models use only num_pages pages of `model`'s size, and sequences use only the remaining
  // pages. Returns false if the pool has too few pages. REQUIRES: called before any adapter and any
  // Admit; there is one model, or all models have pages of equal size.
  virtual bool SetAsideForAdapters(int32_t model, int64_t num_pages) = 0;
  virtual bool adapters_apart() const = 0;  // SetAsideForAdapters was called
  // The number of pages that AllocateAdapter could take now.
  virtual int64_t AvailableAdapterPages(int32_t model) const = 0;

  // The numbers of pages of the model's size that are free, and that are free or cached.
  virtual int64_t FreePages(int32_t model) const = 0;
  virtual int64_t AvailablePages(int32_t model) const = 0;
  // The number of ticks for which the cached pages that would be evicted first have been idle;
  // nullopt if no page is cached.
  virtual std::optional<uint64_t> OldestIdleTicks() const = 0;
  // Frees the cached pages that have been idle longest, until one more page of the model's size is
  // free. REQUIRES: AvailablePages > FreePages.
  virtual void EvictOldest(int32_t model) = 0;
  // The clock of eviction: the number of pages that were taken or given back so far.
  virtual uint64_t ticks() const = 0;

  // Hands out the page ops that the next step of `model` must run first (copies before writes to
  // shared pages). The ops belong to that step's plan. Until ReleasePageOps, the source pages of
  // the ops are not handed out again, and neither are destination pages that their sequences
  // release, because a launched step may still read or write these pages. If a sequence releases
  // the destination of an op that is not taken yet, the op is dropped (page_op_ledger.h).
  virtual std::vector<PageOp> TakePageOps(int32_t model) = 0;
  // Reports that the step that took `ops` has retired. REQUIRES: TakePageOps returned `ops`, and
  // this is the only call for these ops.
  virtual void ReleasePageOps(absl::Span<const PageOp> ops) = 0;

  // The largest number of slabs that a new sequence of `num_tokens` tokens of `model` occupies,
  // without reuse, if no step computes more than `step_tokens` of them: a group with a window holds
  // the pages that the window and a step cover.
  virtual int64_t SlabsFor(int32_t model, int64_t num_tokens, int64_t step_tokens) const = 0;
  int64_t SlabsFor(int32_t model, int64_t num_tokens) const {
    return SlabsFor(model, num_tokens, 1);
  }
  // Whether a lookup would find the page with the name `hash` in a group of the model.
  virtual bool Findable(int32_t model, int32_t group, const PageHash& hash) const = 0;
  // The announced name of a page that is in match.announced_tokens, for WatchAnnounced. `scratch`
  // may be null. REQUIRES: Match returned `match` for the same state and scratch.
  virtual PageHash AnnouncedName(const KvState& state, const KvMatch& match, int64_t page,
                                 const KvScratch* scratch) const = 0;
  // Makes TakeSettled return the name once no admitted sequence of the model announces the name any
  // more. Returns false if no sequence announces the name now.
  virtual bool WatchAnnounced(int32_t model, const PageHash& hash) = 0;
  // The watched names, with their models, that ceased to be announced since the last call.
  virtual std::vector<std::pair<PageHash, int32_t>> TakeSettled() = 0;
  virtual const PageLayout& layout(int32_t model) const = 0;
  // The number of pages that only this state holds, and that Release would make free or evictable.
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

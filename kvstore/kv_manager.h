// The paged KV store of one device: which pages hold which tokens, what is reusable, what may be
// evicted. It knows page indices and hashes, never tensors. The scheduler sees six verbs: Match,
// Admit, Grow, Advance, Release, TakePageOps. The engine returns what the last one handed out by
// ReleasePageOps.
//
// Owned by the engine, used on the engine thread only: no locks. Pages are equal byte ranges of one
// pool for all models (page_pool.h); a model's layers are split into KV groups with a page table
// each. Whole pages, written by prefill or by decode, are found again by a chained hash
// (prefix_index.h) whose root names everything their contents depend on. A prefix hit is what all
// groups have: of a group with a window only the pages that the next token can still see. Pages
// that nobody references stay until they are evicted, least recently used first; a sequence's last
// pages go before its first. Tables are append-only: a page that turns out to be published by
// another sequence already stays private to its own.
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

  // How much of `tokens` is reusable. `state->hashes` is extended as a memo; nothing else changes.
  // REQUIRES: !state->admitted; `tokens` extends what the state was asked about before.
  virtual KvMatch Match(KvState* state, absl::Span<const TokenId> tokens,
                        const KvScratch* scratch) const = 0;
  KvMatch Match(KvState* state, absl::Span<const TokenId> tokens) const {
    return Match(state, tokens, nullptr);
  }
  // Enters into the scratch what Admit of the same would do.
  virtual void Foresee(KvState* state, absl::Span<const TokenId> tokens,
                       KvScratch* scratch) const = 0;

  // Takes the matched pages and room for `num_new_tokens` after them. On success state->num_tokens
  // is the hit and the whole pages of `tokens` beyond it are announced as pending. On false (not
  // enough pages, keeping `reserve_slabs` of free or evictable ones) nothing changed. The reserve
  // counts slabs that pages of this model can be made of, so with pages of several sizes a pool
  // fragmented by others may never meet it: ask for none when nothing else runs. REQUIRES:
  // !state->admitted.
  virtual bool Admit(KvState* state, absl::Span<const TokenId> tokens, int64_t num_new_tokens,
                     int64_t reserve_slabs) = 0;

  // Room for tokens [0, num_tokens) in all groups, evicting as needed. On false nothing changed.
  virtual bool Grow(KvState* state, int64_t num_tokens) = 0;

  // KV of tokens [0, num_tokens) is written (`tokens` holds at least these): publishes pages that
  // became whole, withdraws their announcements, gives up pages behind windows. REQUIRES: room was
  // granted; num_tokens does not go back.
  virtual void Advance(KvState* state, absl::Span<const TokenId> tokens, int64_t num_tokens) = 0;

  // Gives all pages back, the last tokens' first (published ones stay findable until evicted),
  // withdraws announcements. The state is as new but for root and hashes. No-op when not admitted.
  virtual void Release(KvState* state) = 0;

  // Tokens [token_begin, token_end), written already, are about to be written again (holes): pages
  // of them that others hold or can find are replaced by private ones, and a copy of what was
  // written is queued in the page ops. On false (not enough pages) nothing changed. Never needed to
  // append: room from Admit and Grow is private. What is written over published tokens must not be
  // published under their names: such a sequence has a kv_policy in its root, or is not cacheable.
  virtual bool EnsureWritable(KvState* state, int64_t token_begin, int64_t token_end) = 0;

  // Pages for an adapter of the model, in the model's page size, all or none, evicting as needed.
  // `adapter` names the owner.
  virtual bool AllocateAdapter(int32_t model, int64_t num_pages, int32_t adapter,
                               std::vector<PageId>* pages) = 0;
  virtual void FreeAdapter(absl::Span<const PageId> pages) = 0;
  // A fixed split, to compare one pool with: adapters of all models live in these pages of
  // `model`'s size alone, sequences in the others. False: the pool has no room for them. REQUIRES:
  // before any adapter and any Admit; one model, or equal pages.
  virtual bool SetAsideForAdapters(int32_t model, int64_t num_pages) = 0;
  virtual bool adapters_apart() const = 0;  // SetAsideForAdapters was called
  // Pages that AllocateAdapter could take now.
  virtual int64_t AvailableAdapterPages(int32_t model) const = 0;

  // Pages of the model's size that are free, and those that are free or cached.
  virtual int64_t FreePages(int32_t model) const = 0;
  virtual int64_t AvailablePages(int32_t model) const = 0;
  // How long the cached pages that would be evicted first have been idle; nothing when none are
  // cached.
  virtual std::optional<uint64_t> OldestIdleTicks() const = 0;
  // Frees cached pages, those that have been idle longest, until one more page of the model's size
  // is free. REQUIRES: AvailablePages > FreePages.
  virtual void EvictOldest(int32_t model) = 0;
  // The time that eviction goes by: counts pages taken and given back.
  virtual uint64_t ticks() const = 0;

  // Page ops that the next step of `model` must run first (copies before writes to shared pages).
  // They belong to that step's plan. Their sources stay held until ReleasePageOps, and so does a
  // destination that its sequence gives back meanwhile: no page is handed out that a launched step
  // still reads or writes. Before they are taken, an op goes when its destination is given back.
  virtual std::vector<PageOp> TakePageOps(int32_t model) = 0;
  // The step that took `ops` has retired. REQUIRES: TakePageOps handed them out; once.
  virtual void ReleasePageOps(absl::Span<const PageOp> ops) = 0;

  // Slabs that a fresh sequence of `num_tokens` tokens of `model` occupies at most, without reuse,
  // when no step computes more than `step_tokens` of them: groups with a window hold what the
  // window and a step cover.
  virtual int64_t SlabsFor(int32_t model, int64_t num_tokens, int64_t step_tokens) const = 0;
  int64_t SlabsFor(int32_t model, int64_t num_tokens) const {
    return SlabsFor(model, num_tokens, 1);
  }
  // Whether the page of that name could be hit in a group of the model.
  virtual bool Findable(int32_t model, int32_t group, const PageHash& hash) const = 0;
  // Asks to be told when no admitted sequence of the model is computing the page of that name any
  // more. False when none is now.
  virtual bool WatchPending(int32_t model, const PageHash& hash) = 0;
  // The names of which that came true since the last call.
  virtual std::vector<std::pair<PageHash, int32_t>> TakeSettled() = 0;
  virtual const PageLayout& layout(int32_t model) const = 0;
  // Pages that Release would make free or evictable: nobody else holds them.
  virtual int64_t ExclusivePages(const KvState& state) const = 0;
  // Pages that Grow takes for tokens [0, num_tokens).
  int64_t PagesToGrow(const KvState& state, int64_t num_tokens) const;
  virtual KvUsage usage() const = 0;
  virtual const KvStats& stats() const = 0;
  // Forgets all unreferenced pages.
  virtual void DropCached() = 0;

  // CHECK-fails unless every count, list and index entry agrees. `live` holds all admitted states.
  virtual void CheckInvariants(absl::Span<const KvState* const> live) const = 0;
};

// num_slabs counts the null page's slabs (slabs [0, max slabs_per_page) are never handed out).
// max_slabs_per_page: the largest of all models that will be added.
std::unique_ptr<KvManager> NewKvManager(int64_t num_slabs, int64_t slab_bytes,
                                        int32_t max_slabs_per_page);

}  // namespace tessera

// The metadata of one device's pages; the bytes lie elsewhere (PoolView). A page is a power of
// two of contiguous slabs, aligned to its size, so models of different shapes share one pool. A
// page's id is its first slab. A page is referenced (refs > 0), evictable (unreferenced and
// published, so it can be found again) or free (unreferenced and not published).
//
// Slabs are grouped in regions of the largest page. A buddy scheme divides a region: small pages
// come from blocks that are already split, so whole regions stay whole; freed buddies merge. When
// no free block fits, eviction takes the aligned block of the requested size (a page, or a block of
// smaller pages none of which is held) that has been wholly unreferenced the longest. With equal
// pages that is plain LRU. Every operation is deterministic and costs O(number of page sizes).
//
// Slabs [0, max_slabs_per_page) are the null page and never handed out. Owned by KvManager; engine
// thread only.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/base/types.h"
#include "kvstore/page_hash.h"

namespace tessera {

enum class PageKind : uint8_t { kFree = 0, kKv, kAdapter, kStaging, kWeights };
inline constexpr int kNumPageKinds = 5;

struct Page {
  PageHash hash;      // name of the contents; valid when published
  int32_t refs = 0;   // holders: sequences, page ops, adapters
  int32_t owner = 0;  // the KV group or the adapter that the page belongs to
  PageKind kind = PageKind::kFree;
  uint8_t order = 0;       // the page has 1 << order slabs
  bool published = false;  // can be found by its hash
};
static_assert(sizeof(Page) == 32);

class PagePool final {
 public:
  // Called for every published page that is about to be freed, while its metadata is still valid.
  using EvictCallback = std::function<void(PageId, const Page&)>;

  // max_slabs_per_page: a power of two. Slabs of an incomplete last region are not used.
  PagePool(int64_t num_slabs, int32_t max_slabs_per_page, EvictCallback on_evict);
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // Takes a page of (1 << order) slabs with refs = 1; evicts when it must. kNullPage: there is
  // none.
  PageId Allocate(int order, PageKind kind, int32_t owner);
  // How many times Allocate(order) would succeed now: exact, whatever the fragmentation.
  int64_t num_available(int order) const { return num_available_[order]; }

  // How many times Allocate(order) would succeed without evicting.
  int64_t num_free(int order) const;
  // Evicts what Allocate(order) would evict when nothing is free. False: nothing can be evicted.
  bool EvictForOrder(int order);

  void Ref(PageId page);  // an evictable page is taken out of eviction
  // When the last reference ends, a published page becomes evictable, as the most recently used
  // one, and any other page becomes free.
  void Unref(PageId page);
  // REQUIRES: referenced, not published.
  void Publish(PageId page, const PageHash& hash);
  // Frees all evictable pages. Not counted as evictions.
  void DropEvictable();

  const Page& page(PageId page) const { return pages_[page]; }
  // Whether others hold the page or can find it: then it must not be written.
  bool IsShared(PageId page) const { return pages_[page].refs > 1 || pages_[page].published; }
  int num_orders() const { return num_orders_; }
  int64_t num_slabs() const { return num_slabs_; }  // without the null page
  int64_t free_slabs() const;
  int64_t evictable_slabs() const { return evictable_slabs_; }
  int64_t referenced_slabs(PageKind kind) const { return referenced_slabs_[Index(kind)]; }
  // The time of this pool's clock, which counts pages taken and given back.
  uint64_t ticks() const { return clock_; }
  // Ticks since the pages that would be evicted first were last held; 0 when nothing is evictable.
  uint64_t oldest_idle_ticks() const;
  int64_t num_published() const { return num_published_; }
  int64_t num_evicted() const { return num_evicted_; }  // pages evicted for Allocate

  // CHECK-fails unless pages, blocks, lists and counts agree.
  void CheckInvariants() const;

 private:
  enum class List : uint8_t { kNone = 0, kFree, kReclaimable };
  // An aligned run of (1 << order) slabs. The free list of its order has it if it is free and its
  // parent is not; the reclaimable list has it if it has evictable slabs and no referenced ones.
  // Blocks that are only a part of one page stay {0, 0}.
  struct Block {
    uint64_t stamp = 0;  // when it became reclaimable
    int32_t prev = -1;
    int32_t next = -1;
    int16_t referenced = 0;  // referenced slabs
    int16_t evictable = 0;   // evictable slabs
    List list = List::kNone;
  };
  struct Ends {
    int32_t head = -1;
    int32_t tail = -1;
  };

  static size_t Index(PageKind kind) { return static_cast<size_t>(kind); }
  int top_order() const { return num_orders_ - 1; }
  void PushFront(int order, int32_t block);  // free list
  void PushBack(int order, int32_t block);   // reclaimable list
  void Remove(int order, int32_t block);
  // Updates all blocks around a page whose slabs change between free, evictable and referenced.
  void Account(PageId page, int order, int referenced_sign, int evictable_sign);
  PageId TakeFree(int order);
  void FreeBlock(PageId page, int order);
  void Evict(PageId page);
  int CheckFree(PageId slab) const;
  void CheckBlocks(int order, const std::vector<Block>& expected) const;

  const EvictCallback on_evict_;
  int num_orders_ = 0;
  int64_t num_slabs_ = 0;
  std::vector<Page> pages_;                 // [slabs]; valid at the first slab of a page
  std::vector<std::vector<Block>> blocks_;  // [orders][slabs >> order]
  std::vector<Ends> free_;                  // [orders] lists of blocks, last freed first
  std::vector<int64_t> num_free_blocks_;    // [orders]
  std::vector<Ends> reclaimable_;           // [orders] lists of blocks, oldest first
  std::vector<int64_t> num_available_;      // [orders] blocks without referenced slabs
  std::array<int64_t, kNumPageKinds> referenced_slabs_{};
  int64_t evictable_slabs_ = 0;
  int64_t num_published_ = 0;
  int64_t num_evicted_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace tessera

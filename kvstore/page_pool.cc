#include "kvstore/page_pool.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "kernels/base/log.h"

namespace tessera {

PagePool::PagePool(int64_t num_slabs, int32_t max_slabs_per_page, EvictCallback on_evict)
    : on_evict_(std::move(on_evict)) {
  CHECK(max_slabs_per_page > 0 && std::has_single_bit(static_cast<uint32_t>(max_slabs_per_page)))
      << max_slabs_per_page;
  CHECK_LE(max_slabs_per_page, std::numeric_limits<int16_t>::max());
  CHECK_GE(num_slabs, max_slabs_per_page);
  CHECK_LE(num_slabs, std::numeric_limits<PageId>::max());
  const int64_t num_regions = num_slabs / max_slabs_per_page;
  num_orders_ = std::countr_zero(static_cast<uint32_t>(max_slabs_per_page)) + 1;
  num_slabs_ = (num_regions - 1) * max_slabs_per_page;
  pages_.resize(num_regions * max_slabs_per_page);
  blocks_.resize(num_orders_);
  free_.resize(num_orders_);
  num_free_blocks_.resize(num_orders_);
  reclaimable_.resize(num_orders_);
  num_available_.resize(num_orders_);
  for (int order = 0; order < num_orders_; ++order) {
    blocks_[order].resize(pages_.size() >> order);
    num_available_[order] = num_slabs_ >> order;
  }
  // Low addresses are handed out first.
  for (int64_t region = num_regions - 1; region > 0; --region) {
    PushFront(top_order(), static_cast<int32_t>(region));
  }
}

PageId PagePool::Allocate(int order, PageKind kind, int32_t owner) {
  CHECK(order >= 0 && order < num_orders_) << order;
  CHECK(kind != PageKind::kFree);
  PageId id = TakeFree(order);
  if (id == kNullPage) {
    if (!EvictForOrder(order)) return kNullPage;
    id = TakeFree(order);
    CHECK_NE(id, kNullPage);
  }
  Page& page = pages_[id];
  page.refs = 1;
  page.owner = owner;
  page.kind = kind;
  page.order = static_cast<uint8_t>(order);
  page.published = false;
  referenced_slabs_[Index(kind)] += int64_t{1} << order;
  Account(id, order, 1, 0);
  return id;
}

void PagePool::Ref(PageId id) {
  Page& page = pages_[id];
  CHECK(page.kind != PageKind::kFree) << "page " << id;
  if (page.refs++ > 0) return;
  const int64_t slabs = int64_t{1} << page.order;
  referenced_slabs_[Index(page.kind)] += slabs;
  evictable_slabs_ -= slabs;
  Account(id, page.order, 1, -1);
}

void PagePool::Unref(PageId id) {
  Page& page = pages_[id];
  CHECK_GT(page.refs, 0) << "page " << id;
  if (--page.refs > 0) return;
  const int64_t slabs = int64_t{1} << page.order;
  referenced_slabs_[Index(page.kind)] -= slabs;
  if (page.published) {
    evictable_slabs_ += slabs;
    Account(id, page.order, -1, 1);
    return;
  }
  Account(id, page.order, -1, 0);
  FreeBlock(id, page.order);
}

void PagePool::Publish(PageId id, const PageHash& hash) {
  Page& page = pages_[id];
  CHECK(page.refs > 0 && !page.published) << "page " << id << " refs " << page.refs;
  page.hash = hash;
  page.published = true;
  ++num_published_;
}

void PagePool::DropEvictable() {
  for (int order = 0; order < num_orders_; ++order) {
    Ends& list = reclaimable_[order];
    // Smaller orders come first, and evicting their pages takes blocks of them out of larger lists:
    // each block that is left here is one page.
    while (list.head >= 0) Evict(static_cast<PageId>(list.head << order));
  }
}

uint64_t PagePool::oldest_idle_ticks() const {
  uint64_t oldest = clock_;
  for (int order = 0; order < num_orders_; ++order) {
    const int32_t head = reclaimable_[order].head;
    if (head >= 0) oldest = std::min(oldest, blocks_[order][head].stamp);
  }
  return clock_ - oldest;
}

int64_t PagePool::free_slabs() const {
  // A block of one slab that is not referenced is free or evictable.
  return num_available_[0] - evictable_slabs_;
}

int64_t PagePool::num_free(int order) const {
  int64_t pages = 0;
  for (int from = order; from < num_orders_; ++from) {
    pages += num_free_blocks_[from] << (from - order);
  }
  return pages;
}

void PagePool::PushFront(int order, int32_t index) {
  Block& block = blocks_[order][index];
  Ends& list = free_[order];
  block.list = List::kFree;
  ++num_free_blocks_[order];
  block.prev = -1;
  block.next = list.head;
  (list.head >= 0 ? blocks_[order][list.head].prev : list.tail) = index;
  list.head = index;
}

void PagePool::PushBack(int order, int32_t index) {
  Block& block = blocks_[order][index];
  Ends& list = reclaimable_[order];
  block.list = List::kReclaimable;
  block.stamp = clock_;
  block.next = -1;
  block.prev = list.tail;
  (list.tail >= 0 ? blocks_[order][list.tail].next : list.head) = index;
  list.tail = index;
}

void PagePool::Remove(int order, int32_t index) {
  Block& block = blocks_[order][index];
  if (block.list == List::kFree) --num_free_blocks_[order];
  Ends& list = block.list == List::kFree ? free_[order] : reclaimable_[order];
  (block.prev >= 0 ? blocks_[order][block.prev].next : list.head) = block.next;
  (block.next >= 0 ? blocks_[order][block.next].prev : list.tail) = block.prev;
  block.list = List::kNone;
}

void PagePool::Account(PageId page, int order, int referenced_sign, int evictable_sign) {
  const int slabs = 1 << order;
  for (int smaller = 0; smaller < order; ++smaller) {
    num_available_[smaller] -= referenced_sign * (slabs >> smaller);
  }
  ++clock_;
  for (int larger = order; larger < num_orders_; ++larger) {
    const int32_t index = page >> larger;
    Block& block = blocks_[larger][index];
    const bool was_referenced = block.referenced > 0;
    block.referenced = static_cast<int16_t>(block.referenced + referenced_sign * slabs);
    block.evictable = static_cast<int16_t>(block.evictable + evictable_sign * slabs);
    const bool is_referenced = block.referenced > 0;
    num_available_[larger] += static_cast<int>(was_referenced) - static_cast<int>(is_referenced);
    const bool reclaimable = !is_referenced && block.evictable > 0;
    const bool listed = block.list == List::kReclaimable;
    if (reclaimable && !listed) PushBack(larger, index);
    if (!reclaimable && listed) Remove(larger, index);
  }
}

PageId PagePool::TakeFree(int order) {
  int from = order;
  while (from < num_orders_ && free_[from].head < 0) ++from;
  if (from == num_orders_) return kNullPage;
  int32_t index = free_[from].head;
  Remove(from, index);
  while (from > order) {  // split, keep the lower half
    --from;
    index <<= 1;
    PushFront(from, index + 1);
  }
  return static_cast<PageId>(index << order);
}

void PagePool::FreeBlock(PageId id, int order) {
  pages_[id] = Page();
  int32_t index = id >> order;
  while (order < top_order() && blocks_[order][index ^ 1].list == List::kFree) {
    Remove(order, index ^ 1);
    index >>= 1;
    ++order;
  }
  PushFront(order, index);
}

void PagePool::Evict(PageId id) {
  const Page page = pages_[id];
  CHECK(page.kind != PageKind::kFree && page.refs == 0 && page.published) << "page " << id;
  on_evict_(id, page);
  --num_published_;
  evictable_slabs_ -= int64_t{1} << page.order;
  Account(id, page.order, 0, -1);
  FreeBlock(id, page.order);
}

bool PagePool::EvictForOrder(int order) {
  // A page larger than the requested size may be the victim. A block of smaller pages is never
  // older than its parts: on equal stamps the smaller order wins, so that no more than needed is
  // evicted.
  int victim_order = -1;
  uint64_t victim_stamp = std::numeric_limits<uint64_t>::max();
  for (int larger = order; larger < num_orders_; ++larger) {
    const int32_t head = reclaimable_[larger].head;
    if (head < 0 || blocks_[larger][head].stamp >= victim_stamp) continue;
    victim_order = larger;
    victim_stamp = blocks_[larger][head].stamp;
  }
  if (victim_order < 0) return false;
  PageId slab = static_cast<PageId>(reclaimable_[victim_order].head << victim_order);
  const PageId end = slab + (1 << victim_order);
  while (slab < end) {
    const Page& page = pages_[slab];
    if (page.kind == PageKind::kFree) {
      ++slab;
      continue;
    }
    const PageId next = slab + (1 << page.order);
    Evict(slab);
    ++num_evicted_;
    slab = next;
  }
  return true;
}

void PagePool::CheckInvariants() const {
  std::vector<std::vector<Block>> expected(num_orders_);
  for (int order = 0; order < num_orders_; ++order) expected[order].resize(blocks_[order].size());
  std::array<int64_t, kNumPageKinds> referenced{};
  int64_t evictable = 0;
  int64_t published = 0;
  for (PageId slab = 1 << top_order(); slab < static_cast<PageId>(pages_.size());) {
    const Page& page = pages_[slab];
    if (page.kind == PageKind::kFree) {
      slab += 1 << CheckFree(slab);
      continue;
    }
    const int slabs = 1 << page.order;
    CHECK_EQ(slab & (slabs - 1), 0) << "slab " << slab;
    CHECK(page.refs > 0 || (page.refs == 0 && page.published)) << "page " << slab;
    for (int order = page.order; order < num_orders_; ++order) {
      Block& block = expected[order][slab >> order];
      (page.refs > 0 ? block.referenced : block.evictable) += static_cast<int16_t>(slabs);
    }
    (page.refs > 0 ? referenced[Index(page.kind)] : evictable) += slabs;
    published += page.published ? 1 : 0;
    slab += slabs;
  }

  CHECK(referenced == referenced_slabs_);
  CHECK_EQ(evictable, evictable_slabs_);
  CHECK_EQ(published, num_published_);
  int64_t used = evictable + free_slabs();
  for (const int64_t slabs : referenced) used += slabs;
  CHECK_EQ(used, num_slabs_);
  for (int order = 0; order < num_orders_; ++order) CheckBlocks(order, expected[order]);
}

// The order of the listed free block that starts at `slab`.
int PagePool::CheckFree(PageId slab) const {
  CHECK(pages_[slab].refs == 0 && !pages_[slab].published) << "slab " << slab;
  for (int order = 0; order < num_orders_ && (slab & ((1 << order) - 1)) == 0; ++order) {
    const int32_t index = slab >> order;
    if (blocks_[order][index].list != List::kFree) continue;
    CHECK(order == top_order() || blocks_[order][index ^ 1].list != List::kFree)
        << "buddies of slab " << slab << " are not merged";
    return order;
  }
  CHECK(false) << "slab " << slab << " is lost";
  return 0;
}

// Checks the counts and list membership of all blocks of an order, then the lists themselves.
void PagePool::CheckBlocks(int order, const std::vector<Block>& expected) const {
  const std::vector<Block>& blocks = blocks_[order];
  int64_t num_listed[3] = {0, 0, 0};
  int64_t num_available = 0;
  for (size_t i = size_t{1} << (top_order() - order); i < blocks.size(); ++i) {
    CHECK_EQ(blocks[i].referenced, expected[i].referenced) << "order " << order << " block " << i;
    CHECK_EQ(blocks[i].evictable, expected[i].evictable) << "order " << order << " block " << i;
    const bool reclaimable = expected[i].referenced == 0 && expected[i].evictable > 0;
    CHECK_EQ(blocks[i].list == List::kReclaimable, reclaimable) << "order " << order << " " << i;
    ++num_listed[static_cast<size_t>(blocks[i].list)];
    bool available = expected[i].referenced == 0;
    for (int larger = order + 1; larger < num_orders_; ++larger) {  // inside a larger page?
      const Page& page = pages_[(i << order) >> larger << larger];
      available = available && !(page.refs > 0 && page.order >= larger);
    }
    num_available += available ? 1 : 0;
  }
  CHECK_EQ(num_available, num_available_[order]) << "order " << order;
  CHECK_EQ(num_listed[static_cast<size_t>(List::kFree)], num_free_blocks_[order]);

  for (const List list : {List::kFree, List::kReclaimable}) {
    const Ends& ends = list == List::kFree ? free_[order] : reclaimable_[order];
    uint64_t stamp = 0;
    int32_t prev = -1;
    for (int32_t i = ends.head; i >= 0; i = blocks[i].next) {
      CHECK(blocks[i].list == list && blocks[i].prev == prev) << "order " << order << " " << i;
      CHECK(list == List::kFree || blocks[i].stamp > stamp) << "order " << order << " " << i;
      stamp = blocks[i].stamp;
      prev = i;
      --num_listed[static_cast<size_t>(list)];
    }
    CHECK_EQ(num_listed[static_cast<size_t>(list)], 0);
    CHECK_EQ(ends.tail, prev);
  }
}

}  // namespace tessera

#include "scheduler/residency/adapters/adapter_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

// At once: what is read waits in host memory until the next plan places it, and more of it than the
// bound of that memory would be dropped and read again.
constexpr int64_t kMaxReads = 8;

}  // namespace

AdapterStore::AdapterStore(const AdapterStoreOptions& options, AdapterRegistry* registry,
                           KvManager* kv, AdapterLoader* loader, const Clock* clock)
    : options_(options), registry_(registry), kv_(kv), loader_(loader), clock_(clock) {}

bool AdapterStore::IsReady(AdapterId id) const {
  const auto it = entries_.find(id);
  return it != entries_.end() && it->second.state == State::kPool && !it->second.unload;
}

AdapterStore::Access AdapterStore::Want(AdapterId id, int64_t reserve_slabs, bool alone) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) {
    if (num_reading_ < kMaxReads) BeginRead(id);
    return Access::kLoading;
  }
  Entry& entry = it->second;
  switch (entry.state) {
    case State::kPool:
      // One that is to go is let go first; whoever wants it now gets it anew.
      return entry.unload ? Access::kLoading : Access::kReady;
    case State::kHost:
      return PlaceInPool(id, &entry, reserve_slabs, alone);
    default:
      return Access::kLoading;
  }
}

AdapterStore::Entry& AdapterStore::BeginRead(AdapterId id) {
  Entry& entry = entries_[id];
  entry.hold = registry_->Hold(id);
  entry.status = registry_->status(id);
  entry.model = registry_->model(id);
  ++num_reading_;
  loader_->Read(id);
  return entry;
}

AdapterStore::Access AdapterStore::PlaceInPool(AdapterId id, Entry* entry, int64_t reserve_slabs,
                                               bool alone) {
  host_order_.splice(host_order_.end(), host_order_, entry->host);
  if (!kv_->AllocateAdapter(entry->model, entry->image->layout.num_pages, reserve_slabs,
                            static_cast<int32_t>(id), &entry->pages)) {
    if (!alone || num_copying_ > 0) return Access::kNoRoom;
    Fail(id, absl::ResourceExhaustedError(
                 absl::StrCat("the adapter needs ", entry->slabs,
                              " slabs of the page pool, more than "
                              "pinned adapters leave; raise --kv-cache-bytes or unpin some")));
    return Access::kLoading;
  }
  entry->state = State::kCopying;
  ++num_copying_;
  loader_->Copy(id, entry->image.get(), entry->pages);
  return Access::kLoading;
}

void AdapterStore::OnRead(AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us) {
  const auto it = entries_.find(id);
  CHECK(it != entries_.end() && it->second.state == State::kReading) << "adapter " << id;
  --num_reading_;
  Entry& entry = it->second;
  if (!image.ok()) {
    Fail(id, image.status());
    return;
  }
  ++num_loads_;
  entry.state = State::kHost;
  entry.cost_us = static_cast<double>(read_us);
  entry.image = std::make_unique<AdapterImage>(*std::move(image));
  entry.slabs = int64_t{entry.image->layout.num_pages} * kv_->layout(entry.model).slabs_per_page;
  entry.image_bytes = static_cast<int64_t>(entry.image->pages.size());
  host_bytes_ += entry.image_bytes;
  entry.host = host_order_.insert(host_order_.end(), id);
  // Whoever wants it takes it from here, with room left for what runs.
  Report(entry);
  TrimHost(id);
  if (entry.unload) Evict(id);
}

void AdapterStore::OnCopied(AdapterId id) {
  Entry& entry = entries_.at(id);
  CHECK(entry.state == State::kCopying) << "adapter " << id;
  --num_copying_;
  entry.state = State::kPool;
  entry.last_use_ticks = kv_->ticks();
  Report(entry);
  TrimHost(id);
  if (entry.unload) Evict(id);
}

void AdapterStore::Fail(AdapterId id, absl::Status status) {
  Forget(id);
  failures_.emplace_back(id, std::move(status));
}

std::vector<std::pair<AdapterId, absl::Status>> AdapterStore::TakeFailures() {
  return std::exchange(failures_, {});
}

void AdapterStore::Acquire(AdapterId id) {
  CHECK(IsReady(id)) << "adapter " << id;
  Entry& entry = entries_.at(id);
  CountRunning(&entry, 1);
  if (entry.image_bytes > 0) host_order_.splice(host_order_.end(), host_order_, entry.host);
}

void AdapterStore::Release(AdapterId id) {
  Entry& entry = entries_.at(id);
  CHECK_GT(entry.num_running, 0) << "adapter " << id;
  CountRunning(&entry, -1);
  entry.last_use_ticks = kv_->ticks();
  if (entry.num_running == 0 && entry.unload) Evict(id);
}

void AdapterStore::CountRunning(Entry* entry, int32_t change) {
  entry->num_running += change;
  entry->status->num_running.store(entry->num_running, std::memory_order_relaxed);
  entry->status->last_use_us.store(clock_->NowUs(), std::memory_order_relaxed);
}

void AdapterStore::CountUse(AdapterId id) { entries_.at(id).uses += 1.0; }

void AdapterStore::Pin(AdapterId id) {
  const auto it = entries_.find(id);
  Entry& entry = it == entries_.end() ? BeginRead(id) : it->second;
  entry.pinned = true;
  entry.unload = false;
  Report(entry);
}

void AdapterStore::Unpin(AdapterId id) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  it->second.pinned = false;
  Report(it->second);
}

void AdapterStore::Unload(AdapterId id) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  Entry& entry = it->second;
  entry.pinned = false;
  entry.unload = true;
  Report(entry);
  const bool settled = entry.state == State::kHost || entry.state == State::kPool;
  if (settled && entry.num_running == 0) Evict(id);
}

// Out of the pool. What remains in host memory remains, unless it was to be unloaded.
void AdapterStore::Evict(AdapterId id) {
  Entry& entry = entries_.at(id);
  CHECK_EQ(entry.num_running, 0);
  if (!entry.pages.empty()) {
    kv_->FreeAdapter(entry.pages);
    entry.pages.clear();
    ++num_evictions_;
  }
  entry.state = State::kHost;
  if (entry.unload || entry.image_bytes == 0) {
    Forget(id);
    return;
  }
  Report(entry);
  TrimHost(kNoAdapter);
}

void AdapterStore::Forget(AdapterId id) {
  Entry& entry = entries_.at(id);
  CHECK(entry.num_running == 0 && entry.pages.empty()) << "adapter " << id;
  DropImage(&entry);
  entry.status->residency.store(AdapterResidency::kDisk, std::memory_order_relaxed);
  entry.status->pinned.store(false, std::memory_order_relaxed);
  registry_->AnnounceChange();
  entries_.erase(id);
}

void AdapterStore::DropImage(Entry* entry) {
  if (entry->image_bytes == 0) return;
  host_bytes_ -= std::exchange(entry->image_bytes, 0);
  entry->image->pages = {};
  host_order_.erase(entry->host);
}

void AdapterStore::TrimHost(AdapterId keep) {
  for (auto it = host_order_.begin();
       it != host_order_.end() && host_bytes_ > options_.host_bytes;) {
    const AdapterId id = *it++;
    Entry& entry = entries_.at(id);
    if (id == keep || entry.pinned || entry.state == State::kCopying) continue;
    if (entry.state == State::kPool) {
      DropImage(&entry);
    } else {
      Forget(id);
    }
  }
}

bool AdapterStore::IsIdle(const Entry& entry) const {
  return entry.state == State::kPool && entry.num_running == 0 && !entry.pinned;
}

bool AdapterStore::Reclaim(bool must, double kv_us_per_slab, uint64_t kv_idle_ticks) {
  const uint64_t now = kv_->ticks();
  AdapterId victim = kNoAdapter;
  double least = 0.0;
  for (const auto& [id, entry] : entries_) {
    if (!IsIdle(entry)) continue;
    const double idle = static_cast<double>(std::max<uint64_t>(1, now - entry.last_use_ticks));
    const double cost_us = entry.cost_us / static_cast<double>(entry.slabs);
    const double worth = cost_us * std::max(1.0, entry.uses) / idle;
    const bool better = victim == kNoAdapter || worth < least || (worth == least && id < victim);
    if (!better) continue;
    victim = id;
    least = worth;
  }
  if (victim == kNoAdapter) return false;
  const double kv_worth =
      kv_us_per_slab / static_cast<double>(std::max<uint64_t>(1, kv_idle_ticks));
  if (!must && least >= kv_worth) return false;
  Evict(victim);
  return true;
}

void AdapterStore::Report(const Entry& entry) {
  AdapterResidency residency = AdapterResidency::kHost;
  if (entry.state == State::kReading) residency = AdapterResidency::kDisk;
  if (entry.state == State::kPool) residency = AdapterResidency::kPool;
  entry.status->residency.store(residency, std::memory_order_relaxed);
  entry.status->pinned.store(entry.pinned, std::memory_order_relaxed);
  if (entry.image != nullptr) {
    const AdapterLayout& layout = entry.image->layout;
    int32_t rank = 0;
    for (const LoraMatrices& matrices : layout.matrices) rank = std::max(rank, matrices.rank);
    entry.status->rank.store(rank, std::memory_order_relaxed);
    entry.status->bytes.store(layout.num_pages * layout.page_bytes, std::memory_order_relaxed);
  }
  registry_->AnnounceChange();
}

void AdapterStore::CheckInvariants() const {
  int64_t host_bytes = 0;
  size_t in_host = 0;
  int64_t num_copying = 0;
  for (const auto& [id, entry] : entries_) {
    CHECK_GE(entry.num_running, 0) << "adapter " << id;
    CHECK(entry.num_running == 0 || entry.state == State::kPool) << "adapter " << id;
    const bool has_pages = entry.state == State::kCopying || entry.state == State::kPool;
    CHECK_EQ(has_pages, !entry.pages.empty()) << "adapter " << id;
    CHECK(entry.state == State::kReading || entry.image != nullptr) << "adapter " << id;
    host_bytes += entry.image_bytes;
    num_copying += entry.state == State::kCopying ? 1 : 0;
    in_host += entry.image_bytes > 0 ? 1 : 0;
  }
  CHECK_EQ(host_bytes, host_bytes_);
  CHECK_EQ(num_copying, num_copying_);
  CHECK_EQ(in_host, host_order_.size());
}

}  // namespace tessera

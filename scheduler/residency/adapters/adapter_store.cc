#include "scheduler/residency/adapters/adapter_store.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

// The largest number of adapters that are being read at once. An adapter that was read waits in
// host memory until a plan places it in the pool. With too many reads, images would exceed the
// bound of host memory, be dropped and be read again.
constexpr int64_t kMaxReads = 8;

}  // namespace

AdapterStore::AdapterStore(const AdapterStoreOptions& options, AdapterRegistry* registry,
                           KvManager* kv, AdapterLoader* loader, const Clock* clock)
    : options_(options), registry_(registry), kv_(kv), loader_(loader), clock_(clock) {}

bool AdapterStore::IsReady(AdapterId id) const {
  const auto it = entries_.find(id);
  return it != entries_.end() && it->second.state == State::kPool && !it->second.unload;
}

AdapterStore::Access AdapterStore::Want(AdapterId id) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) {
    if (static_cast<int64_t>(reading_.size()) >= kMaxReads) return Access::kBusy;
    BeginRead(id);
    return Access::kLoading;
  }
  Entry& entry = it->second;
  switch (entry.state) {
    case State::kPool:
      // An adapter that is to be unloaded leaves the pool first and is loaded again after that.
      return entry.unload ? Access::kLoading : Access::kReady;
    case State::kHost:
      host_order_.splice(host_order_.end(), host_order_, entry.host);
      return Access::kInHost;
    default:
      return Access::kLoading;
  }
}

int64_t AdapterStore::PagesToPlace(AdapterId id) const {
  const auto it = entries_.find(id);
  if (it == entries_.end() || it->second.state != State::kHost) return 0;
  return it->second.image->layout.num_pages;
}

AdapterStore::Entry& AdapterStore::BeginRead(AdapterId id) {
  Entry& entry = entries_[id];
  entry.hold = registry_->Hold(id);
  entry.status = registry_->status(id);
  entry.model = registry_->model(id);
  entry.read_begin_us = clock_->NowUs();
  reading_.push_back(id);
  if (late_reads_.erase(id) == 0) loader_->Read(id);
  return entry;
}

int64_t AdapterStore::NextReadLimitUs() const {
  if (reading_.empty()) return -1;
  return entries_.at(reading_.front()).read_begin_us + options_.max_read_us;
}

void AdapterStore::FailLateReads() {
  while (!reading_.empty() && NextReadLimitUs() <= clock_->NowUs()) {
    const AdapterId id = reading_.front();
    reading_.erase(reading_.begin());
    late_reads_.emplace(id, entries_.at(id).hold);
    Fail(id, absl::UnavailableError(absl::StrCat(
                 "the adapter's files could not be read within ", options_.max_read_us / 1'000'000,
                 " s (adapters.load_timeout_seconds): look at the file system of its folder")));
  }
}

bool AdapterStore::Place(AdapterId id) {
  Entry& entry = entries_.at(id);
  CHECK(entry.state == State::kHost) << "adapter " << id;
  const int64_t num_pages = entry.image->layout.num_pages;
  if (!kv_->AllocateAdapter(entry.model, num_pages, static_cast<int32_t>(id), &entry.pages))
    return false;
  entry.state = State::kCopying;
  ++num_copying_;
  loader_->Copy(id, entry.image.get(), entry.pages);
  return true;
}

void AdapterStore::FailForRoom(AdapterId id) {
  Fail(id, absl::ResourceExhaustedError(
               absl::StrCat("the adapter needs ", entries_.at(id).slabs,
                            " slabs of the page pool, more than "
                            "pinned adapters leave; raise --kv-cache-bytes or unpin some")));
}

void AdapterStore::OnRead(AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us) {
  if (late_reads_.erase(id) > 0) return;
  const auto it = entries_.find(id);
  CHECK(it != entries_.end() && it->second.state == State::kReading) << "adapter " << id;
  reading_.erase(std::find(reading_.begin(), reading_.end(), id));
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
  // Waiting sequences and operators ask again and then place the adapter.
  Report(entry);
  changes_.emplace_back(id, absl::OkStatus());
  TrimHost(id);
  if (entry.unload) Evict(id);
}

void AdapterStore::OnCopied(AdapterId id) {
  Entry& entry = entries_.at(id);
  CHECK(entry.state == State::kCopying) << "adapter " << id;
  --num_copying_;
  entry.state = State::kPool;
  entry.last_use_ticks = kv_->ticks();
  FileIdle(id, &entry);
  Report(entry);
  changes_.emplace_back(id, absl::OkStatus());
  TrimHost(id);
  if (entry.unload) Evict(id);
}

void AdapterStore::Fail(AdapterId id, absl::Status status) {
  Forget(id);
  changes_.emplace_back(id, std::move(status));
}

std::vector<std::pair<AdapterId, absl::Status>> AdapterStore::TakeChanges() {
  UnloadRetired();
  return std::exchange(changes_, {});
}

void AdapterStore::Acquire(AdapterId id) {
  CHECK(IsReady(id)) << "adapter " << id;
  Entry& entry = entries_.at(id);
  CountRunning(&entry, 1);
  entry.uses += 1.0;
  FileIdle(id, &entry);
  if (entry.image_bytes > 0) host_order_.splice(host_order_.end(), host_order_, entry.host);
}

void AdapterStore::Release(AdapterId id) {
  Entry& entry = entries_.at(id);
  CHECK_GT(entry.num_running, 0) << "adapter " << id;
  CountRunning(&entry, -1);
  entry.last_use_ticks = kv_->ticks();
  FileIdle(id, &entry);
  if (IsRetired(entry)) retired_.push_back(id);
  if (entry.num_running == 0 && entry.unload) Evict(id);
}

// Runs after a round of messages: a sequence that was preempted meanwhile waits for its adapter
// again, and a sequence that was admitted has acquired it.
void AdapterStore::UnloadRetired() {
  for (const AdapterId id : std::exchange(retired_, {})) {
    const auto it = entries_.find(id);
    if (it == entries_.end() || !IsRetired(it->second)) continue;
    if (it->second.num_running == 0 && !awaited_.contains(id)) MarkUnload(id);
  }
}

void AdapterStore::CountRunning(Entry* entry, int32_t change) {
  entry->num_running += change;
  entry->status->num_running.store(entry->num_running, std::memory_order_relaxed);
  entry->status->last_use_us.store(clock_->NowUs(), std::memory_order_relaxed);
}

void AdapterStore::Pin(AdapterId id) {
  const auto it = entries_.find(id);
  Entry& entry = it == entries_.end() ? BeginRead(id) : it->second;
  entry.pinned = true;
  // Sequences may be waiting until the adapter has left the pool. The adapter now stays in the
  // pool, so these sequences must ask for it again.
  if (std::exchange(entry.unload, false)) changes_.emplace_back(id, absl::OkStatus());
  FileIdle(id, &entry);
  Report(entry);
}

void AdapterStore::Unpin(AdapterId id) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  it->second.pinned = false;
  FileIdle(id, &it->second);
  Report(it->second);
  TrimHost(kNoAdapter);
}

void AdapterStore::Unload(AdapterId id, bool unpin) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  Entry& entry = it->second;
  if (IsRetired(entry)) {
    entry.pinned = false;
    FileIdle(id, &entry);
    Report(entry);
    retired_.push_back(id);
  } else if (unpin || !entry.pinned) {
    MarkUnload(id);
  }
}

void AdapterStore::MarkUnload(AdapterId id) {
  Entry& entry = entries_.at(id);
  entry.pinned = false;
  entry.unload = true;
  FileIdle(id, &entry);
  Report(entry);
  const bool settled = entry.state == State::kHost || entry.state == State::kPool;
  if (settled && entry.num_running == 0) Evict(id);
}

bool AdapterStore::IsRetired(const Entry& entry) {
  return entry.status->retired.load(std::memory_order_relaxed);
}

// Removes an adapter from the pool. Its image stays in host memory if the bound allows it and the
// adapter is not to be unloaded. No other image is dropped, because the caller may be making room
// for the adapter of that image.
void AdapterStore::Evict(AdapterId id) {
  Entry& entry = entries_.at(id);
  CHECK_EQ(entry.num_running, 0);
  if (!entry.pages.empty()) {
    kv_->FreeAdapter(entry.pages);
    entry.pages.clear();
    ++num_evictions_;
    changes_.emplace_back(id, absl::OkStatus());
  }
  entry.state = State::kHost;
  FileIdle(id, &entry);
  if (entry.unload || entry.image_bytes == 0) {
    Forget(id);
    return;
  }
  Report(entry);
  if (IsHostFull()) Forget(id);
}

bool AdapterStore::IsHostFull() const {
  return host_bytes_ > options_.host_bytes ||
         static_cast<int64_t>(host_order_.size()) > options_.max_host_images;
}

void AdapterStore::Forget(AdapterId id) {
  Entry& entry = entries_.at(id);
  CHECK(entry.num_running == 0 && entry.pages.empty()) << "adapter " << id;
  DropImage(&entry);
  entry.status->residency.store(AdapterResidency::kDisk, std::memory_order_relaxed);
  entry.status->pinned.store(false, std::memory_order_relaxed);
  registry_->AnnounceChange();
  // Sequences may wait until the adapter has left the pool or is placed; they must ask again.
  if (entry.state == State::kHost) changes_.emplace_back(id, absl::OkStatus());
  entries_.erase(id);
}

void AdapterStore::DropImage(Entry* entry) {
  if (entry->image_bytes == 0) return;
  host_bytes_ -= std::exchange(entry->image_bytes, 0);
  entry->image->pages = {};
  host_order_.erase(entry->host);
}

void AdapterStore::TrimHost(AdapterId keep) {
  for (auto it = host_order_.begin(); it != host_order_.end() && IsHostFull();) {
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

void AdapterStore::FileIdle(AdapterId id, Entry* entry) {
  const bool idle = entry->state == State::kPool && entry->num_running == 0 && !entry->pinned;
  const bool filed = entry->idle_index >= 0;
  if (idle == filed) return;
  const auto model = static_cast<size_t>(entry->model);
  if (idle_pages_.size() <= model) idle_pages_.resize(model + 1, 0);
  const int64_t num_pages = entry->image->layout.num_pages;
  if (idle) {
    entry->idle_index = static_cast<int32_t>(idle_.size());
    idle_.push_back(id);
    idle_pages_[model] += num_pages;
    return;
  }
  const int32_t index = std::exchange(entry->idle_index, -1);
  idle_[index] = idle_.back();
  if (idle_[index] != id) entries_.at(idle_[index]).idle_index = index;
  idle_.pop_back();
  idle_pages_[model] -= num_pages;
}

void AdapterStore::DropWaiter(AdapterId id) {
  const auto it = awaited_.find(id);
  if (--it->second > 0) return;
  awaited_.erase(it);
  const auto entry = entries_.find(id);
  if (entry != entries_.end() && IsRetired(entry->second)) retired_.push_back(id);
}

AdapterId AdapterStore::Cheapest(double* worth) const {
  const uint64_t now = kv_->ticks();
  AdapterId cheapest = kNoAdapter;
  bool is_cheapest_awaited = false;
  for (const AdapterId id : idle_) {
    const bool is_awaited = awaited_.contains(id);
    const Entry& entry = entries_.at(id);
    const double idle = static_cast<double>(std::max<uint64_t>(1, now - entry.last_use_ticks));
    const double cost_us = entry.cost_us / static_cast<double>(entry.slabs);
    const double its_worth = cost_us * std::max(1.0, entry.uses) / idle;
    const bool better =
        cheapest == kNoAdapter ||
        std::tie(is_awaited, its_worth, id) < std::tie(is_cheapest_awaited, *worth, cheapest);
    if (!better) continue;
    cheapest = id;
    is_cheapest_awaited = is_awaited;
    *worth = its_worth;
  }
  return cheapest;
}

std::optional<double> AdapterStore::LeastWorth(int32_t model) const {
  double worth = 0.0;
  if (Cheapest(&worth) == kNoAdapter) return std::nullopt;
  return worth;
}

void AdapterStore::GiveUp(int32_t model) {
  double worth = 0.0;
  Evict(Cheapest(&worth));
}

int64_t AdapterStore::PagesOf(int64_t num_pages, int32_t of_model, int32_t in_model) const {
  return num_pages * kv_->layout(of_model).slabs_per_page / kv_->layout(in_model).slabs_per_page;
}

int64_t AdapterStore::NumIdlePages(int32_t model) const {
  int64_t num_pages = 0;
  for (size_t m = 0; m < idle_pages_.size(); ++m) {
    const auto of_model = static_cast<int32_t>(m);
    if (kv_->layout(of_model).slabs_per_page < kv_->layout(model).slabs_per_page) continue;
    num_pages += PagesOf(idle_pages_[m], of_model, model);
  }
  return num_pages;
}

int64_t AdapterStore::NumAwaitedPages(int32_t model) const {
  int64_t num_pages = 0;
  for (const AdapterId id : idle_) num_pages += awaited_.contains(id) ? NumIdlePages(id, model) : 0;
  return num_pages;
}

bool AdapterStore::IsIdle(AdapterId id) const {
  const auto it = entries_.find(id);
  return it != entries_.end() && it->second.idle_index >= 0;
}

int64_t AdapterStore::NumIdlePages(AdapterId id, int32_t model) const {
  if (!IsIdle(id)) return 0;
  const Entry& entry = entries_.at(id);
  if (kv_->layout(entry.model).slabs_per_page < kv_->layout(model).slabs_per_page) return 0;
  return PagesOf(entry.image->layout.num_pages, entry.model, model);
}

int64_t AdapterStore::NumIdleSlabs() const {
  int64_t slabs = 0;
  for (size_t m = 0; m < idle_pages_.size(); ++m) {
    slabs += idle_pages_[m] * kv_->layout(static_cast<int32_t>(m)).slabs_per_page;
  }
  return slabs;
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
    const bool idle = entry.state == State::kPool && entry.num_running == 0 && !entry.pinned;
    CHECK_EQ(idle, entry.idle_index >= 0) << "adapter " << id;
    CHECK(!idle || idle_.at(entry.idle_index) == id) << "adapter " << id;
    in_host += entry.image_bytes > 0 ? 1 : 0;
  }
  CHECK_EQ(host_bytes, host_bytes_);
  CHECK_EQ(num_copying, num_copying_);
  CHECK_EQ(in_host, host_order_.size());
}

}  // namespace tessera

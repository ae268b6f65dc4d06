#include "scheduler/residency/residency.h"

#include <algorithm>
#include <optional>

#include "scheduler/residency/adapters/adapter_store.h"

namespace tessera {

// The page owner of the prefix cache. The pool evicts cached pages least recently used first.
class Residency::CachedPrefixes final : public PageOwner {
 public:
  CachedPrefixes(KvManager* kv, size_t num_models) : kv_(kv), us_per_slab_(num_models, 0.0) {}

  std::optional<double> LeastWorth(int32_t model) const override {
    const std::optional<uint64_t> idle = kv_->OldestIdleTicks();
    if (!idle.has_value()) return std::nullopt;
    return us_per_slab_[static_cast<size_t>(model)] /
           static_cast<double>(std::max<uint64_t>(1, *idle));
  }
  void GiveUp(int32_t model) override { kv_->EvictOldest(model); }

  void SetRecomputeUs(int32_t model, double us_per_slab) {
    us_per_slab_[static_cast<size_t>(model)] = us_per_slab;
  }

 private:
  KvManager* const kv_;
  std::vector<double> us_per_slab_;
};

Residency::Residency(KvManager* kv, AdapterStore* adapters, size_t num_models)
    : kv_(kv), adapters_(adapters), prefixes_(std::make_unique<CachedPrefixes>(kv, num_models)) {}

Residency::~Residency() = default;

bool Residency::IsReady(NeedId id) const { return id == kNoNeed || adapters_->IsReady(id); }

int64_t Residency::PagesToPlace(NeedId id) const { return adapters_->PagesToPlace(id); }

NeedState Residency::Want(NeedId id, int64_t reserve_slabs, bool alone) {
  if (id == kNoNeed) return NeedState::kReady;
  switch (adapters_->Want(id)) {
    case AdapterStore::Access::kReady:
      return NeedState::kReady;
    case AdapterStore::Access::kLoading:
      return NeedState::kLoading;
    case AdapterStore::Access::kBusy:
      return NeedState::kBusy;
    case AdapterStore::Access::kInHost:
      break;
  }
  const int32_t model = adapters_->model(id);
  const int64_t num_pages = adapters_->PagesToPlace(id);
  const int64_t num_reserved = CeilDiv<int64_t>(reserve_slabs, kv_->layout(model).slabs_per_page);
  bool room = true;
  if (kv_->adapters_apart()) {
    while (room && kv_->AvailableAdapterPages(model) < num_pages) {
      room = adapters_->num_idle() > 0;
      if (room) adapters_->GiveUp(model);
    }
  } else {
    room = MakeRoom(model, num_pages, num_pages + num_reserved);
  }
  if (room && adapters_->Place(id)) return NeedState::kLoading;
  if (!alone || adapters_->num_copying() > 0) return NeedState::kNoRoom;
  adapters_->FailForRoom(id);
  return NeedState::kLoading;
}

std::vector<NeedChange> Residency::TakeChanges() {
  std::vector<NeedChange> changes;
  if (adapters_ == nullptr) return changes;
  for (auto& [id, status] : adapters_->TakeChanges()) changes.push_back({id, std::move(status)});
  return changes;
}

void Residency::AddWaiter(NeedId id) {
  if (id != kNoNeed) adapters_->AddWaiter(id);
}

void Residency::DropWaiter(NeedId id) {
  if (id != kNoNeed) adapters_->DropWaiter(id);
}

void Residency::Acquire(NeedId id) {
  if (id != kNoNeed) adapters_->Acquire(id);
}

void Residency::Release(NeedId id) {
  if (id != kNoNeed) adapters_->Release(id);
}

int64_t Residency::slabs(NeedId id) const { return adapters_->slabs(id); }

bool Residency::MakeRoom(int32_t model, int64_t num_fresh, int64_t num_required) {
  if (!MayHave(model, num_required)) return false;
  while (HasIdleNeeds() && kv_->FreePages(model) < num_fresh) {
    const std::optional<double> cached = prefixes_->LeastWorth(model);
    if (!cached.has_value() || *adapters_->LeastWorth(model) >= *cached) break;
    adapters_->GiveUp(model);
  }
  while (HasIdleNeeds() && kv_->AvailablePages(model) < num_required) adapters_->GiveUp(model);
  if (kv_->AvailablePages(model) < num_required) return false;
  while (kv_->FreePages(model) < num_fresh) prefixes_->GiveUp(model);
  return true;
}

bool Residency::MayHave(int32_t model, int64_t num_pages) const {
  if (AvailablePages(model) >= num_pages) return true;
  if (!HasIdleNeeds()) return false;
  const KvUsage usage = kv_->usage();
  const int64_t slabs = usage.free_slabs + usage.cached_slabs + adapters_->NumIdleSlabs();
  return slabs / kv_->layout(model).slabs_per_page >= num_pages;
}

int64_t Residency::AvailablePages(int32_t model) const {
  int64_t pages = kv_->AvailablePages(model);
  if (HasIdleNeeds()) pages += adapters_->NumIdlePages(model);
  return pages;
}

int64_t Residency::AwaitedPages(int32_t model) const {
  return HasIdleNeeds() ? adapters_->NumAwaitedPages(model) : 0;
}

int64_t Residency::IdlePages(NeedId id, int32_t model) const {
  if (id == kNoNeed || kv_->adapters_apart()) return 0;
  return adapters_->NumIdlePages(id, model);
}

bool Residency::HasIdleNeeds(NeedId but) const {
  if (adapters_ == nullptr || kv_->adapters_apart()) return false;
  return adapters_->num_idle() > (adapters_->IsIdle(but) ? 1 : 0);
}

bool Residency::IsPlacing() const { return adapters_ != nullptr && adapters_->num_copying() > 0; }

void Residency::SetRecomputeUs(int32_t model, double us_per_slab) {
  prefixes_->SetRecomputeUs(model, us_per_slab);
}

}  // namespace tessera

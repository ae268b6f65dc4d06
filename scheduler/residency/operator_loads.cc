#include "scheduler/residency/operator_loads.h"

#include <algorithm>
#include <utility>

namespace tessera {

void OperatorLoads::Add(NeedId need, AdapterWait wait) {
  std::vector<AdapterWait>& waits = waits_[need];
  if (waits.empty()) to_ask_.push_back(need);
  waits.push_back(std::move(wait));
}

void OperatorLoads::OnChange(const NeedChange& change) {
  if (!waits_.contains(change.id)) return;
  if (!change.status.ok()) {
    End(change.id, change.status);
    return;
  }
  const bool is_asked = std::find(to_ask_.begin(), to_ask_.end(), change.id) != to_ask_.end();
  if (!is_asked) to_ask_.push_back(change.id);
}

void OperatorLoads::Ask(int64_t reserve_slabs, bool alone) {
  std::deque<NeedId> later;
  for (const NeedId need : std::exchange(to_ask_, {})) {
    if (AskFor(need, reserve_slabs, alone)) later.push_back(need);
  }
  // An answer may have added new needs to to_ask_; the needs to ask for again keep their place
  // before them.
  to_ask_.insert(to_ask_.begin(), later.begin(), later.end());
}

bool OperatorLoads::AskFor(NeedId need, int64_t reserve_slabs, bool alone) {
  const auto it = waits_.find(need);
  if (it == waits_.end()) return false;
  std::vector<AdapterWait>& waits = it->second;
  const auto is_gone = [](const AdapterWait& wait) { return wait.gone != nullptr && wait.gone(); };
  waits.erase(std::remove_if(waits.begin(), waits.end(), is_gone), waits.end());
  if (waits.empty()) {
    waits_.erase(it);
    return false;
  }
  const NeedState state = residency_->Want(need, reserve_slabs, alone);
  if (state == NeedState::kReady) End(need, absl::OkStatus());
  return state == NeedState::kBusy || state == NeedState::kNoRoom;
}

void OperatorLoads::End(NeedId need, const absl::Status& status) {
  const auto it = waits_.find(need);
  if (it == waits_.end()) return;
  const std::vector<AdapterWait> waits = std::move(it->second);
  waits_.erase(it);
  to_ask_.erase(std::remove(to_ask_.begin(), to_ask_.end(), need), to_ask_.end());
  for (const AdapterWait& wait : waits) wait.done(status);
}

void OperatorLoads::EndAll(const absl::Status& status) {
  to_ask_.clear();
  for (const auto& [need, waits] : std::exchange(waits_, {})) {
    for (const AdapterWait& wait : waits) wait.done(status);
  }
}

}  // namespace tessera

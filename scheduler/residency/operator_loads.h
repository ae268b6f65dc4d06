// Operators who wait until a need is in the pool (Control.LoadAdapter). They are asked for in the
// order of their coming, with what running sequences need left to those.
//
// Owned by the engine core; engine thread only.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "scheduler/residency/residency.h"

namespace tessera {

class OperatorLoads final {
 public:
  // `residency` outlives this.
  explicit OperatorLoads(Residency* residency) : residency_(residency) {}

  void Add(NeedId need, AdapterWait wait);
  // A need moved: it is asked for again, or whoever waits for it fails.
  void OnChange(const NeedChange& change);
  // Wants what must be asked for, forgets who has given up, and answers who has what he wants.
  void Ask(int64_t reserve_slabs, bool alone);
  // Answers all with `status`.
  void EndAll(const absl::Status& status);

 private:
  // Whether the need must be asked for again in a later round.
  bool AskFor(NeedId need, int64_t reserve_slabs, bool alone);
  void End(NeedId need, const absl::Status& status);

  Residency* const residency_;
  absl::flat_hash_map<NeedId, std::vector<AdapterWait>> waits_;
  std::deque<NeedId> to_ask_;  // needs of waits_ that are not on their way, each once
};

}  // namespace tessera
